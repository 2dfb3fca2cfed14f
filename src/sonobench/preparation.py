"""What a run needs before it trains: cohorts that are checked, decoded and divided."""

import logging
import os
import shutil
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
    Merging,
    audit,
    load_cohort,
    make_splits,
    make_subjects,
    pseudonym_key,
    pseudonymised,
    refuse_conflicts,
    refuse_duplicates,
    spellings,
)
from sonobench.encoders import file_sha256
from sonobench.engine import Job, LocalEngine, Store
from sonobench.images import Geometry, read_index
from sonobench.preflight import NOT_JUDGED, foreseen
from sonobench.protocol import Protocol
from sonobench.tables import SAMPLES, SPLITS, TableError, check, read_json

_logger = logging.getLogger("sonobench")

# Of each cohort, by name: what was left out, file and reason.
LeftOut = dict[str, list[str]]


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
        # Their images and tables are read as if they were somebody's own.
        for job in phantoms.values():
            store.set_aside_if_damaged(job.tasks[0])
        stop_on_failure(engine, list(phantoms.values()))
    cohorts = []
    for dataset in datasets:
        phantom = None
        if dataset.loader == "phantom":
            phantom = store.folder(phantoms[dataset.seed].tasks[0])
        cohort = load_cohort(dataset, data_root, phantom)
        cohort.check_labels(protocol.classes, "the protocol's")
        if dataset.classes is not None:
            cohort.check_labels(dataset.classes, "its own")
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
        DatasetError: the folder's audit says so, or is damaged and what it said is not known.
    """
    if _has_pseudonyms(out):
        raise DatasetError(
            f"{out} holds a run with pseudonyms; go on with --pseudonymise, or choose another "
            "folder (--out)"
        )


def forget_names(out: Path) -> None:
    """What was left under the patients' own ids does not stay in a run with pseudonyms.

    `data audit` leaves its findings, and a run that was stopped its log and why its jobs failed.

    Raises:
        DatasetError: the folder holds a whole run under the patients' own ids, or one of which
            that is not known, as its audit is damaged.
    """
    if _has_pseudonyms(out):
        return
    if (out / "samples.parquet").exists():
        raise DatasetError(
            f"{out} holds a run under the patients' own ids; choose another folder (--out) for one "
            "with --pseudonymise"
        )
    for name in ("audit.json", "log.txt"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "store" / "failures", ignore_errors=True)


def _has_pseudonyms(out: Path) -> bool | None:
    """Whether the run in a folder has pseudonyms; None where there is no audit of it.

    Raises:
        DatasetError: its audit is damaged, and the manifest does not say it either.
    """
    audit = out / "audit.json"
    if not audit.is_file():
        return None
    try:
        return bool(read_json(audit).get("pseudonymised"))
    except TableError as error:
        damaged = str(error)
    if not (out / "samples.parquet").exists():
        # What `data audit` leaves has none.
        return False
    try:
        return bool(read_json(out / "manifest.json", ["pseudonymised"])["pseudonymised"])
    except TableError:
        raise DatasetError(
            f"{damaged}. It says whether the run in {out} has pseudonyms: if that is as in this "
            "one, delete it and start again, otherwise choose another folder (--out)"
        ) from None


def hash_files(cohorts: Sequence[Cohort], unreadable: str) -> tuple[dict[str, Files], LeftOut]:
    """SHA-256 of every image file.

    Args:
        cohorts: whose files.
        unreadable: `stop`, or `leave_out` those that are not there or cannot be read.

    Returns:
        Files of each cohort by name, and messages of what was left out.

    Raises:
        DatasetError: files are missing or cannot be read and `unreadable` is stop.
    """
    result, left_out = {}, {}
    for cohort in cohorts:
        paths = cohort.files()
        # All that are missing are told before hours of reading.
        there = np.array([path.is_file() for path in paths], dtype=bool)
        absent = _messages(cohort, ~there, ["no such file"] * int((~there).sum()))
        _stop_or_note(absent, len(paths), cohort.name, unreadable)
        kept = replace(cohort, samples=cohort.samples[there].reset_index(drop=True))
        _logger.info("reading %s: %d image files", cohort.name, len(kept.samples))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(_hash, kept.files()))
        read = np.array([reason == "" for _, reason in found], dtype=bool)
        broken = _messages(kept, ~read, [reason for _, reason in found if reason])
        _stop_or_note(broken, len(paths), cohort.name, unreadable)
        kept = replace(kept, samples=kept.samples[read].reset_index(drop=True))
        result[cohort.name] = Files(kept, tuple(sha256 for sha256, reason in found if not reason))
        left_out[cohort.name] = absent + broken
    return result, left_out


def _hash(file: Path) -> tuple[str, str]:
    """SHA-256 of a file, or why it cannot be read."""
    try:
        return file_sha256(file), ""
    except OSError as error:
        return "", f"cannot be read ({error.strerror})"


def _messages(cohort: Cohort, bad: npt.NDArray[np.bool_], reasons: Sequence[str]) -> list[str]:
    """A message for each sample that is `bad`, of which `reasons` has one each."""
    # Behind pseudonyms neither the table's name nor a folder's is told: the row finds the image.
    hidden = "file" in cohort.samples
    table = f"'{cohort.name}'" if hidden else cohort.metadata
    folder = Path() if hidden else cohort.folder
    return [
        f"{table}, row {row.row}: {folder / str(row.path)}: {reason}"
        for row, reason in zip(cohort.samples[bad].itertuples(), reasons, strict=True)
    ]


def decode_and_divide(
    protocol: Protocol,
    files: dict[str, Files],
    geometries: Mapping[str, Sequence[Geometry]],
    engine: LocalEngine,
    store: Store,
    left_out: LeftOut,
) -> Data:
    """Decode all images once, make subjects, refuse conflicts and make the splits.

    `geometries` are those that each cohort is wanted under, by its name.

    Raises:
        DatasetError: unreadable images (unless they are left out), a cohort without a single
            readable one, conflicting labels or roles, duplicates where the protocol says stop,
            folds that cannot be made, a patient in two spellings, one of which is trained on and
            the other tested, or no cohort that can be judged.
    """
    samples, positions, left_out = decode(
        files, geometries, engine, store, protocol.unreadable, left_out
    )
    for name in files:
        if not len(positions[name]):
            raise DatasetError(
                f"none of the images of '{name}' can be read; first: "
                f"{next(iter(left_out[name]), 'it has none')}. Bring its images, or take it out "
                "of the protocol."
            )
    refuse_conflicts(samples, protocol.source.name)
    if protocol.duplicates == "stop":
        refuse_duplicates(samples)
    read = samples["dataset"]
    samples, merging = with_subjects(protocol, samples)
    positions = {
        name: place[read.index[read == name].isin(samples.index)]
        for name, place in positions.items()
    }
    # Of a cohort whose images are all dropped there is nothing to embed.
    positions = {name: place for name, place in positions.items() if len(place)}
    samples = check(samples.reset_index(drop=True), SAMPLES)
    splits = check(make_splits(samples, protocol.source.name, protocol.split), SPLITS)
    found = spellings(samples, splits, [files[name].cohort for name in files])
    found += foreseen(protocol, samples, splits)
    if errors := [one for one in found if one.severity == "error"]:
        raise DatasetError("\n".join(f"'{one.cohort}': {one.message}" for one in errors))
    for one in found:
        if one.kind == NOT_JUDGED:
            _logger.warning("%s", one.message)
    for ids in merging.joined:
        _logger.info("one subject by nearly identical images: %s", " = ".join(ids))
    findings = audit(
        samples,
        splits,
        left_out,
        source=protocol.source.name,
        published={name: found.cohort.published_images for name, found in files.items()},
        unreadable=protocol.unreadable,
        merging=merging,
        further=found,
    )
    return Data(samples, splits, findings, files, positions)


def with_subjects(protocol: Protocol, samples: pd.DataFrame) -> tuple[pd.DataFrame, Merging]:
    """Subjects as the protocol has them; see `sonobench.datasets.make_subjects`."""
    return make_subjects(
        samples,
        protocol.source.name,
        drop_copies=protocol.duplicates == "drop",
        join_near_duplicates=protocol.subjects.join_near_duplicates,
    )


def decode(
    files: dict[str, Files],
    geometries: Mapping[str, Sequence[Geometry]],
    engine: LocalEngine,
    store: Store,
    unreadable: str,
    left_out: LeftOut,
) -> tuple[pd.DataFrame, dict[str, npt.NDArray[np.int64]], LeftOut]:
    """Decode all images once.

    Returns:
        Samples that could be read, with what their pixels say; each cohort's samples' positions
        in its packs, by name; `left_out` with messages of what does not decode.

    Raises:
        DatasetError: images cannot be read and `unreadable` is stop, or the metadata have changed
            since they were read.
    """
    threads = max(1, os.cpu_count() or 1)
    jobs = [
        steps.decode_job(found.cohort, found.hashes, geometries[name], threads)
        for name, found in files.items()
    ]
    for name, found in files.items():
        # What is read whole, beside the packs' many bytes.
        store.set_aside_if_damaged(steps.index_task(found.hashes))
        if steps.THUMBNAIL in geometries[name]:
            store.set_aside_if_damaged(steps.pack_task(found.hashes, steps.THUMBNAIL))
    stop_on_failure(engine, jobs)
    tables, positions, messages = [], {}, {}
    for name, found in files.items():
        index = read_index(store.folder(steps.index_task(found.hashes)))
        cohort = found.cohort
        readable = (index["error"] == "").to_numpy()
        unread = _messages(cohort, ~readable, list(index["error"][~readable]))
        _stop_or_note(unread, len(index), name, unreadable)
        messages[name] = [*left_out[name], *unread]
        facts = index.drop(columns=["channels", "error"])
        known = cohort.samples.drop(columns="file", errors="ignore")
        tables.append(pd.concat([known, facts], axis=1)[readable])
        positions[name] = np.flatnonzero(readable)
        _refuse_changed(cohort)
    return pd.concat(tables, ignore_index=True), positions, messages


def _refuse_changed(cohort: Cohort) -> None:
    """Images are read after their metadata: together they must be one state of the dataset."""
    try:
        found = file_sha256(cohort.metadata)
    except OSError:
        found = "none"
    if found != cohort.metadata_sha256:
        raise DatasetError(f"{cohort.metadata} has changed since the run began; start it again")


def stop_on_failure(engine: LocalEngine, jobs: Sequence[Job]) -> None:
    """Run jobs without which nothing can follow.

    Raises:
        DatasetError: the first failure.
    """
    if failures := engine.run(jobs):
        raise DatasetError(f"{failures[0].job}: {failures[0].error}")


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
