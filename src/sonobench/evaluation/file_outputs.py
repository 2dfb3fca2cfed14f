"""What a file of predictions says of the classes: logits, probabilities, or the predicted class."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.file_table import place
from sonobench.evaluation.settings import Outputs
from sonobench.tables import (
    TableError,
    missing_value,
    normalized,
    one_slip_apart,
    read_classes,
)

_BY_CLASS = re.compile(r"^(logit|probability)\[(.+)\]$")
# Numbers with more digits than these are not rounded for print; single precision has seven.
_MOST_DIGITS = 6
_SINGLE_PRECISION = 1e-6

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FileOutputs:
    """Classes of a file, and what it says of them.

    Attributes:
        classes: in the order of the values.
        values: (N, K): logits, probabilities, or 1 for the predicted class and 0 for the others.
        kind: which of these.
    """

    classes: tuple[str, ...]
    values: Values
    kind: Outputs

    def remarks(self, labels: "pd.Series[str]") -> tuple[str, ...]:
        """What must be told: images that are predicted as a class that no label of the file has."""
        predicted = pd.Series(self.classes)[self.values.argmax(axis=1)].reset_index(drop=True)
        astray = predicted[~predicted.isin(labels)].value_counts().sort_index()
        if astray.empty:
            return ()
        named = []
        for name, count in astray.items():
            near = [label for label in sorted(set(labels)) if one_slip_apart(str(name), label)]
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            named.append(f"{name!r} {count:,} times{meant}")
        return (
            f"{int(astray.sum()):,} of {len(labels):,} predictions are of classes that no label "
            f"has, and count as wrong: {', '.join(named)}",
        )


def read_outputs(rows: pd.DataFrame, file: Path, classes: Sequence[str] | None) -> FileOutputs:
    """Classes and their values, as they are given, in float64.

    Raises:
        TableError: none of the columns of values, or several kinds of them; a value is no finite
            number; probabilities are negative or do not sum to 1 but for the rounding of their
            digits; a predicted class beside the values is not the highest.
    """
    if classes and len(set(classes)) < len(classes):
        raise TableError(f"{file}: expected different classes, found {', '.join(classes)}")
    by_class = {name: match for name in rows.columns if (match := _BY_CLASS.match(name))}
    kinds = {match[1] for match in by_class.values()}
    kinds |= {name for name in ("logits", "probabilities") if name in rows}
    if not kinds and "predicted" in rows:
        return _one_hot(rows, file, classes)
    if len(kinds) != 1:
        raise TableError(
            f"{file}: expected one of: columns logit[CLASS] or probability[CLASS] for every class, "
            "a column logits or probabilities of lists, a column predicted; found "
            + (", ".join(sorted(kinds)) or "none of them")
        )
    (kind,) = kinds
    if by_class:
        names = tuple(match[2].strip() for match in by_class.values())
        if len(set(names)) < len(names) or (classes and set(classes) != set(names)):
            raise TableError(
                f"{file}: expected one column {kind}[CLASS] of each of the classes "
                f"{', '.join(classes or dict.fromkeys(names))}; found those of {', '.join(names)}"
            )
        values = rows[list(by_class)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    else:
        names = _list_classes(file, classes)
        values = _lists(rows[kind], file, names)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise TableError(f"{place(file, bad)}: expected a finite number for every class")
    outputs: Outputs = "logits" if kind in ("logit", "logits") else "probabilities"
    if outputs == "probabilities":
        _check_sums(values, file)
    if "predicted" in rows:
        _check_predicted(rows, file, names, values)
    return FileOutputs(names, values, outputs)


def _lists(lists: pd.Series, file: Path, names: tuple[str, ...]) -> Values:
    fits = lists.map(lambda value: np.shape(value) == (len(names),))
    if not fits.all():
        raise TableError(
            f"{place(file, ~fits)}: expected a list of {len(names)} {lists.name}, one a class "
            f"({', '.join(names)})"
        )
    try:
        return np.stack(lists.to_list()).astype(np.float64)
    except (TypeError, ValueError):
        raise TableError(f"{file}: expected lists of numbers in {lists.name}") from None


def _check_sums(values: Values, file: Path) -> None:
    off = np.abs(values.sum(axis=1) - 1)
    bad = (values < 0).any(axis=1) | (off > sum_tolerance(values))
    if bad.any():
        row = values[np.flatnonzero(bad)[0]]
        raise TableError(
            f"{place(file, bad)}: expected probabilities that sum to 1, found "
            f"{', '.join(f'{value:g}' for value in row)}, which sum to {row.sum():.6g}"
        )


def sum_tolerance(values: Values) -> Values:
    """How far from 1 the sum of each row of probabilities can be for their printed digits, (N,).

    Each of the K values is off by half a unit of its last digit at most. How many digits are
    printed is seen in the file as a whole: so many decimals (`0.25`), or so many significant digits
    (`0.25`, `0.0025`), whichever is coarser for a value. Where it is more than six, the tolerance
    is that of single precision.

    Args:
        values: (N, K), of a whole file.
    """
    decimals = _digits(values)
    unit = np.zeros(values.shape)
    # No digits at all are no rounding: one class has 1, the others 0.
    if decimals != 0:
        positive = values > 0
        # 1 is what 0.9996 becomes.
        exponent = np.minimum(np.floor(np.log10(values, out=unit.copy(), where=positive)), -1) + 1
        significant = _digits(values * 10.0**-exponent)
        if significant is not None:
            unit[positive] = 10.0 ** (exponent[positive] - significant)
        if decimals is not None:
            unit = np.maximum(unit, 10.0**-decimals)
    tolerance: Values = unit.sum(axis=1) / 2 + values.shape[1] * _SINGLE_PRECISION
    return tolerance


def _digits(values: Values) -> int | None:
    """Fewest decimals with which all values are written; None: more than six."""
    return next(
        (
            digits
            for digits in range(_MOST_DIGITS + 1)
            if np.abs(values - np.round(values, digits)).max(initial=0) < 1e-9
        ),
        None,
    )


def _check_predicted(
    rows: pd.DataFrame, file: Path, names: tuple[str, ...], values: Values
) -> None:
    """Whoever chose by a threshold must not be scored by the highest value without knowing."""
    chosen = pd.Index(names).get_indexer(pd.Index(rows["predicted"]))
    other = (chosen < 0) | (values[np.arange(len(rows)), chosen] < values.max(axis=1))
    if other.any():
        row = int(np.flatnonzero(other)[0])
        raise TableError(
            f"{place(file, other)}: predicted is {rows['predicted'].iloc[row]!r}, but the highest "
            f"value is that of {names[int(values[row].argmax())]!r}; leave out the column "
            "predicted, or the values"
        )


def _one_hot(rows: pd.DataFrame, file: Path, classes: Sequence[str] | None) -> FileOutputs:
    predicted = rows["predicted"]
    if (empty := predicted.isna()).any():
        raise TableError(f"{place(file, empty)}: no predicted class")
    if not predicted.isin(rows["label"]).any():
        some, labels = (", ".join(sorted(set(v))[:5]) for v in (predicted, rows["label"]))
        raise TableError(
            f"{file}: no predicted class is among the labels: predicted are {some}, labels "
            f"{labels}; write names of classes in both columns"
        )
    for column in ("label", "predicted"):
        missing = rows[column].map(lambda text: bool(missing_value(text)))
        if classes is None and missing.any():
            raise TableError(
                f"{place(file, missing)}: {column} is {rows[column][missing].iloc[0]!r}, which "
                "looks like a missing value; if a class is called so, name all classes "
                "(--classes A,B,C)"
            )
    names = tuple(classes or sorted({*rows["label"], *predicted}))
    if (unknown := ~predicted.isin(names)).any():
        raise TableError(
            f"{place(file, unknown)}: predicted class {predicted[unknown].iloc[0]!r} is not among "
            f"{', '.join(names)}"
        )
    chosen = pd.Index(names).get_indexer(pd.Index(predicted))
    return FileOutputs(names, np.eye(len(names))[chosen], "classes")


def _list_classes(file: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes:
        return tuple(classes)
    try:
        return tuple(map(normalized, read_classes(file)))
    except TableError:
        raise TableError(
            f"{file}: lists have no class names; say them in their order (--classes A,B,C), or "
            "write columns logit[CLASS]"
        ) from None
