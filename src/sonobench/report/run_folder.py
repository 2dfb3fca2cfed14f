"""What a run left, read and checked: everything of the report that is not a result."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from sonobench.protocol import Protocol, load_protocol, safe_name
from sonobench.tables import (
    SAMPLES,
    SPLITS,
    TableError,
    read_json,
    read_parquet,
    read_table,
    read_texts,
)

# What is looked up in them without asking whether it is there.
_OF_MANIFEST = ("encoders", "skipped", "failures", "packages", "datasets")
_OF_AUDIT = ("cohorts", "left_out", "images_shared_between_cohorts")


@dataclass(frozen=True)
class Ended:
    """How some trainings of a model ended: how many of all of its folds and seeds, and why."""

    status: str
    count: int
    of: int
    reason: str

    def __str__(self) -> str:
        """In words: what became of how many, and of the first of them why."""
        how = {"diverged": "diverged", "at_chance": "stayed at chance"}[self.status]
        return f"{self.count} of {self.of} trainings {how}: {self.reason}"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder but for its predictions.

    Attributes:
        protocol: what was to be measured.
        protocol_text: its file, word for word.
        manifest: versions, hardware, encoders, what was skipped or failed.
        audit: findings about the data.
        samples, splits: the tables.
        probe: one row an encoder, seed, fold and λ that was fitted; None without a linear probe.
        finetune: one row a fine-tuned model, fold and epoch; None without fine-tuning.
        learning_rate_search: one row an encoder and learning rate that was tried; None without.
        projection: each encoder's features in two dimensions; None without embeddings.
        neighbours: nearest training images of tested ones; None without embeddings.
        certificates: of admission, by the encoder's label; encoders without one are not in it.
        thumbnails: picture files by image_id; none where pictures were left out.
    """

    protocol: Protocol
    protocol_text: str
    manifest: dict[str, Any]
    audit: dict[str, Any]
    samples: pd.DataFrame
    splits: pd.DataFrame
    probe: pd.DataFrame | None
    finetune: pd.DataFrame | None
    learning_rate_search: pd.DataFrame | None
    projection: pd.DataFrame | None
    neighbours: pd.DataFrame | None
    certificates: dict[str, dict[str, Any]]
    thumbnails: dict[str, Path]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a run's folder.

        Raises:
            TableError, ProtocolError: a file is missing or wrong; the message names it.
        """
        protocol = load_protocol(folder / "protocol.yaml")
        diagnostics = folder / "diagnostics"
        certificates = {
            entry.label: diagnostics / "certificates" / f"{safe_name(entry.label)}.json"
            for entry in protocol.encoders
        }
        return cls(
            protocol,
            (folder / "protocol.yaml").read_text(encoding="utf-8"),
            read_json(folder / "manifest.json", _OF_MANIFEST),
            read_json(folder / "audit.json", _OF_AUDIT),
            read_table(folder / "samples.parquet", SAMPLES),
            read_table(folder / "splits.parquet", SPLITS),
            _read_optional(diagnostics / "probe.parquet"),
            _read_optional(diagnostics / "finetune.parquet"),
            _read_optional(diagnostics / "learning_rate_search.parquet"),
            _read_optional(diagnostics / "projection.parquet"),
            _read_optional(diagnostics / "neighbours.parquet"),
            {label: read_json(file) for label, file in certificates.items() if file.is_file()},
            _read_thumbnails(diagnostics / "thumbnails" / "index.csv"),
        )

    @cached_property
    def _records(self) -> dict[str, dict[str, Any]]:
        return {record["label"]: record for record in self.manifest["encoders"]}

    def encoder(self, label: str) -> dict[str, Any]:
        """The manifest's record of an encoder; empty for `none`, the majority class' encoder."""
        return self._records.get(label, {})

    def is_control(self, encoder: str, adaptation: str) -> bool:
        """Whether a model is there to be compared with, not to be chosen."""
        return adaptation == "majority_class" or bool(self.encoder(encoder).get("control"))

    def is_random_looking(self, encoder: str) -> bool:
        """Whether admission found random weights where trained ones are claimed."""
        record, certificate = self.encoder(encoder), self.certificates.get(encoder, {})
        return bool(certificate.get("random_looking")) and not record.get("control")

    @property
    def controls(self) -> frozenset[str]:
        """Labels of control encoders."""
        return frozenset(label for label, r in self._records.items() if r.get("control"))

    @property
    def trainings(self) -> list[tuple[int, int]]:
        """Seed and fold of every model that is trained of an encoder and adaptation."""
        folds = range(self.protocol.split.folds)
        return [(seed, fold) for seed in self.protocol.seeds for fold in folds]

    def training_ended(self, encoder: str, adaptation: str) -> dict[str, Ended]:
        """How trainings by gradient ended that did not go well: `diverged`, `at_chance`."""
        if self.finetune is None:
            return {}
        rows = self.finetune[
            (self.finetune["encoder"] == encoder) & (self.finetune["adaptation"] == adaptation)
        ].drop_duplicates(["seed", "fold"])
        found = {}
        for status in ("diverged", "at_chance"):
            if len(ended := rows[rows["status"] == status]):
                reason = str(ended["status_reason"].iloc[0])
                found[status] = Ended(status, len(ended), len(self.trainings), reason)
        return found

    def unconverged(self, encoder: str) -> int:
        """Chosen probes of an encoder, over folds and seeds, that the solver did not finish."""
        if self.probe is None:
            return 0
        chosen = self.probe[self.probe["chosen"] & (self.probe["encoder"] == encoder)]
        return int((~chosen["converged"]).sum())


def _read_optional(file: Path) -> pd.DataFrame | None:
    return read_parquet(file) if file.is_file() else None


def _read_thumbnails(index: Path) -> dict[str, Path]:
    if not index.is_file():
        return {}
    pictures = read_texts(index, ("image_id", "file"))
    if absent := [file for file in pictures["file"] if not (index.parent / file).is_file()]:
        raise TableError(
            f"{index}: {len(absent)} of its pictures are not there, first {absent[0]}; the same "
            "`sonobench run` again makes them anew"
        )
    files = zip(pictures["image_id"], pictures["file"], strict=True)
    return {image_id: index.parent / file for image_id, file in files}
