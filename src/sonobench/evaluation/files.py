"""Predictions made elsewhere: one CSV or Parquet file as the tables that an evaluation reads."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.inputs import ATTRIBUTES
from sonobench.evaluation.settings import EvaluationSettings
from sonobench.tables import (
    PREDICTIONS,
    SAMPLES,
    TableError,
    check,
    fault_of_class,
    fault_of_id,
    fault_of_value,
    look_alike,
    missing_value,
    normalized,
    read_classes,
)

_NEEDED = ("image_id", "subject_id", "label")
# Columns of text, and what makes a text no value of them. Only nothing is nothing: a class may be
# called none, a site NA.
_FAULTS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("image_id", "subject_id"), fault_of_id),
    **dict.fromkeys(("label", "predicted"), fault_of_class),
    **dict.fromkeys(("encoder", "adaptation", "role", "dataset"), fault_of_value),
    **dict.fromkeys((*ATTRIBUTES, "pixel_sha256"), fault_of_value),
}
_BY_CLASS = re.compile(r"^(logit|probability)\[(.+)\]$")
# Probabilities of an image must sum to 1 but for this, the rounding of a few printed digits.
_ROUNDING = 0.01
# Stands for a probability of 0, whose logarithm is not finite.
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class PredictionsFile:
    """What a file says, ready for `evaluate`.

    Attributes:
        predictions: `sonobench.tables.PREDICTIONS`.
        samples: `sonobench.tables.SAMPLES`, as far as the file knows them.
        settings: classes and cohorts as they occur in the file.
    """

    predictions: pd.DataFrame
    samples: pd.DataFrame
    settings: EvaluationSettings


def read_predictions_file(
    file: Path, classes: Sequence[str] | None = None, **settings: Any
) -> PredictionsFile:
    """Read predictions that were not made by a run.

    Columns: `image_id`, `subject_id`, `label`, and one of: `logit[CLASS]` or `probability[CLASS]`
    for every class, `logits` or `probabilities` (Parquet: a list an image), `predicted` (a class;
    beside the others it must be the one of the highest value).
    Optional: `encoder`, `adaptation`, `fold`, `seed`, `role` (validation, test or external),
    `dataset`, `site`, `device`, `operator`, `brain_plane`, `pixel_sha256`. Without `role` all
    images are external, so that the classes of a dataset are those that it has images of. Rows of
    role test are in-domain, and every class must be among them. If each of their images is in one
    of several folds, they are those of a cross-validation.

    Texts are `sonobench.tables.normalized`: blanks and accents make no other class or patient.

    Args:
        file: ending in .csv or .parquet.
        classes: all classes, in the order of the values in lists; if None that of the columns, of
            the Parquet file's metadata, or for `predicted` the alphabet's.
        settings: further ones of `EvaluationSettings`, such as `bootstrap_draws`.

    Raises:
        TableError: the file cannot be read, or a column or row is not as expected.
    """
    rows = _read(file)
    missing = [name for name in _NEEDED if name not in rows]
    if missing:
        raise TableError(
            f"{file}: expected the columns {', '.join(_NEEDED)}; missing: {', '.join(missing)}. "
            f"Found: {', '.join(map(str, rows.columns))}"
        )
    for name in _NEEDED:
        if (empty := rows[name].isna()).any():
            raise TableError(f"{_place(file, empty)}: no {name}")
    if classes is not None:
        classes = tuple(map(normalized, classes))
    names, logits, probabilistic = _outputs(rows, file, classes)
    unknown = ~rows["label"].isin(names)
    if unknown.any():
        label = rows["label"][unknown].iloc[0]
        raise TableError(
            f"{_place(file, unknown)}: label {label!r} is not among the classes {', '.join(names)}"
        )
    predictions = _predictions(rows, file).assign(logits=list(logits))
    _refuse_spellings(predictions, file)
    samples = _samples(predictions, rows, file)
    external = predictions[predictions["role"] == "external"]
    in_domain = predictions.loc[predictions["role"] == "test", "dataset"].unique()
    if len(in_domain) > 1:
        raise TableError(
            f"{file}: rows of role test are of the datasets {', '.join(in_domain)}; models are "
            "trained on one. Give rows of the others the role external"
        )
    both = set(in_domain) & set(external["dataset"])
    if both:
        raise TableError(
            f"{file}: dataset {both.pop()!r} has rows of role test and rows of role external; "
            "name the external ones another dataset"
        )
    declared = {
        str(name): tuple(label for label in names if label in set(own["label"]))
        for name, own in external.groupby("dataset", sort=True)
    }
    source = str(in_domain[0]) if len(in_domain) else None
    given = {"estimand": _estimand(predictions), "probabilities": probabilistic, **settings}
    try:
        evaluated = EvaluationSettings(names, source, declared, **given)
    except ValueError as error:
        raise TableError(f"{file}: {error}") from None
    return PredictionsFile(check(predictions, PREDICTIONS), samples, evaluated)


def _estimand(predictions: pd.DataFrame) -> str:
    tested = predictions.loc[predictions["role"] == "test", ["image_id", "fold"]].drop_duplicates()
    apart = tested["fold"].nunique() > 1 and tested["image_id"].is_unique
    return "cross_validation" if apart else "held_out"


def _read(file: Path) -> pd.DataFrame:
    if file.suffix not in (".csv", ".parquet"):
        raise TableError(f"{file}: expected a file that ends in .csv or .parquet")
    try:
        if file.suffix == ".csv":
            header = [str(name) for name in pd.read_csv(file, nrows=0).columns]
            texts = {name: str for name in header if normalized(name) in _FAULTS}
            rows = pd.read_csv(file, dtype=texts, keep_default_na=False, na_values=[""])
        else:
            rows = pd.read_parquet(file)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise TableError(f"{file}: cannot be read: {error}") from None
    if rows.empty:
        raise TableError(f"{file}: expected a row an image, found none")
    rows = rows.rename(columns=lambda name: normalized(str(name))).reset_index(drop=True)
    if doubled := sorted(rows.columns[rows.columns.duplicated()]):
        raise TableError(f"{file}: columns appear twice: {', '.join(doubled)}")
    return rows.assign(
        **{name: _texts(rows[name], file, fault) for name, fault in _FAULTS.items() if name in rows}
    )


def _texts(given: pd.Series, file: Path, fault: Callable[[str], str]) -> pd.Series:
    """A column of text, each in one spelling; what is empty or nothing but blanks is missing."""
    texts = given[given.notna()].astype(str)
    spelled = {text: normalized(text) for text in texts.unique()}
    for text in filter(fault, spelled.values()):
        wrong = given.notna() & given.astype(str).map(spelled).eq(text)
        shown = f"'{text}'" if text.isprintable() else ascii(text)
        raise TableError(f"{_place(file, wrong)}: {given.name} is {shown}, which {fault(text)}")
    found = texts.map(spelled).replace("", None).reindex(given.index).astype(object)
    return found.where(found.notna(), None)


def _refuse_spellings(predictions: pd.DataFrame, file: Path) -> None:
    """A patient in two spellings would be drawn as two."""
    for _, own in predictions.groupby("dataset", sort=False):
        for group in look_alike(own["subject_id"].unique()):
            places = ", ".join(
                f"'{name}' ({_row(file, predictions['subject_id'] == name)})" for name in group
            )
            raise TableError(
                f"{file}: subjects that look like one, spelled in several ways: {places}; spell a "
                "patient in one way, or call two patients differently"
            )


def _outputs(
    rows: pd.DataFrame, file: Path, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], npt.NDArray[np.float32], bool]:
    """Classes, their logits (N, K), and whether these say how probable classes are."""
    if classes and len(set(classes)) < len(classes):
        raise TableError(f"{file}: expected different classes, found {', '.join(classes)}")
    by_class = {name: match for name in rows.columns if (match := _BY_CLASS.match(str(name)))}
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
        names = tuple(match[2] for match in by_class.values())
        if classes and set(classes) != set(names):
            raise TableError(
                f"{file}: expected columns {kind}[CLASS] of the classes {', '.join(classes)}; "
                f"found those of {', '.join(names)}"
            )
        values = rows[list(by_class)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    else:
        names = _list_classes(file, classes)
        fits = rows[kind].map(lambda value: np.shape(value) == (len(names),))
        if not fits.all():
            raise TableError(
                f"{_place(file, ~fits)}: expected a list of {len(names)} {kind}, one a class "
                f"({', '.join(names)})"
            )
        try:
            values = np.stack(rows[kind].to_list()).astype(np.float64)
        except (TypeError, ValueError):
            raise TableError(f"{file}: expected lists of numbers in {kind}") from None
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise TableError(f"{_place(file, bad)}: expected a finite number for every class")
    if kind in ("probability", "probabilities"):
        bad = (values < 0).any(axis=1) | (np.abs(values.sum(1) - 1) > _ROUNDING)
        if bad.any():
            found = ", ".join(f"{value:g}" for value in values[np.flatnonzero(bad)[0]])
            raise TableError(
                f"{_place(file, bad)}: expected probabilities that sum to 1, found {found}"
            )
        values = np.log(np.maximum(values, _LEAST_PROBABILITY))
    logits = values.astype(np.float32)
    if "predicted" in rows:
        _check_predicted(rows, file, names, logits)
    return names, logits, True


def _check_predicted(
    rows: pd.DataFrame, file: Path, names: tuple[str, ...], logits: npt.NDArray[np.float32]
) -> None:
    """Whoever chose by a threshold must not be scored by the highest value without knowing."""
    place = pd.Index(names).get_indexer(pd.Index(rows["predicted"].astype(str)))
    rows_of = np.arange(len(rows))
    other = (place < 0) | (logits[rows_of, place] < logits.max(axis=1))
    if other.any():
        row = int(np.flatnonzero(other)[0])
        raise TableError(
            f"{_place(file, other)}: predicted is {rows['predicted'].iloc[row]!r}, but the highest "
            f"value is that of {names[int(logits[row].argmax())]!r}; leave out the column "
            "predicted, or the values"
        )


def _one_hot(
    rows: pd.DataFrame, file: Path, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], npt.NDArray[np.float32], bool]:
    empty = rows["predicted"].isna()
    if empty.any():
        raise TableError(f"{_place(file, empty)}: no predicted class")
    predicted = rows["predicted"].astype(str)
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
                f"{_place(file, missing)}: {column} is {rows[column][missing].iloc[0]!r}, which "
                "looks like a missing value; if a class is called so, name all classes "
                "(--classes A,B,C)"
            )
    names = tuple(classes or sorted({*rows["label"], *predicted}))
    unknown = ~predicted.isin(names)
    if unknown.any():
        raise TableError(
            f"{_place(file, unknown)}: predicted class {predicted[unknown].iloc[0]!r} is not among "
            f"{', '.join(names)}"
        )
    place = pd.Index(names).get_indexer(pd.Index(predicted))
    return names, np.eye(len(names), dtype=np.float32)[place], False


def _list_classes(file: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes:
        return tuple(classes)
    try:
        return read_classes(file)
    except TableError:
        raise TableError(
            f"{file}: lists have no class names; say them in their order (--classes A,B,C), or "
            "write columns logit[CLASS]"
        ) from None


def _predictions(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    usual = {"encoder": file.stem, "adaptation": "given", "dataset": "images", "role": "external"}
    filled = rows[list(_NEEDED)].assign(
        **{
            name: rows[name].fillna(value).astype(str) if name in rows else value
            for name, value in usual.items()
        }
    )
    strange = ~filled["role"].isin(["validation", "test", "external"])
    if strange.any():
        raise TableError(
            f"{_place(file, strange)}: expected the role validation, test or external, found "
            f"{filled['role'][strange].iloc[0]!r}"
        )
    for name in ("fold", "seed"):
        if name not in rows:
            filled[name] = 0
            continue
        values = pd.to_numeric(rows[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        wrong = ~np.isfinite(values) | (values != np.rint(values))
        if wrong.any():
            raise TableError(f"{_place(file, wrong)}: expected a whole number as {name}")
        filled[name] = values.astype(np.int64)
    twice = filled.duplicated(list(PREDICTIONS.key))
    if twice.any():
        row = filled[twice].iloc[0]
        raise TableError(
            f"{_place(file, twice)}: image {row['image_id']!r} stands there twice for encoder "
            f"{row['encoder']!r}, fold {row['fold']}, seed {row['seed']}"
        )
    return filled


def _samples(predictions: pd.DataFrame, rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    optional = ["site", "device", "operator", "pixel_sha256", "official_split"]
    known = [name for name in (*ATTRIBUTES, "pixel_sha256") if name in rows]
    texts = {name: rows[name].astype(str).where(rows[name].notna(), None) for name in known}
    each = predictions[["image_id", "dataset", "subject_id", "label"]].assign(**texts)
    different = each.drop_duplicates()
    twice = different.duplicated("image_id")
    if twice.any():
        where = each.index.isin(different.index[twice])
        raise TableError(
            f"{_place(file, pd.Series(where))}: image {different.loc[twice, 'image_id'].iloc[0]!r} "
            "has another dataset, subject, label or attribute in an earlier row"
        )
    return check(
        different.assign(
            path=different["image_id"],
            patient_id=different["subject_id"],
            **{name: None for name in optional if name not in different},
        ),
        SAMPLES,
    )


def _place(file: Path, wrong: "pd.Series[bool] | npt.NDArray[np.bool_]") -> str:
    """File and line (CSV) or row (Parquet, from 0) of the first wrong one."""
    return f"{file}, {_row(file, wrong)}"


def _row(file: Path, wrong: "pd.Series[bool] | npt.NDArray[np.bool_]") -> str:
    row = int(np.flatnonzero(np.asarray(wrong))[0])
    return f"line {row + 2}" if file.suffix == ".csv" else f"row {row}"
