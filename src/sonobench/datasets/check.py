"""Everything that is wrong with a manifest and its images, at once."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sonobench.datasets import manifest
from sonobench.datasets.audit.duplicates import exact_duplicates, label_conflicts, leaks
from sonobench.datasets.subjects import duplicate_groups
from sonobench.images import CannotDecode, UnreadableImage, decode
from sonobench.tables import fault_of_class, fault_of_id, look_alike, missing_value, one_slip_apart

_NAME = "manifest"
# Files that are not there and are named one by one; images that a thread takes at a time.
_SHOWN, _SHARD = 20, 16
# Labels are compared with so many of the most frequent ones: who has more has other worries.
_KNOWN_LABELS = 200


@dataclass(frozen=True)
class Checked:
    """A manifest that was looked through.

    Attributes:
        samples: its rows, as far as they could be read.
        problems: what must be mended, each with its row.
        doubts: what may be right, but should be looked at.
    """

    samples: pd.DataFrame
    problems: tuple[str, ...]
    doubts: tuple[str, ...] = ()


def check_manifest(file: Path, progress: Callable[[int, int], None]) -> Checked:
    """Read a manifest and decode all of its images.

    Args:
        file: the CSV.
        progress: called with the number of images that are done and that there are.

    Raises:
        DatasetError: the file cannot be read as a table at all.
    """
    rows, problems = manifest.read(_NAME, file)
    samples = pd.DataFrame(rows)
    messages = list(problems.messages)
    if samples.empty:
        return Checked(samples, (*messages, "no images: there is only the header"))
    found = _read_all(file.parent, rows, progress)
    named = [(row, image) for row, image in zip(rows, found, strict=True) if row["path"]]
    messages += _absent([row for row, image in named if image.absent])
    messages += [
        f"row {row['row']}: {row['path']}: {image.reason}" for row, image in named if image.reason
    ]
    samples["pixel_sha256"] = pd.Series([image.sha256 for image in found], dtype=object)
    read = samples[samples["pixel_sha256"].notna()]
    messages += [found.message for found in label_conflicts(read)]
    messages += [
        f"{found.message}; first: {' = '.join(found.image_ids[:2])}"
        for found in exact_duplicates(read, _NAME)
        if found.kind == "duplicates_across_split"
    ]
    # What has no patient was told above; it is not one patient.
    known = samples[samples["patient_id"] != f"{_NAME}/"]
    messages += [found.message for found in leaks(known, None, _NAME)]
    messages += _missing_labels(samples)
    messages += _spelled_in_several_ways(known)
    doubts = (*_two_patients(read), *_turned(named), *_misspelled(samples), *_unfit_split(samples))
    return Checked(samples, tuple(messages), doubts)


@dataclass(frozen=True)
class _Image:
    """What a file gave: the hash of its pixels, or that it is absent, or why it cannot be read."""

    sha256: str | None = None
    orientation: int = 1
    absent: bool = False
    reason: str = ""


def _read_all(
    folder: Path, rows: Sequence[dict[str, Any]], progress: Callable[[int, int], None]
) -> list[_Image]:
    shards = [rows[start : start + _SHARD] for start in range(0, len(rows), _SHARD)]
    found = list[_Image]()
    with ThreadPoolExecutor() as pool:
        for images in pool.map(lambda shard: [_read(folder, row["path"]) for row in shard], shards):
            found += images
            progress(len(found), len(rows))
    return found


def _read(folder: Path, path: str) -> _Image:
    # Told from here, as a manifest of a million files in another place should not take minutes.
    if not os.path.lexists(os.path.join(folder, path)):  # noqa: PTH118
        return _Image(absent=True)
    try:
        decoded = decode(folder / path)
    except (UnreadableImage, CannotDecode) as error:
        return _Image(reason=error.reason)
    return _Image(decoded.sha256, decoded.orientation)


def _absent(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Files that are not there: the first ones by name, and how many more there are."""
    told = [f"row {row['row']}: {row['path']}: no such file" for row in rows[:_SHOWN]]
    if more := rows[_SHOWN:]:
        told.append(
            f"rows {more[0]['row']} … {more[-1]['row']}: {len(more):,} more files are not there; "
            "paths are relative to the manifest's folder"
        )
    return told


def _turned(named: Sequence[tuple[dict[str, Any], _Image]]) -> list[str]:
    """Images with an EXIF orientation, which viewers turn and networks do not see turned."""
    turned = [(row, image.orientation) for row, image in named if image.orientation != 1]
    if not turned:
        return []
    first = ", ".join(
        f"{row['path']} (row {row['row']}, orientation {orientation})"
        for row, orientation in turned[:3]
    )
    return [
        f"{len(turned):,} images have an EXIF orientation, by which viewers turn them; first: "
        f"{first}. Their pixels are taken as they are stored; store them turned if they are to be "
        "seen so"
    ]


def _two_patients(samples: pd.DataFrame) -> list[str]:
    """Images that stand under two patients: one of the ids is mistyped, or both are one patient."""
    groups = duplicate_groups(samples)
    patients = groups.groupby("pixel_sha256")["patient_id"].transform("nunique")
    told = []
    for _, rows in groups[patients > 1].groupby("pixel_sha256"):
        places = [
            f"{row['path']} (row {row['row']}, patient {str(row['patient_id'])[len(_NAME) + 1 :]})"
            for row in rows.to_dict("records")
        ]
        told.append(
            f"one image under two patients: {' = '.join(places)}; a run takes them for one "
            "patient, unless 'duplicates' says otherwise"
        )
    return told


def _spelled_in_several_ways(samples: pd.DataFrame) -> list[str]:
    """Patient ids that differ in what spreadsheets and people change: 007, 7, 7.0; p1, P-1."""
    row = samples.drop_duplicates("patient_id").set_index("patient_id")["row"]
    return [
        "patients that look like one, spelled in several ways: "
        + ", ".join(f"'{name[len(_NAME) + 1 :]}' (row {row[name]})" for name in group)
        + "; spell a patient in one way, or call two patients differently"
        for group in look_alike(
            name for name in row.index if not fault_of_id(name[len(_NAME) + 1 :])
        )
    ]


def _missing_labels(samples: pd.DataFrame) -> list[str]:
    """Labels that programs write for a missing value; a protocol can have a class of that name."""
    return [
        f"row {first['row']}: label is '{label}', which {missing_value(str(label))}"
        for label, first in samples.groupby("label").first().to_dict("index").items()
        if missing_value(str(label)) and not fault_of_class(str(label))
    ]


def _unfit_split(samples: pd.DataFrame) -> list[str]:
    """What scheme `official_test` refuses of a split; `cross_validation` does not look at it."""
    split = samples["official_split"]
    if split.isna().all():
        return []
    told = []
    if (empty := split.isna()).any():
        told.append(
            f"split is empty in {int(empty.sum()):,} of {len(split):,} rows, first in row "
            f"{samples.loc[empty, 'row'].iloc[0]}"
        )
    for part in ("train", "test"):
        if not (split == part).any():
            told.append(f"no row has the split {part}")
        elif missing := sorted(
            set(samples["label"]) - set(samples.loc[split == part, "label"]) - {""}
        ):
            told.append(f"no row of the split {part} is of {', '.join(missing)}")
    if not told:
        return []
    return [
        f"{'; '.join(told)}: scheme 'official_test' refuses that; fill the column, or use "
        "'split: {scheme: cross_validation}'"
    ]


def _misspelled(samples: pd.DataFrame) -> list[str]:
    """Labels that are one slip from one that more images have."""
    counts = samples.loc[samples["label"] != "", "label"].value_counts().sort_index(kind="stable")
    counts = counts.sort_values(ascending=False, kind="stable")
    row = samples.drop_duplicates("label").set_index("label")["row"]
    told = []
    for place, label in enumerate(counts.index):
        near = [
            other
            for other in counts.index[: min(place, _KNOWN_LABELS)]
            if one_slip_apart(label, other)
        ]
        if near:
            told.append(
                f"label '{label}' (first in row {row[label]}, {counts[label]} in all) is almost "
                f"'{near[0]}' ({counts[near[0]]} in all): is it misspelled?"
            )
    return told
