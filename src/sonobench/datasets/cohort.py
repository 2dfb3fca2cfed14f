"""A cohort as its loader found it: who was scanned, before anything is decoded."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sonobench.tables import one_slip_apart


class DatasetError(ValueError):
    """Images or metadata that cannot be used; the message says file, row and what to do."""


@dataclass(frozen=True)
class Cohort:
    """Samples of one dataset before its images are decoded.

    Attributes:
        name: the dataset's name in the protocol.
        folder: what `path` in the samples is relative to.
        metadata: the file that the samples came from, for messages.
        samples: the columns of the sample table but pixel_sha256 and subject_id, and `row`, the
            line of the metadata file; `file` where `path` is not the file's own name.
        published_images: how many images the published dataset has; None where none is published.
        look_alike: patient ids that are probably one patient's, spelled in several ways, a group
            each (`sonobench.tables.look_alike`); `load_cohort` finds them.
        impersonal: further columns that tell nothing of a person, and may stand beside pseudonyms.
        metadata_sha256: of the bytes of the metadata file that were read; if empty, `load_cohort`
            takes those that are there.
    """

    name: str
    folder: Path
    metadata: Path
    samples: pd.DataFrame
    published_images: int | None = None
    look_alike: tuple[tuple[str, ...], ...] = ()
    impersonal: tuple[str, ...] = ()
    metadata_sha256: str = ""

    def files(self) -> list[Path]:
        """Image files, in the order of the samples."""
        names = self.samples["file" if "file" in self.samples else "path"]
        return [self.folder / name for name in names]

    def check_labels(self, classes: tuple[str, ...], whose: str) -> None:
        """Every label must be one of `classes`.

        Args:
            classes: those that there are.
            whose: `the protocol's`, or `its own`, for the message.

        Raises:
            DatasetError: with the first row of each label that is not.
        """
        unknown = self.samples[~self.samples["label"].isin(classes)].drop_duplicates("label")
        if len(unknown):
            rows = "; ".join(
                f"'{s.label}' (row {s.row}{_meant(str(s.label), classes)})"
                for s in unknown.itertuples()
            )
            raise DatasetError(
                f"{self.metadata}: labels of dataset '{self.name}' that are not among {whose} "
                f"classes ({', '.join(classes)}): {rows}. Correct the labels, say in a 'labels' "
                "file which class each is, or add the class to those 'classes'."
            )


def _meant(label: str, classes: tuple[str, ...]) -> str:
    """The class that a label is probably a misspelling of, as the end of a remark on it."""
    near = [name for name in classes if one_slip_apart(label, name)]
    return f"; did you mean '{near[0]}'?" if near else ""
