"""The audit of a protocol's cohorts without a run: it stops at nothing and says everything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonobench.datasets import (
    Cohort,
    DatasetError,
    Finding,
    audit,
    make_splits,
    merge_subjects,
)
from sonobench.engine import LocalEngine, Store
from sonobench.preparation import decode, find_cohorts, hash_files
from sonobench.protocol import Protocol


def audit_protocol(protocol: Protocol, data_root: Path, store: Store) -> dict[str, Any]:
    """Audit all cohorts of a protocol.

    Cohorts without a single image here are audited by their metadata alone.

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
    absent = [c for c in cohorts if c.name not in {known.name for known in here}]
    source = protocol.source.name
    parts = []
    if here:
        parts.append(_audit_images(protocol, here, engine, store))
    for cohort in absent:
        message = f"none of its {len(cohort.samples):,} images is here: only metadata were audited"
        unread = Finding("unreadable", "error", cohort.name, message, len(cohort.samples))
        published = {cohort.name: cohort.published_images}
        samples = cohort.samples.assign(subject_id=cohort.samples["patient_id"])
        parts.append(audit(samples, None, [], source=source, published=published, further=[unread]))
    return _together(parts)


def _audit_images(
    protocol: Protocol, cohorts: list[Cohort], engine: LocalEngine, store: Store
) -> dict[str, Any]:
    files, left_out = hash_files(cohorts, "leave_out")
    samples, _, unread = decode(files, dict.fromkeys(files, ()), engine, store, "leave_out")
    samples["subject_id"] = merge_subjects(samples)
    source = protocol.source.name
    splits, further = None, []
    if source in set(samples["dataset"]):
        try:
            splits = make_splits(samples, source, protocol.split)
        except DatasetError as error:
            further.append(Finding("split", "error", source, str(error), 0))
    return audit(
        samples,
        splits,
        left_out + unread,
        source=source,
        published={cohort.name: cohort.published_images for cohort in cohorts},
        further=further,
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
    order = ("error", "warning", "info")
    whole["findings"] = sorted(whole["findings"], key=lambda f: order.index(f["severity"]))
    return whole
