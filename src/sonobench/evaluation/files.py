"""Predictions made elsewhere: one CSV or Parquet file as the tables that an evaluation reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sonobench.evaluation.file_outputs import read_outputs
from sonobench.evaluation.file_table import NEEDED, place, read_file_table, row_of
from sonobench.evaluation.inputs import ATTRIBUTES
from sonobench.evaluation.settings import EvaluationSettings
from sonobench.tables import (
    PREDICTIONS,
    SAMPLES,
    TableError,
    check,
    look_alike,
    normalized,
    without_spelling,
)


@dataclass(frozen=True)
class PredictionsFile:
    """What a file says, ready for `evaluate`.

    Attributes:
        predictions: `sonobench.tables.PREDICTIONS`.
        samples: `sonobench.tables.SAMPLES`, as far as the file knows them.
        settings: classes and cohorts as they occur in the file.
        remarks: what a reader must be told, in sentences.
    """

    predictions: pd.DataFrame
    samples: pd.DataFrame
    settings: EvaluationSettings
    remarks: tuple[str, ...] = ()


def read_predictions_file(
    file: Path, classes: Sequence[str] | None = None, **settings: Any
) -> PredictionsFile:
    """Read predictions that were not made by a run.

    Columns: `image_id`, `subject_id`, `label`, and one of: `logit[CLASS]` or `probability[CLASS]`
    for every class, `logits` or `probabilities` (Parquet: a list an image), `predicted` (a class;
    beside the others it must be the one of the highest value). Values are judged as they are given,
    in float64; probabilities of an image must sum to 1 but for the rounding of their digits.
    Optional: `encoder`, `adaptation`, `fold`, `seed`, `role` (validation, test or external),
    `dataset`, `site`, `device`, `operator`, `brain_plane`, `pixel_sha256`. Without `role` all
    images are external, so that the classes of a dataset are those that it has images of. Rows of
    role test are in-domain, and every class must be among them. If each of their images is in one
    of several folds, they are those of a cross-validation.

    Texts are `sonobench.tables.normalized`: blanks and accents make no other class or patient. Ids
    of a dataset's patients that are equal `without_spelling` are one patient, which a remark tells;
    others that look alike are refused.

    Args:
        file: ending in .csv or .parquet.
        classes: all classes, in the order of the values in lists; if None that of the columns, of
            the Parquet file's metadata, or for `predicted` the alphabet's.
        settings: further ones of `EvaluationSettings`, such as `bootstrap_draws`.

    Raises:
        TableError: the file cannot be read, or a column or row is not as expected.
    """
    rows = read_file_table(file)
    if classes is not None:
        classes = tuple(map(normalized, classes))
    outputs = read_outputs(rows, file, classes)
    names = outputs.classes
    unknown = ~rows["label"].isin(names)
    if unknown.any():
        label = rows["label"][unknown].iloc[0]
        raise TableError(
            f"{place(file, unknown)}: label {label!r} is not among the classes {', '.join(names)}"
        )
    predictions, respelled = _one_patient_one_id(_predictions(rows, file), file)
    predictions = predictions.assign(logits=list(outputs.values))
    _refuse_leaks(predictions, file)
    _refuse_folds_without_role(predictions, rows, file)
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
    given = {"estimand": _estimand(predictions), "outputs": outputs.kind, **settings}
    if outputs.kind == "probabilities":
        # A zero is never judged less wrong than the least probability that somebody gives.
        least = float(outputs.values[outputs.values > 0].min())
        given["zero_probability"] = min(least, EvaluationSettings.zero_probability)
    try:
        evaluated = EvaluationSettings(names, source, declared, **given)
    except ValueError as error:
        raise TableError(f"{file}: {error}") from None
    remarks = (*respelled, *outputs.remarks(rows["label"]))
    return PredictionsFile(check(predictions, PREDICTIONS), samples, evaluated, remarks)


def _estimand(predictions: pd.DataFrame) -> str:
    tested = predictions.loc[predictions["role"] == "test", ["image_id", "fold"]].drop_duplicates()
    apart = tested["fold"].nunique() > 1 and tested["image_id"].is_unique
    return "cross_validation" if apart else "held_out"


def _refuse_folds_without_role(predictions: pd.DataFrame, rows: pd.DataFrame, file: Path) -> None:
    """External images are tested by every fold's model; those of a cross-validation by one."""
    of_model = [name for name in PREDICTIONS.key if name != "fold"]
    apart = predictions["fold"].nunique() > 1 and not predictions.duplicated(of_model).any()
    if apart and ("role" not in rows or rows["role"].isna().all()):
        raise TableError(
            f"{file}: every image is tested in one of several folds, as in a cross-validation, but "
            "the column role is missing: give these rows the role test (without one they count as "
            "external, which the models of all folds must be tested on)"
        )


def _one_patient_one_id(
    predictions: pd.DataFrame, file: Path
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A patient in two spellings would be drawn as two: one of them is taken, the smallest.

    Returns:
        Predictions, and a remark where there are such patients.

    Raises:
        TableError: ids look alike by more than what a program changes.
    """
    of = [predictions["dataset"], predictions["subject_id"].map(without_spelling)]
    given = predictions["subject_id"].groupby(of)
    names = given.unique()
    several = names[names.map(len) > 1].map(sorted)
    predictions = predictions.assign(subject_id=given.transform("min"))
    for _, own in predictions.groupby("dataset", sort=False):
        for group in look_alike(own["subject_id"].unique()):
            places = ", ".join(
                f"'{name}' ({row_of(file, predictions['subject_id'] == name)})" for name in group
            )
            raise TableError(
                f"{file}: subjects that look like one, spelled in several ways: {places}; spell a "
                "patient in one way, or call two patients differently"
            )
    if several.empty:
        return predictions, ()
    patients = "1 patient is" if len(several) == 1 else f"{len(several)} patients are"
    listed = ", ".join(" = ".join(f"'{name}'" for name in group) for group in several[:3])
    more = ", …" if len(several) > 3 else ""
    return predictions, (
        f"{patients} spelled in several ways (case, leading zeros, .0 or the form of characters): "
        f"{listed}{more}; each counts as one",
    )


def _refuse_leaks(predictions: pd.DataFrame, file: Path) -> None:
    """Temperatures are fitted on validation patients, of whom no other image may be tested."""
    model = [name for name in PREDICTIONS.key if name != "image_id"]
    of = [predictions[name] for name in (*model, "dataset", "subject_id")]
    validated = predictions["role"] == "validation"
    leaks = validated.groupby(of).transform("any") & ~validated
    if leaks.any():
        row = predictions[leaks].iloc[0]
        raise TableError(
            f"{place(file, leaks)}: patient {row['subject_id']!r} has rows of role {row['role']} "
            f"and of role validation for one model (encoder {row['encoder']!r}, fold "
            f"{row['fold']}, seed {row['seed']}). Give a patient one role: temperatures are fitted "
            "on validation patients"
        )


def _predictions(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    usual = {"encoder": file.stem, "adaptation": "given", "dataset": "images", "role": "external"}
    filled = rows[list(NEEDED)].assign(
        **{
            name: rows[name].fillna(value).astype(str) if name in rows else value
            for name, value in usual.items()
        }
    )
    strange = ~filled["role"].isin(["validation", "test", "external"])
    if strange.any():
        raise TableError(
            f"{place(file, strange)}: expected the role validation, test or external, found "
            f"{filled['role'][strange].iloc[0]!r}"
        )
    for name in ("fold", "seed"):
        if name not in rows:
            filled[name] = 0
            continue
        values = pd.to_numeric(rows[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        wrong = ~np.isfinite(values) | (values != np.rint(values))
        if wrong.any():
            raise TableError(f"{place(file, wrong)}: expected a whole number as {name}")
        filled[name] = values.astype(np.int64)
    twice = filled.duplicated(list(PREDICTIONS.key))
    if twice.any():
        row = filled[twice].iloc[0]
        raise TableError(
            f"{place(file, twice)}: image {row['image_id']!r} stands there twice for encoder "
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
            f"{place(file, pd.Series(where))}: image {different.loc[twice, 'image_id'].iloc[0]!r} "
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
