"""The rows that are evaluated, checked: predictions and samples agree, logits are sound."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.settings import IN_DOMAIN, EvaluationSettings
from sonobench.tables import PREDICTIONS, SAMPLES, TableError, check

# What images can differ in, as columns of samples.
ATTRIBUTES = ("site", "device", "operator", "brain_plane")


def tested_rows(
    predictions: pd.DataFrame, samples: pd.DataFrame, settings: EvaluationSettings
) -> tuple[pd.DataFrame, npt.NDArray[np.floating]]:
    """Take the test and external rows of `predictions` and join what samples know of the image.

    Returns:
        The rows, with `evaluation`, `pixel_sha256` and what is known of the attributes, without
        `logits`; and the logits, (rows, K).

    Raises:
        TableError: a table breaks its schema or has nothing to evaluate; a row belongs to no
            evaluation; an image is not in samples, or has another dataset, subject or label there;
            a label is not declared for its cohort; logits are not K finite numbers.
    """
    samples = check(samples, SAMPLES).set_index("image_id")
    rows = check(predictions, PREDICTIONS)
    rows = rows[rows["role"] != "validation"].reset_index(drop=True)
    if rows.empty:
        raise TableError("predictions: expected rows of role test or external, found none")
    rows["evaluation"] = _evaluations(rows, settings)
    known = rows["image_id"].isin(samples.index)
    if not known.all():
        raise TableError(f"{named(first(rows, ~known))}: this image is not in samples")
    of_image = samples.loc[rows["image_id"]].reset_index()
    for column in ("dataset", "subject_id", "label"):
        differs = rows[column] != of_image[column]
        if differs.any():
            row, sample = first(rows, differs), first(of_image, differs)
            raise TableError(
                f"{named(row)}: {column} is {row[column]!r} here and {sample[column]!r} in samples"
            )
    _check_labels(rows, settings)
    logits = _stacked_logits(rows, settings.classes)
    known_of_image = ["pixel_sha256", *(name for name in ATTRIBUTES if name in of_image)]
    return rows.drop(columns="logits").join(of_image[known_of_image]), logits


def validation_rows(
    predictions: pd.DataFrame, settings: EvaluationSettings
) -> tuple[pd.DataFrame, npt.NDArray[np.floating]]:
    """Take the validation rows of `predictions` and their logits, (rows, K).

    Raises:
        TableError: a label is not among the training classes, or logits are not K finite numbers.
    """
    rows = check(predictions, PREDICTIONS)
    rows = rows[rows["role"] == "validation"].reset_index(drop=True)
    unknown = ~rows["label"].isin(settings.classes)
    if unknown.any():
        row = first(rows, unknown)
        raise TableError(f"{named(row)}: label {row['label']!r} is not among the training classes")
    if rows.empty:
        return rows, np.empty((0, len(settings.classes)))
    return rows, _stacked_logits(rows, settings.classes)


def first(rows: pd.DataFrame, wrong: "pd.Series[bool]") -> Mapping[Hashable, Any]:
    """Return the first row where `wrong`."""
    return rows.iloc[int(np.flatnonzero(wrong.to_numpy())[0])].to_dict()


def named(row: Mapping[Hashable, Any]) -> str:
    """Return a row of predictions in words, for an error message."""
    trained = ", ".join(f"{key} {row[key]!r}" for key in ("encoder", "adaptation", "fold", "seed"))
    return f"predictions: {trained}, image {row['image_id']!r}"


def _evaluations(rows: pd.DataFrame, settings: EvaluationSettings) -> "pd.Series[str]":
    in_domain = (rows["role"] == "test") & (rows["dataset"] == settings.source)
    external = (rows["role"] == "external") & rows["dataset"].isin(list(settings.declared))
    stray = ~in_domain & ~external
    if stray.any():
        row = first(rows, stray)
        raise TableError(
            f"{named(row)}: expected role test of the source {settings.source!r}, or role external "
            f"of a dataset with declared classes ({', '.join(settings.declared) or 'none'}); "
            f"found role {row['role']!r} of dataset {row['dataset']!r}"
        )
    return rows["dataset"].where(external, IN_DOMAIN)


def _check_labels(rows: pd.DataFrame, settings: EvaluationSettings) -> None:
    for evaluation, classes in settings.evaluations.items():
        undeclared = (rows["evaluation"] == evaluation) & ~rows["label"].isin(classes)
        if undeclared.any():
            row = first(rows, undeclared)
            raise TableError(
                f"{named(row)}: label {row['label']!r} is not among the classes declared for "
                f"{evaluation} ({', '.join(classes)}). Declare it, or leave such images out"
            )


def _stacked_logits(rows: pd.DataFrame, classes: tuple[str, ...]) -> npt.NDArray[np.floating]:
    lengths = rows["logits"].map(lambda value: np.shape(value) == (len(classes),))
    if not lengths.all():
        row = first(rows, ~lengths)
        raise TableError(
            f"{named(row)}: expected {len(classes)} logits, one a class ({', '.join(classes)}); "
            f"found {row['logits']!r}"
        )
    logits = np.concatenate(rows["logits"].to_list()).reshape(len(rows), len(classes))
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        row = first(rows, pd.Series(~finite))
        raise TableError(
            f"{named(row)}: expected finite logits, found {row['logits']!r}. Look for a diverged "
            "training or a broken encoder; nothing is computed from such a model"
        )
    return logits
