"""What each table holds: columns, types, which may be empty, and what identifies a row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

ROLES = ("train", "validation", "test", "external", "excluded")


class TableError(ValueError):
    """A table breaks its schema; the message names the table, the column and the first row."""


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, whether every row must have a value, and what it means."""

    name: str
    type: pa.DataType
    meaning: str
    required: bool = True


@dataclass(frozen=True)
class Table:
    """A table's name, its columns in their order, and the columns that identify a row.

    Further columns are kept after the declared ones where `open` is set.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    open: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the declared columns, in order."""
        return [column.name for column in self.columns]


_text, _whole, _real = pa.string(), pa.int64(), pa.float64()

SAMPLES = Table(
    "samples",
    (
        Column("image_id", _text, "dataset/path within it; unique over all cohorts"),
        Column("dataset", _text, "name of the cohort in the protocol"),
        Column("path", _text, "file, relative to the dataset's folder"),
        Column("pixel_sha256", _text, "SHA-256 of the decoded pixels", required=False),
        Column("label", _text, "class"),
        Column("patient_id", _text, "dataset/centre/number as the source has it"),
        Column("subject_id", _text, "the smallest patient_id of those that count as one patient"),
        Column("site", _text, "hospital or centre", required=False),
        Column("device", _text, "ultrasound machine", required=False),
        Column("operator", _text, "who scanned", required=False),
        Column("official_split", _text, "train or test, as published", required=False),
    ),
    key=("image_id",),
    open=True,
)

SPLITS = Table(
    "splits",
    (
        Column("image_id", _text, "as in samples"),
        Column("fold", _whole, "0 … folds-1"),
        Column("role", _text, "one of " + ", ".join(ROLES)),
    ),
    key=("image_id", "fold"),
)

PREDICTIONS = Table(
    "predictions",
    (
        Column("encoder", _text, "label of the encoder in the protocol; none for majority_class"),
        Column("adaptation", _text, "what was trained on top"),
        Column("dataset", _text, "cohort of the image"),
        Column("role", _text, "validation, test or external"),
        Column("fold", _whole, "which of the trained models"),
        Column("seed", _whole, "seed of the training"),
        Column("image_id", _text, "as in samples"),
        Column("subject_id", _text, "as in samples"),
        Column("label", _text, "true class"),
        Column("logits", pa.list_(pa.float32()), "one a class, in the order of the file's classes"),
    ),
    key=("encoder", "adaptation", "fold", "seed", "image_id"),
)

RESULTS = Table(
    "results",
    (
        Column("encoder", _text, "label of the encoder"),
        Column("adaptation", _text, "what was trained on top"),
        Column("aggregate", _text, "mean_of_folds or ensemble"),
        Column("evaluation", _text, "in_domain or an external dataset's name"),
        Column("label_space", _text, "open: argmax over training classes; closed: cohort's own"),
        Column("images", _text, "all, or distinct: one of each identical set"),
        Column("subgroup", _text, "all, or like site=Algeria"),
        Column("calibration", _text, "none or temperature"),
        Column("metric", _text, "macro_f1, accuracy, f1[Fetal brain], …"),
        Column("estimate", _real, "mean over folds and seeds", required=False),
        Column("ci_low", _real, "lower bound of the patient-level interval", required=False),
        Column("ci_high", _real, "upper bound", required=False),
        Column("fold_sd", _real, "standard deviation over training folds", required=False),
        Column("seed_sd", _real, "standard deviation over seeds", required=False),
        Column("redrawn_share", _real, "share of bootstrap draws drawn again", required=False),
        Column("reliable", pa.bool_(), "whether the interval can be trusted"),
        Column("n_images", _whole, "images behind the estimate"),
        Column("n_patients", _whole, "subjects behind it"),
    ),
    key=(
        "encoder",
        "adaptation",
        "aggregate",
        "evaluation",
        "label_space",
        "images",
        "subgroup",
        "calibration",
        "metric",
    ),
)


def check(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Return `frame` with the table's columns first, in order, of the declared types.

    Raises:
        TableError: a column is missing or (for closed tables) unknown, a required value is
            empty, a value has the wrong type, or two rows have the same key.
    """
    missing = [name for name in table.names if name not in frame.columns]
    if missing:
        raise TableError(
            f"{table.name}: expected the columns {', '.join(table.names)}; "
            f"missing: {', '.join(missing)}"
        )
    further = [name for name in frame.columns if name not in table.names]
    if further and not table.open:
        raise TableError(f"{table.name}: unknown columns {', '.join(map(str, further))}")
    checked: dict[str, pd.Series] = {}
    for column in table.columns:
        values = frame[column.name]
        if column.required and values.isna().any():
            row = int(np.flatnonzero(values.isna().to_numpy())[0])
            raise TableError(f"{table.name}: row {row} has no {column.name} ({column.meaning})")
        checked[column.name] = _typed(values, column, table)
    result = pd.DataFrame(checked).assign(**{name: frame[name].to_numpy() for name in further})
    result = result.reset_index(drop=True)
    repeated = result.duplicated(list(table.key))
    if repeated.any():
        row = int(np.flatnonzero(repeated.to_numpy())[0])
        key = ", ".join(f"{name}={result[name].iloc[row]}" for name in table.key)
        raise TableError(f"{table.name}: row {row} repeats {key}")
    return result


def _typed(values: "pd.Series[Any]", column: Column, table: Table) -> "pd.Series[Any]":
    if pa.types.is_list(column.type):
        return values
    if pa.types.is_string(column.type):
        if pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty"):
            wrong = values.notna() & ~values.map(lambda value: isinstance(value, str))
            if wrong.any():
                row = int(np.flatnonzero(wrong.to_numpy())[0])
                raise TableError(
                    f"{table.name}: row {row}, {column.name}: expected text, "
                    f"found {values.iloc[row]!r}"
                )
        return values.astype(object).where(values.notna(), None)
    try:
        return values.astype(column.type.to_pandas_dtype())
    except (TypeError, ValueError) as error:
        raise TableError(
            f"{table.name}: {column.name} must be of type {column.type}: {error}"
        ) from None
