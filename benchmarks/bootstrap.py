"""A whole evaluation against loops over scikit-learn that resample rows.

Both judge 7 encoders x 2 adaptations x 5 folds on 5,271 images of 896 patients at home (the sizes
of the official test half of FETAL_PLANES_DB) and 450 images of 112 subjects abroad. `evaluate`
gives every metric with its interval, all paired differences, drops, ranks and ensembles, from
10,000 draws (AUROC, average precision, calibration errors and risk-coverage from 1,000). The loop
computes, for every draw, model and fold, five metrics of predicted classes (one-vs-rest AUROC and
average precision every tenth draw); it is timed on a few draws at home and scaled to all of both
cohorts, which favours neither. That both give the same is checked on draws of one model.
"""

import resource
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
)

from sonobench.evaluation import (
    EvaluationSettings,
    bootstrap_statistic,
    draw_subjects,
    evaluate,
)
from sonobench.evaluation.counts import subject_confusions
from sonobench.evaluation.metrics import drawn_metrics

CLASSES = ("abdomen", "brain", "femur", "thorax", "cervix", "other")
ADAPTATIONS = ("linear_probe", "full_finetune")


def main(small: bool = False) -> dict[str, Any]:
    """Measure; `small` is the same at a size of seconds for a test of the benchmark itself."""
    draws, encoders, folds = (200, 2, 2) if small else (10_000, 7, 5)
    home, abroad = ((300, 60), (100, 30)) if small else ((5_271, 896), (450, 112))
    generator = np.random.default_rng(0)
    samples = pd.concat(
        [
            _cohort("home", *home, CLASSES, generator),
            _cohort("abroad", *abroad, CLASSES[:4], generator),
        ],
        ignore_index=True,
    )
    predictions = _predictions(samples, encoders, folds, generator)
    settings = EvaluationSettings(
        CLASSES, "home", {"abroad": CLASSES[:4]}, bootstrap_draws=draws, seed=0
    )
    start = time.perf_counter()
    evaluation = evaluate(predictions, samples, settings)
    seconds = time.perf_counter() - start
    loop = _loop_seconds(samples, predictions, draws, encoders * len(ADAPTATIONS) * folds)
    return {
        "draws": draws,
        "models": encoders * len(ADAPTATIONS),
        "folds": folds,
        "images": [home[0], abroad[0]],
        "results": len(evaluation.results),
        "comparisons": len(evaluation.comparisons),
        "seconds": seconds,
        # Of the whole process, with its libraries and the predictions.
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "sklearn_loop_seconds_scaled": loop,
        "ratio": loop / seconds,
        "largest_difference": _largest_difference(samples, predictions),
    }


def _cohort(
    name: str,
    images: int,
    patients: int,
    classes: tuple[str, ...],
    generator: np.random.Generator,
) -> pd.DataFrame:
    patient = np.sort(
        np.concatenate([np.arange(patients), generator.integers(patients, size=images - patients)])
    )
    subjects = [f"{name}/{number:04d}" for number in patient]
    ids = [f"{name}/{number:05d}" for number in range(images)]
    return pd.DataFrame(
        {
            "image_id": ids,
            "dataset": name,
            "path": ids,
            "pixel_sha256": ids,
            "label": generator.choice(classes, size=images),
            "patient_id": subjects,
            "subject_id": subjects,
            "site": [f"centre {number % 5}" if name == "abroad" else None for number in patient],
            "device": None,
            "operator": None,
            "official_split": None,
        }
    )


def _predictions(
    samples: pd.DataFrame, encoders: int, folds: int, generator: np.random.Generator
) -> pd.DataFrame:
    true = samples["label"].map(CLASSES.index).to_numpy()
    columns = samples[["image_id", "dataset", "subject_id", "label"]]
    role = np.where(samples["dataset"] == "home", "test", "external")
    parts = []
    for encoder in range(encoders):
        for adaptation in ADAPTATIONS:
            common = generator.normal(size=(len(samples), len(CLASSES)))
            for fold in range(folds):
                logits = common + generator.normal(0, 0.5, common.shape)
                logits[np.arange(len(samples)), true] += 2 + 0.1 * encoder
                parts.append(
                    columns.assign(
                        encoder=f"encoder {encoder}",
                        adaptation=adaptation,
                        role=role,
                        fold=fold,
                        seed=0,
                        logits=list(logits.astype(np.float32)),
                    )
                )
    return pd.concat(parts, ignore_index=True)


def _one_model(
    samples: pd.DataFrame, predictions: pd.DataFrame
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.floating]]:
    """Subject and class of every home image, and the logits of the first model."""
    own = predictions.iloc[: len(samples)]
    own = own[own["dataset"] == "home"]
    subject = np.unique(own["subject_id"], return_inverse=True)[1]
    return subject, own["label"].map(CLASSES.index).to_numpy(), np.stack(own["logits"].to_list())


def _loop_seconds(
    samples: pd.DataFrame, predictions: pd.DataFrame, draws: int, models: int
) -> float:
    """What all draws of all models would take, from a few draws of one model."""
    subject, true, logits = _one_model(samples, predictions)
    patients = subject.max() + 1
    weights = _weights(patients, 10)
    predicted = logits.argmax(1)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probability = powers / powers.sum(1, keepdims=True)
    start = time.perf_counter()
    for draw, weight in enumerate(weights):
        rows = np.repeat(np.arange(len(true)), weight[subject].astype(int))
        _by_scikit_learn(true[rows], predicted[rows])
        if draw == 0:
            for index in range(len(CLASSES)):
                roc_auc_score(true[rows] == index, probability[rows, index])
                average_precision_score(true[rows] == index, probability[rows, index])
    seconds = (time.perf_counter() - start) / len(weights)
    return seconds * draws * models * len(samples) / len(true)


def _by_scikit_learn(
    true: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    labels = np.arange(len(CLASSES))
    return np.array(
        [
            f1_score(true, predicted, labels=labels, average="macro", zero_division=0),
            f1_score(true, predicted, labels=labels, average="weighted", zero_division=0),
            accuracy_score(true, predicted),
            cohen_kappa_score(true, predicted),
            matthews_corrcoef(true, predicted),
        ]
    )


def _largest_difference(samples: pd.DataFrame, predictions: pd.DataFrame) -> float:
    """Between the two in some draws of one model."""
    subject, true, logits = _one_model(samples, predictions)
    patients = subject.max() + 1
    weights = _weights(patients, 5)
    counts = subject_confusions(subject, true, logits.argmax(1), patients, len(CLASSES))
    ours = bootstrap_statistic(
        weights, counts, lambda sums: drawn_metrics(sums, np.arange(len(CLASSES)))
    )
    theirs = []
    for weight in weights:
        rows = np.repeat(np.arange(len(true)), weight[subject].astype(int))
        theirs.append(_by_scikit_learn(true[rows], logits[rows].argmax(1)))
    return float(np.abs(ours - np.stack(theirs)).max())


def _weights(patients: int, draws: int) -> npt.NDArray[np.float32]:
    one, anything = np.zeros(patients, dtype=np.intp), np.ones((patients, 1), dtype=np.bool_)
    return draw_subjects(one, anything, draws, np.random.default_rng(0)).weights
