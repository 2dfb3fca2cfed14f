"""The rows of a file of predictions, with texts in one spelling."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.inputs import ATTRIBUTES
from sonobench.tables import (
    TableError,
    fault_of_class,
    fault_of_id,
    fault_of_value,
    normalized,
    original,
    read_parquet,
)

# Before pandas 3 numbers are read as a float beside the nearest one unless this is asked for; since
# then asking for it is deprecated.
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if pd.__version__[0] < "3" else {}
NEEDED = ("image_id", "subject_id", "label")
# Columns of text, and what makes a text no value of them. Only nothing is nothing: a class may be
# called none, a site NA.
_FAULTS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("image_id", "subject_id"), fault_of_id),
    **dict.fromkeys(("label", "predicted"), fault_of_class),
    **dict.fromkeys(("encoder", "adaptation", "role", "dataset"), fault_of_value),
    **dict.fromkeys((*ATTRIBUTES, "pixel_sha256"), fault_of_value),
}


def read_file_table(file: Path) -> pd.DataFrame:
    """Rows with normalized headers and texts; what is empty or nothing but blanks is missing.

    Raises:
        TableError: the file cannot be read, lacks a column that is needed or a value of it, or has
            a text that no value can be.
    """
    if file.suffix not in (".csv", ".parquet"):
        raise TableError(f"{file}: expected a file that ends in .csv or .parquet")
    try:
        rows = _read_csv(file) if file.suffix == ".csv" else read_parquet(file)
    except TableError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise TableError(f"{file}: cannot be read: {error}") from None
    if rows.empty:
        raise TableError(f"{file}: expected a row an image, found none")
    rows = rows.reset_index(drop=True).set_axis([normalized(str(name)) for name in rows], axis=1)
    doubled = rows.columns[rows.columns.duplicated() & (rows.columns != "")]
    if len(doubled):
        raise TableError(f"{file}: columns appear twice: {', '.join(sorted(doubled))}")
    if missing := [name for name in NEEDED if name not in rows]:
        raise TableError(
            f"{file}: expected the columns {', '.join(NEEDED)}; missing: {', '.join(missing)}. "
            f"Found: {', '.join(rows.columns)}"
        )
    rows = rows.assign(
        **{name: _texts(rows[name], file, fault) for name, fault in _FAULTS.items() if name in rows}
    )
    for name in NEEDED:
        if (empty := rows[name].isna()).any():
            raise TableError(f"{place(file, empty)}: no {name}")
    return rows


def _read_csv(file: Path) -> pd.DataFrame:
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text)
        header, first = next(lines, []), next(lines, [])
    # pandas would take what stands first in a row for its name, and move the others.
    if len([*first[: len(header)], *filter(None, first[len(header) :])]) > len(header):
        raise ValueError(f"expected {len(header)} fields in line 2, found {len(first)}")
    rows: pd.DataFrame = pd.read_csv(
        file,
        index_col=False,
        dtype={name: str for name in header if normalized(original(name)) in _FAULTS},
        keep_default_na=False,
        na_values=[""],
        **_EXACT,
    )
    rows = rows.set_axis([*map(original, header)], axis=1)
    return rows.map(lambda value: original(value) if isinstance(value, str) else value)


def _texts(given: pd.Series, file: Path, fault: Callable[[str], str]) -> pd.Series:
    """A column of text, each in one spelling; what is empty or nothing but blanks is missing."""
    texts = given[given.notna()].astype(str)
    spelled = {text: normalized(text) for text in texts.unique()}
    for text in filter(fault, spelled.values()):
        wrong = given.notna() & given.astype(str).map(spelled).eq(text)
        shown = f"'{text[:80]}'" if text.isprintable() else ascii(text[:20])
        raise TableError(f"{place(file, wrong)}: {given.name} is {shown}, which {fault(text)}")
    found = texts.map(spelled).replace("", None).reindex(given.index).astype(object)
    return found.where(found.notna(), None)


def place(file: Path, wrong: "pd.Series[bool] | npt.NDArray[np.bool_]") -> str:
    """File and line (CSV) or row (Parquet, from 0) of the first wrong one."""
    return f"{file}, {row_of(file, wrong)}"


def row_of(file: Path, wrong: "pd.Series[bool] | npt.NDArray[np.bool_]") -> str:
    """Line (CSV) or row (Parquet, from 0) of the first wrong one."""
    row = int(np.flatnonzero(np.asarray(wrong))[0])
    return f"line {row + 2}" if file.suffix == ".csv" else f"row {row}"
