"""What is known of a published dataset's archive, and whether it is here."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """Facts of a published dataset.

    Attributes:
        name: of its loader.
        title: what people call it.
        doi: of the record that publishes it.
        record: address of the record's own metadata, which list size and checksum of every file.
        file: the archive's name in the record.
        folder: the folder that it makes in the data root.
        metadata: the CSV file in that folder.
        metadata_sha256: of the CSV as published.
        images, patients: published counts.
        largest_size: bytes that it may unpack to; more is not the published archive.
        licence: name and address.
        citation: of the paper.
    """

    name: str
    title: str
    doi: str
    record: str
    file: str
    folder: str
    metadata: str
    metadata_sha256: str
    images: int
    patients: int
    largest_size: int
    licence: str
    citation: str

    def missing(self, metadata: Path) -> str:
        """The message for a dataset that is not here: how it comes here."""
        first = f"Move {metadata.parent} away; then " if metadata.parent.exists() else ""
        return (
            f"{metadata}: not there. {first}`sonobench data fetch {self.name}` brings the dataset. "
            f"{self.by_hand()}"
        )

    def by_hand(self) -> str:
        """How the dataset comes to a machine without a network."""
        return (
            f"Without a network: bring {self.file} from https://doi.org/{self.doi} and unpack it "
            f"with `sonobench data import {self.name} {self.file}`."
        )

    def terms(self) -> str:
        """Source, licence and citation, for people."""
        return (
            f"{self.title}\n"
            f"Source: https://doi.org/{self.doi}\n"
            f"Licence: {self.licence}\n"
            f"Cite: {self.citation}\n"
        )
