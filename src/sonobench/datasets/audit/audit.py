"""The whole audit: plain data for audit.json, with the findings as sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from sonobench.datasets.audit.attributes import (
    attribute_counts,
    confounding,
    imbalance,
    several_sites,
)
from sonobench.datasets.audit.duplicates import exact_duplicates, label_conflicts, leaks
from sonobench.datasets.audit.finding import SEVERITIES, Finding, Severity
from sonobench.datasets.audit.near_duplicates import near_duplicates
from sonobench.datasets.audit.shortcuts import (
    burned_in,
    graphics_shares,
    looks,
    path_leak,
    size_or_intensity,
)
from sonobench.datasets.near_pairs import near_pairs
from sonobench.datasets.subjects import Merging, duplicate_groups


def audit(
    samples: pd.DataFrame,
    splits: pd.DataFrame | None,
    left_out: Mapping[str, Sequence[str]],
    *,
    source: str,
    published: Mapping[str, int | None],
    unreadable: str = "leave_out",
    merging: Merging | None = None,
    further: Sequence[Finding] = (),
) -> dict[str, Any]:
    """Everything that must be known of the data before anything is trained.

    Args:
        samples: the sample table. Without the columns that decoding gives (pixel_sha256, width …)
            only what the metadata tell is audited.
        splits: roles; None where there are none yet.
        left_out: messages of the images that are not there or do not decode, by cohort.
        source: the cohort that is trained on.
        published: of each cohort, how many images are published.
        unreadable: what the protocol says of images that cannot be read.
        merging: how subjects were made. Rows that it dropped are here, nonetheless. If None, none
            were dropped or joined.
        further: findings made elsewhere.

    Returns:
        `findings` (errors first), `known_counts`, `cohorts` (counts, a cohort each),
        `near_duplicates`, `images_of_each_role`, `images_shared_between_cohorts`, `left_out`.
    """
    decoded = "pixel_sha256" in samples
    excluded = set[str]()
    if splits is not None:
        excluded = set(splits.loc[splits["role"] == "excluded", "image_id"])
    if decoded:
        size = samples["width"].astype(str) + "×" + samples["height"].astype(str)
        samples = samples.assign(size=size)
    copies = samples[:0] if merging is None else merging.dropped
    # A run refuses conflicts before it drops one of the two rows.
    whole = pd.concat([samples, copies]) if len(copies) else samples
    findings = [*further, *leaks(whole, splits, source)]
    cohorts = {}
    for name, frame in samples.groupby("dataset", sort=False):
        cohorts[str(name)] = _counts_of(frame, excluded, decoded)
        findings += confounding(str(name), frame)
        findings += imbalance(str(name), frame)
        findings += several_sites(str(name), frame)
        findings += path_leak(str(name), frame)
        findings += burned_in(str(name), frame) if decoded else []
    near: dict[str, Any] = {}
    if decoded:
        findings += [*label_conflicts(whole), *exact_duplicates(samples, source)]
        findings += size_or_intensity(samples, source)
        merging = merging or Merging(near_pairs(samples), copies)
        findings += near_duplicates(samples, splits, merging)
        near = {
            "pairs": merging.near.count,
            "pairs_of_different_subjects": merging.near.between_subjects,
            "nearest": merging.near.nearest.to_dict("records"),
            "joined_subjects": [list(ids) for ids in merging.joined],
        }
    here = whole["dataset"].value_counts()
    findings += _partial_copies(here, published)
    for name, rows in copies.groupby("dataset", sort=False):
        text = f"{len(rows)} copies of other images were dropped, as the protocol says"
        some = Finding.some(rows["image_id"])
        findings.append(Finding("dropped", "info", str(name), text, len(rows), some))
    for name, messages in left_out.items():
        if messages:
            text = f"{len(messages)} images could not be read; first: {messages[0]}"
            severity: Severity = "error" if unreadable == "stop" else "warning"
            findings.append(Finding("unreadable", severity, name, text, len(messages)))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return {
        "findings": [asdict(finding) for finding in findings],
        "known_counts": {
            name: {"published_images": count, "here": int(here.get(name, 0))}
            for name, count in published.items()
        },
        "cohorts": cohorts,
        "near_duplicates": near,
        "images_shared_between_cohorts": int(
            (samples.groupby("pixel_sha256")["dataset"].nunique() > 1).sum()
        )
        if decoded
        else 0,
        "left_out": [message for messages in left_out.values() for message in messages],
        "images_of_each_role": _roles(samples, splits) if splits is not None else {},
    }


def _counts_of(frame: pd.DataFrame, excluded: set[str], decoded: bool) -> dict[str, Any]:
    per_patient = frame["patient_id"].value_counts()
    several = {
        name: int((frame.groupby("patient_id")[name].nunique() > 1).sum())
        for name in ("site", "device", "operator")
    }
    counts: dict[str, Any] = {
        "images": len(frame),
        "patients": int(frame["patient_id"].nunique()),
        "excluded_images": int(frame["image_id"].isin(excluded).sum()),
        "images_of_each_class": _counts(frame["label"]),
        "classes": {
            str(label): {"all": _amount(rows)} | _amounts_of_parts(rows)
            for label, rows in frame.groupby("label")
        },
        "parts": _amounts_of_parts(frame),
        "images_a_patient": {
            "mean": round(float(per_patient.mean()), 2),
            "median": float(per_patient.median()),
            "maximum": int(per_patient.max()),
            "patient": str(per_patient.index[0]),
        },
        "patients_of_several": several,
        "attributes": attribute_counts(frame),
    }
    return counts | (_pixel_counts(frame) if decoded else {})


def _pixel_counts(frame: pd.DataFrame) -> dict[str, Any]:
    groups = duplicate_groups(frame).groupby("pixel_sha256")
    parts = frame.groupby("subject_id")["official_split"].nunique()
    torn = frame[frame["subject_id"].isin(parts.index[parts > 1])]
    return {
        "distinct_images": int(frame["pixel_sha256"].nunique()),
        "subjects": int(frame["subject_id"].nunique()),
        "duplicate_sets": groups.ngroups,
        "duplicate_sets_across_patients": int((groups["patient_id"].nunique() > 1).sum()),
        "duplicate_sets_across_published_split": int(
            (groups["official_split"].nunique() > 1).sum()
        ),
        "duplicates": [list(ids) for _, ids in groups["image_id"]],
        "subjects_across_published_split": int(torn["subject_id"].nunique()),
        "test_images_of_those_subjects": int((torn["official_split"] == "test").sum()),
        "sites": {
            str(site): {
                "distinct_images": int(rows["pixel_sha256"].nunique()),
                "subjects": int(rows["subject_id"].nunique()),
                **looks(rows),
            }
            for site, rows in frame.groupby("site")
        },
        "devices": {str(device): looks(rows) for device, rows in frame.groupby("device")},
        "looks": looks(frame),
        "burned_in": graphics_shares(frame),
    }


def _partial_copies(here: pd.Series, published: Mapping[str, int | None]) -> list[Finding]:
    return [
        Finding(
            "partial_copy",
            "warning",
            name,
            f"{int(here.get(name, 0)):,} of {count:,} published images are here",
            int(here.get(name, 0)),
        )
        for name, count in published.items()
        if count is not None and here.get(name, 0) < count
    ]


def _roles(samples: pd.DataFrame, splits: pd.DataFrame) -> dict[str, Any]:
    roles = splits.merge(samples[["image_id", "label"]], on="image_id")
    return {
        f"fold {fold}": {str(part): _counts(rows["label"]) for part, rows in frame.groupby("role")}
        for fold, frame in roles.groupby("fold")
    }


def _amounts_of_parts(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    return {str(part): _amount(own) for part, own in rows.groupby("official_split")}


def _amount(rows: pd.DataFrame) -> dict[str, int]:
    return {"images": len(rows), "patients": int(rows["patient_id"].nunique())}


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}
