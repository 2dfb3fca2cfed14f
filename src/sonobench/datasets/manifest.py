"""Anybody's own images: one CSV with `path,label,patient_id` beside the images."""

import posixpath
from pathlib import Path, PurePosixPath

import pandas as pd

from sonobench.datasets.cohort import Cohort, DatasetError, one_of, read_rows

REQUIRED = ("path", "label", "patient_id")
OPTIONAL = ("site", "device", "operator", "split")


def load(name: str, file: Path) -> Cohort:
    """Read a manifest; paths are relative to its folder, further columns are kept.

    `patient_id` must name one patient in the whole file: where numbers restart in each hospital,
    put the hospital into it.

    Raises:
        DatasetError: as `read_rows`; an empty required field, a path twice, a path that leaves
            the manifest's folder, a split that is neither train nor test, no rows.
    """
    rows, seen = [], dict[str, int]()
    for row, value in read_rows(file, delimiter=",", required=REQUIRED, optional=OPTIONAL):
        for column in REQUIRED:
            if not value[column]:
                raise DatasetError(f"{file}, row {row}: {column} is empty")
        path = _inside(value["path"], file, row)
        if path in seen:
            raise DatasetError(
                f"{file}, row {row}: path '{path}' stands in row {seen[path]} already; "
                "an image has one row"
            )
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
                    split, {"train": "train", "test": "test"}, "split", file, row
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
    if not rows:
        raise DatasetError(f"{file}: expected at least one image, found only the header")
    return Cohort(name, file.parent, file, pd.DataFrame(rows))


def _inside(path: str, file: Path, row: int) -> str:
    normal = posixpath.normpath(path.replace("\\", "/"))
    first = PurePosixPath(normal).parts[0]
    if normal.startswith("/") or first == ".." or ":" in first:
        raise DatasetError(
            f"{file}, row {row}: path '{path}' points out of the manifest's folder; "
            "paths are relative to it and stay inside"
        )
    return normal
