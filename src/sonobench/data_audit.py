"""The audit of a protocol's cohorts without a run: all that is wrong, where a run stops at once."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from sonobench.datasets import (
    SEVERITIES,
    Cohort,
    DatasetError,
    Finding,
    audit,
    make_splits,
    refuse_duplicates,
    spellings,
)
from sonobench.engine import LocalEngine, Store
from sonobench.preflight import foreseen, foreseen_of_metadata
from sonobench.preparation import LeftOut, decode, find_cohorts, hash_files, with_subjects
from sonobench.protocol import Protocol


def audit_protocol(protocol: Protocol, data_root: Path, store: Store) -> dict[str, Any]:
    """Audit all cohorts of a protocol.

    Cohorts without a single image that can be read are audited by their metadata alone.

    Args:
        protocol: whose cohorts.
        data_root: what their paths are relative to.
        store: keeps what decoding found; a run with the same store does not decode again.

    Returns:
        As `sonobench.datasets.audit`.

    Raises:
        DatasetError: metadata that cannot be read.
    """
    engine = LocalEngine(store, 1)
    cohorts = find_cohorts(protocol, data_root, engine, store)
    here = [cohort for cohort in cohorts if any(file.is_file() for file in cohort.files())]
    parts, seen, left_out = [], set[str](), LeftOut()
    if here:
        files, left_out = hash_files(here, "leave_out")
        geometries = dict.fromkeys(files, ())
        samples, _, left_out = decode(files, geometries, engine, store, "leave_out", left_out)
        seen = set(samples["dataset"])
        if seen:
            parts.append(_audit_images(protocol, here, samples, left_out))
    for cohort in cohorts:
        if cohort.name not in seen:
            parts.append(_audit_metadata(protocol, cohort, left_out.get(cohort.name, [])))
    if not seen:
        parts[0]["findings"] += _foreseen_of_metadata(protocol, cohorts)
    return _together(parts)


def _foreseen_of_metadata(protocol: Protocol, cohorts: list[Cohort]) -> list[dict[str, Any]]:
    try:
        found = foreseen_of_metadata(protocol, cohorts)
    except DatasetError as error:
        found = [Finding("split", "error", protocol.source.name, str(error), 0)]
    return [asdict(one) for one in found]


def _audit_images(
    protocol: Protocol, cohorts: list[Cohort], samples: pd.DataFrame, left_out: LeftOut
) -> dict[str, Any]:
    source = protocol.source.name
    further = []
    if protocol.duplicates == "stop":
        try:
            refuse_duplicates(samples)
        except DatasetError as error:
            further.append(Finding("duplicates", "error", source, str(error), 0))
    samples, merging = with_subjects(protocol, samples)
    samples = samples.reset_index(drop=True)
    seen = {*samples["dataset"], *merging.dropped["dataset"]}
    splits = None
    if source in set(samples["dataset"]):
        try:
            splits = make_splits(samples, source, protocol.split)
        except DatasetError as error:
            further.append(Finding("split", "error", source, str(error), 0))
        else:
            found = foreseen(protocol, samples, splits)
            further += [one for one in found if one.cohort in seen]
    further += spellings(samples, splits, cohorts)
    return audit(
        samples,
        splits,
        {name: messages for name, messages in left_out.items() if name in seen},
        source=source,
        published={c.name: c.published_images for c in cohorts if c.name in seen},
        unreadable=protocol.unreadable,
        merging=merging,
        further=further,
    )


def _audit_metadata(protocol: Protocol, cohort: Cohort, left_out: list[str]) -> dict[str, Any]:
    count = len(cohort.samples)
    first = left_out[0] if left_out else f"{cohort.files()[0]}: no such file"
    message = (
        f"none of its {count:,} images can be read: only metadata were audited; first: {first}"
    )
    samples = cohort.samples.assign(subject_id=cohort.samples["patient_id"])
    return audit(
        samples,
        None,
        {},
        source=protocol.source.name,
        published={cohort.name: cohort.published_images},
        further=[
            Finding("unreadable", "error", cohort.name, message, count),
            *spellings(samples, None, [cohort]),
        ],
    )


def _together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One audit of several: lists are joined, counts added, and errors stay first."""
    whole = dict(parts[0])
    for part in parts[1:]:
        for key, value in part.items():
            if isinstance(value, Mapping):
                whole[key] = {**whole[key], **value}
            else:
                whole[key] = whole[key] + value
    whole["findings"].sort(key=lambda finding: SEVERITIES.index(finding["severity"]))
    return whole
