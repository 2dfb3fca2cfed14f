"""What a run needs before it trains: cohorts that are checked, encoders that are found."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench import steps
from sonobench.datasets import (
    Cohort,
    DatasetError,
    Finding,
    audit,
    duplicate_groups,
    load_cohort,
    make_splits,
    merge_subjects,
    pseudonym_key,
    pseudonymised,
    refuse_conflicts,
)
from sonobench.encoders import (
    EncoderError,
    EncoderSpec,
    WeightsMissing,
    file_sha256,
    resolve,
)
from sonobench.engine import Job, LocalEngine, Store
from sonobench.images import Geometry, read_index
from sonobench.protocol import EncoderEntry, Protocol, Training
from sonobench.tables import SAMPLES, SPLITS, check

_logger = logging.getLogger("sonobench")


@dataclass(frozen=True)
class Member:
    """An encoder that takes part: its specs (one a seed for a random twin), or its embeddings."""

    entry: EncoderEntry
    specs: tuple[EncoderSpec, ...] = ()
    embeddings: Path | None = None

    @property
    def geometry(self) -> Geometry | None:
        """Of the pack that it reads; None for given embeddings."""
        return self.specs[0].card.preprocess.geometry if self.specs else None

    def trainings(self, protocol: Protocol) -> dict[str, Training]:
        """Its adaptations that train by gradient, by name; none where there is nothing to train."""
        if not self.specs or self.specs[0].card.parameters == 0:
            return {}
        asked = protocol.adaptations_of(self.entry).items()
        return {name: settings for name, settings in asked if isinstance(settings, Training)}


@dataclass(frozen=True)
class Skipped:
    """An encoder that does not take part, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Files:
    """A cohort whose files are there, with the SHA-256 of each."""

    cohort: Cohort
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """All cohorts, decoded and divided.

    Attributes:
        samples: the sample table, cohort by cohort.
        splits: role of every image in every fold.
        audit: what was found, for audit.json.
        files: of each cohort, by name; packs are in this order.
        positions: each cohort's samples' positions in its packs, by name.
    """

    samples: pd.DataFrame
    splits: pd.DataFrame
    audit: dict[str, Any]
    files: dict[str, Files]
    positions: dict[str, npt.NDArray[np.int64]]


def find_encoders(protocol: Protocol, data_root: Path) -> tuple[list[Member], list[Skipped]]:
    """Resolve every encoder of a protocol, its weights included.

    Raises:
        EncoderError: an unknown name or a wrong file; or weights are missing and the protocol
            says stop.
    """
    members, skipped = [], []
    for entry in protocol.encoders:
        if entry.embeddings is not None:
            file = data_root / entry.embeddings
            if not file.is_file():
                raise EncoderError(f"{entry.label}: embeddings {file} are not there")
            members.append(Member(entry, embeddings=file))
            continue
        random = str(entry.name).startswith("random:")
        try:
            # Only a random twin has more than one set of weights; the probe has one solution.
            seeds = protocol.seeds if random else protocol.seeds[:1]
            specs = tuple(resolve(entry, seed, data_root) for seed in seeds)
        except WeightsMissing as error:
            if protocol.missing_weights == "stop":
                raise
            _logger.warning("skipped: %s", error)
            skipped.append(Skipped(entry.label, str(error)))
        else:
            members.append(Member(entry, specs))
    left_out = {str(e.name) for e in protocol.encoders} - {str(m.entry.name) for m in members}
    for member in members:
        name = str(member.entry.name)
        if name.startswith("random:") and name.removeprefix("random:") in left_out:
            _logger.info("%s takes part all the same: random weights need no file", name)
    return members, skipped


def find_cohorts(
    protocol: Protocol, data_root: Path, engine: LocalEngine, store: Store
) -> list[Cohort]:
    """Read the metadata of all cohorts, source first, and check their labels.

    Raises:
        DatasetError: with file and row.
    """
    datasets = (protocol.source, *protocol.external)
    phantoms = {d.seed: steps.phantom_job(d.seed) for d in datasets if d.loader == "phantom"}
    if phantoms:
        stop_on_failure(engine, list(phantoms.values()))
    cohorts = []
    for dataset in datasets:
        phantom = None
        if dataset.loader == "phantom":
            phantom = store.folder(phantoms[dataset.seed].tasks[0])
        cohort = load_cohort(dataset, data_root, phantom)
        cohort.check_labels(protocol.classes)
        if dataset.classes is not None:
            cohort.check_labels(dataset.classes)
        cohorts.append(cohort)
    absent = sorted(set(protocol.classes) - set(cohorts[0].samples["label"]))
    if absent:
        raise DatasetError(
            f"{cohorts[0].metadata}: no image of the classes {', '.join(absent)}; models cannot "
            "be trained on them. Correct the labels, or take them out of 'classes'."
        )
    return cohorts


def with_pseudonyms(protocol: Protocol, cohorts: Sequence[Cohort]) -> list[Cohort]:
    """Cohorts with keyed hashes in place of patients and file names.

    Raises:
        DatasetError: an encoder's embeddings are given by image_id, or there is no key.
    """
    given = [entry.label for entry in protocol.encoders if entry.embeddings is not None]
    if given:
        raise DatasetError(
            f"{', '.join(given)}: embeddings that were computed elsewhere are found by image_id, "
            "and pseudonyms replace it; leave them out or run without --pseudonymise"
        )
    key = pseudonym_key()
    return [pseudonymised(cohort, key) for cohort in cohorts]


def refuse_to_name(out: Path) -> None:
    """A run that was made with pseudonyms is not gone on with under the patients' own ids.

    Raises:
        DatasetError: the folder's manifest says so.
    """
    manifest = out / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_bytes()).get("pseudonymised"):
        raise DatasetError(
            f"{out} holds a run with pseudonyms; go on with --pseudonymise, or choose another "
            "folder (--out)"
        )


def hash_files(cohorts: Sequence[Cohort], unreadable: str) -> tuple[dict[str, Files], list[str]]:
    """SHA-256 of every image file.

    Args:
        cohorts: whose files.
        unreadable: `stop`, or `leave_out` those that are not there.

    Returns:
        Files of each cohort by name, and messages of what was left out.

    Raises:
        DatasetError: files are missing and `unreadable` is stop.
    """
    result, left_out = {}, []
    for cohort in cohorts:
        paths = cohort.files()
        there = np.array([path.is_file() for path in paths])
        absent = [
            f"{cohort.metadata}, row {row.row}: {cohort.folder / str(row.path)}: no such file"
            for row in cohort.samples[~there].itertuples()
        ]
        _stop_or_note(absent, len(paths), cohort.name, unreadable)
        left_out += absent
        kept = replace(cohort, samples=cohort.samples[there].reset_index(drop=True))
        _logger.info("reading %s: %d image files", cohort.name, len(kept.samples))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            result[cohort.name] = Files(kept, tuple(pool.map(file_sha256, kept.files())))
    return result, left_out


def decode_and_divide(
    protocol: Protocol,
    files: dict[str, Files],
    geometries: Mapping[str, Sequence[Geometry]],
    engine: LocalEngine,
    store: Store,
    left_out: list[str],
) -> Data:
    """Decode all images once, merge subjects, refuse conflicts and make the splits.

    `geometries` are those that each cohort is wanted under, by its name.

    Raises:
        DatasetError: unreadable images (unless they are left out), conflicting labels or roles,
            duplicates where the protocol says stop, or folds that cannot be made.
    """
    samples, positions, unread = decode(files, geometries, engine, store, protocol.unreadable)
    left_out = left_out + unread
    refuse_conflicts(samples, protocol.source.name)
    decoded = len(samples)
    samples, positions = _handle_duplicates(protocol, samples, positions)
    dropped = []
    if copies := decoded - len(samples):
        text = f"{copies} copies of other images were dropped, as the protocol says"
        dropped.append(Finding("dropped", "info", protocol.source.name, text, copies))
    samples = check(samples, SAMPLES)
    splits = check(make_splits(samples, protocol.source.name, protocol.split), SPLITS)
    findings = audit(
        samples,
        splits,
        left_out,
        source=protocol.source.name,
        published={name: found.cohort.published_images for name, found in files.items()},
        further=dropped,
    )
    return Data(samples, splits, findings, files, positions)


def decode(
    files: dict[str, Files],
    geometries: Mapping[str, Sequence[Geometry]],
    engine: LocalEngine,
    store: Store,
    unreadable: str,
) -> tuple[pd.DataFrame, dict[str, npt.NDArray[np.int64]], list[str]]:
    """Decode all images once.

    Returns:
        Samples that could be read, with what their pixels say; each cohort's samples' positions
        in its packs, by name; messages of what was left out.

    Raises:
        DatasetError: images cannot be read and `unreadable` is stop.
    """
    threads = max(1, os.cpu_count() or 1)
    jobs = [
        steps.decode_job(found.cohort, found.hashes, geometries[name], threads)
        for name, found in files.items()
    ]
    stop_on_failure(engine, jobs)
    tables, positions, left_out = [], {}, list[str]()
    for name, found in files.items():
        index = read_index(store.folder(steps.index_task(found.hashes)))
        cohort = found.cohort
        readable = (index["error"] == "").to_numpy()
        bad = cohort.samples.assign(error=index["error"])[~readable]
        messages = [
            f"{cohort.metadata}, row {row.row}: {cohort.folder / str(row.path)}: {row.error}"
            for row in bad.itertuples()
        ]
        _stop_or_note(messages, len(index), name, unreadable)
        left_out += messages
        facts = index.drop(columns=["channels", "error"])
        known = cohort.samples.drop(columns="file", errors="ignore")
        tables.append(pd.concat([known, facts], axis=1)[readable])
        positions[name] = np.flatnonzero(readable)
    return pd.concat(tables, ignore_index=True), positions, left_out


def stop_on_failure(engine: LocalEngine, jobs: Sequence[Job]) -> None:
    """Run jobs without which nothing can follow.

    Raises:
        DatasetError: the first failure.
    """
    if failures := engine.run(jobs):
        raise DatasetError(f"{failures[0].job}: {failures[0].error}")


def _handle_duplicates(
    protocol: Protocol, samples: pd.DataFrame, positions: dict[str, npt.NDArray[np.int64]]
) -> tuple[pd.DataFrame, dict[str, npt.NDArray[np.int64]]]:
    groups = duplicate_groups(samples)
    if len(groups) and protocol.duplicates == "stop":
        first = groups[groups["pixel_sha256"] == groups["pixel_sha256"].iloc[0]]
        raise DatasetError(
            f"{groups['pixel_sha256'].nunique()} images occur more than once; first: "
            + " = ".join(f"{row.image_id} (row {row.row})" for row in first.itertuples())
            + ". Take the copies out, or set 'duplicates' to merge_subjects or drop."
        )
    if protocol.duplicates == "drop":
        copies = set(groups.loc[groups.duplicated("pixel_sha256"), "image_id"])
        kept = ~samples["image_id"].isin(copies)
        positions = {
            name: place[kept[(samples["dataset"] == name).to_numpy()].to_numpy()]
            for name, place in positions.items()
        }
        samples = samples[kept].reset_index(drop=True)
    return samples.assign(subject_id=merge_subjects(samples)), positions


def _stop_or_note(messages: list[str], total: int, name: str, unreadable: str) -> None:
    if not messages:
        return
    if unreadable == "stop":
        more = f"\n  … and {len(messages) - 10} more" if len(messages) > 10 else ""
        raise DatasetError(
            f"{len(messages)} of {total} images of '{name}' cannot be read:\n  "
            + "\n  ".join(messages[:10])
            + more
            + "\nRepair or remove them, or set 'unreadable' to leave_out; where only a part of a "
            "dataset is here, set its 'partial' to true."
        )
    for message in messages:
        _logger.warning("left out: %s", message)
