"""Temperatures fitted on validation images, and how confidence goes with being right."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq
from scipy.special import softmax

from sonobench.evaluation.cohort import TrainedModel
from sonobench.evaluation.inputs import validation_rows
from sonobench.evaluation.probabilities import equal_mass_bins, log_probabilities
from sonobench.evaluation.settings import EvaluationSettings
from sonobench.tables import TEMPERATURES, check, empty

# Temperatures are looked for between these. A model that its validation images cannot calibrate
# (all right, or no better than chance) has none: the further, the better, and it gets one of them.
TEMPERATURE_BOUNDS = 0.01, 100.0

Values = npt.NDArray[np.float64]
Key = tuple[str, str, int, int]


def fit_temperature(logits: npt.NDArray[np.floating], true: npt.NDArray[np.intp]) -> float:
    """Temperature T with the least negative log-likelihood of softmax(logits / T).

    (Guo et al., 2017.) The likelihood is concave in 1 / T, so that its derivative has one root.

    Args:
        logits: (N, K).
        true: class index of every image, (N,).

    Returns:
        Within `TEMPERATURE_BOUNDS`.
    """
    lowest, highest = TEMPERATURE_BOUNDS
    exact = logits.astype(np.float64)
    of_true = exact[np.arange(len(true)), true]

    def slope(inverse: float) -> float:
        expected = (softmax(inverse * exact, axis=1) * exact).sum(1)
        return float((expected - of_true).mean())

    if slope(1 / highest) >= 0:
        return highest
    if slope(1 / lowest) <= 0:
        return lowest
    return 1 / float(brentq(slope, 1 / highest, 1 / lowest, xtol=1e-10))


def temperatures(predictions: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """Temperature of every trained model that has validation rows (`sonobench.tables`).

    The validation images also chose the penalty or the epoch of their model; test and external
    images have no part in it.
    """
    rows, logits = validation_rows(predictions, settings)
    if not settings.probabilities or rows.empty:
        return empty(TEMPERATURES)
    if settings.outputs == "probabilities":
        logits = log_probabilities(logits.astype(np.float64), settings.zero_probability)
    true = pd.Index(settings.classes).get_indexer(pd.Index(rows["label"]))
    # Sums do not depend on the order in which the file has the images.
    order = np.argsort(rows["image_id"].to_numpy(dtype=str), kind="stable")
    groups = cast(
        dict[Key, npt.NDArray[np.intp]],
        rows.iloc[order].groupby(["encoder", "adaptation", "fold", "seed"]).indices,
    )
    fitted = []
    for key, group in sorted(groups.items()):
        members = order[group]
        subjects = rows["subject_id"].iloc[members].nunique()
        temperature = fit_temperature(logits[members], true[members])
        fitted.append((*key, temperature, len(members), subjects))
    return check(pd.DataFrame(fitted, columns=TEMPERATURES.names), TEMPERATURES)


def calibrated(
    models: Mapping[tuple[str, str], Sequence[TrainedModel]], fitted: pd.DataFrame
) -> dict[tuple[str, str], list[TrainedModel]]:
    """The models of which every trained one has a temperature, with their logits divided by it.

    One at a bound is none: what it gives depends on where the bound is.
    """
    of = {
        tuple(row[name] for name in TEMPERATURES.key): float(row["temperature"])
        for row in fitted.to_dict("records")
        if row["temperature"] not in TEMPERATURE_BOUNDS
    }
    return {
        pair: [
            replace(model, logits=model.logits / of[*pair, model.fold, model.seed], given=None)
            for model in trained
        ]
        for pair, trained in models.items()
        if all((*pair, model.fold, model.seed) in of for model in trained)
    }


def reliability(
    trained: Sequence[TrainedModel], true: npt.NDArray[np.intp], allowed: npt.NDArray[np.intp]
) -> pd.DataFrame:
    """Confidence and accuracy in 15 bins of equal mass, over all predictions of the models."""
    pairs = [_confidence(model, true, allowed) for model in trained]
    confidence, right = (np.concatenate(part) for part in zip(*pairs, strict=True))
    frame = pd.DataFrame({"confidence": confidence, "accuracy": right.astype(np.float64)})
    by_bin = frame.groupby(pd.Series(equal_mass_bins(confidence), name="bin"))
    return by_bin.mean().assign(n_images=by_bin.size()).reset_index()


def risk_coverage(
    trained: Sequence[TrainedModel], true: npt.NDArray[np.intp], allowed: npt.NDArray[np.intp]
) -> pd.DataFrame:
    """Share of errors among the most confident 1, 2, ..., 100 % of images, mean over the models.

    Images with equal confidence are answered in equal parts.
    """
    coverage = np.arange(1, 101) / 100
    risks = []
    for model in trained:
        confidence, right = _confidence(model, true, allowed)
        _, group = np.unique(-confidence, return_inverse=True)
        of_group = np.bincount(group, ~right) / np.bincount(group)
        errors = np.cumsum(of_group[np.sort(group)])
        answered = np.ceil(coverage * len(errors) - 1e-9).astype(np.intp)
        risks.append(errors[answered - 1] / answered)
    return pd.DataFrame({"coverage": coverage, "risk": np.mean(risks, axis=0)})


def _confidence(
    model: TrainedModel, true: npt.NDArray[np.intp], allowed: npt.NDArray[np.intp]
) -> tuple[Values, npt.NDArray[np.bool_]]:
    """Probability of the predicted class of every image, and whether it is the true one."""
    predicted, probability = model.predicted(allowed), model.probabilities(allowed)
    return probability[np.arange(len(predicted)), predicted], predicted == true[model.images]
