"""Everything that is wrong with a manifest and its images, at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sonobench.datasets import manifest
from sonobench.datasets.audit.duplicates import exact_duplicates, label_conflicts, leaks
from sonobench.datasets.subjects import duplicate_groups
from sonobench.images import UnreadableImage, decode

_NAME = "manifest"


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
    messages, hashes = list(problems.messages), list[str | None]()
    if samples.empty:
        return Checked(samples, (*messages, "no images: there is only the header"))
    with ThreadPoolExecutor() as pool:
        found = pool.map(_pixels, [file.parent / row["path"] for row in rows])
        for done, (row, (sha256, reason)) in enumerate(zip(rows, found, strict=True), 1):
            if reason and row["path"]:
                messages.append(f"row {row['row']}: {row['path']}: {reason}")
            hashes.append(sha256)
            progress(done, len(rows))
    samples["pixel_sha256"] = pd.Series(hashes, dtype=object)
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
    return Checked(samples, (*messages, *_spelled_twice(known)), tuple(_two_patients(read)))


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


def _spelled_twice(samples: pd.DataFrame) -> list[str]:
    """Patient ids that differ in what spreadsheets and people change: 007, 7, 7.0; p1, P1."""
    ids = samples.drop_duplicates("patient_id").set_index("row")["patient_id"]
    ids = ids.str.removeprefix(f"{_NAME}/")
    plain = ids.str.casefold().str.removesuffix(".0").str.lstrip("0")
    return [
        "patients that look like one, spelled in several ways: "
        + ", ".join(f"'{name}' (row {row})" for row, name in spellings.items())
        + "; spell a patient in one way, or call two patients differently"
        for _, spellings in ids.groupby(plain)
        if len(spellings) > 1
    ]


def _pixels(file: Path) -> tuple[str | None, str]:
    try:
        return decode(file).sha256, ""
    except UnreadableImage as error:
        return None, error.reason
