"""Anybody's own images: one CSV with `path,label,patient_id` beside the images."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from sonobench.datasets.cohort import Cohort
from sonobench.datasets.rows import Problems, filled, inside, one_of, read_rows, samples_of, sound
from sonobench.images import Appearance
from sonobench.tables import SAMPLES, fault_of_class, fault_of_id, fault_of_value, missing_value

REQUIRED = ("path", "label", "patient_id")
OPTIONAL = ("site", "device", "operator", "split")
# Names of columns that the sample table makes itself.
_RESERVED = (
    *sorted(set(SAMPLES.names) - {*REQUIRED, *OPTIONAL}),
    *(field.name for field in fields(Appearance)),
    *("row", "file", "source_label", "width", "height", "size"),
)
# What makes a text no value of a column. Whether a class is called null, a protocol must say.
_FAULTS = {
    "path": missing_value,
    "label": fault_of_class,
    "patient_id": fault_of_id,
    **dict.fromkeys(OPTIONAL, fault_of_value),
}


def load(name: str, file: Path) -> Cohort:
    """Read a manifest; paths are relative to its folder, further columns are kept.

    `patient_id` must name one patient in the whole file: where numbers restart in each hospital,
    put the hospital into it.

    Raises:
        DatasetError: as `read_rows`, and everything else that is wrong: an empty required field,
            a missing value spelled out, a path twice, a path that leaves the manifest's folder, a
            split that is neither train nor test, no rows.
    """
    rows, problems = read(name, file)
    samples = samples_of(rows, problems)
    return Cohort(name, file.parent, file, samples, metadata_sha256=problems.sha256)


def read(name: str, file: Path) -> tuple[list[dict[str, Any]], Problems]:
    """The rows of a manifest, and what is wrong with them; `load` is this and its refusal.

    Raises:
        DatasetError: as `read_rows`.
    """
    rows, seen, problems = list[dict[str, Any]](), dict[str, int](), Problems(file)
    for row, value in read_rows(
        problems,
        delimiter=",",
        required=REQUIRED,
        optional=OPTIONAL,
        reserved=_RESERVED,
        file_names=("path",),
    ):
        path = inside(value["path"], problems, row) if value["path"] else ""
        filled(value, REQUIRED, problems, row)
        for column, fault in _FAULTS.items():
            sound(fault, value.get(column, ""), column, problems, row)
        if path in seen:
            problems.add(
                row, f"path '{path}' stands in row {seen[path]} already; an image has one row"
            )
        elif path:
            seen[path] = row
        split = value.get("split", "")
        rows.append(
            {
                "image_id": f"{name}/{path}",
                "dataset": name,
                "path": path,
                "label": value["label"],
                "patient_id": f"{name}/{value['patient_id']}",
                "site": value.get("site") or None,
                "device": value.get("device") or None,
                "operator": value.get("operator") or None,
                "official_split": one_of(
                    split, {"train": "train", "test": "test"}, "split", problems, row
                )
                if split
                else None,
                **{
                    column: text
                    for column, text in value.items()
                    if column not in REQUIRED + OPTIONAL
                },
                "row": row,
            }
        )
    return rows, problems
