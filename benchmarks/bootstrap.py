"""The joint patient bootstrap of macro F1 against a loop over scikit-learn's `f1_score`.

Both get the predicted classes of 14 models x 5 folds on 5,271 images of 896 patients (the sizes of
the official test half of FETAL_PLANES_DB) and give the mean over folds of macro F1, for every model
in every draw. The loop resamples rows and calls `f1_score` for every draw, model and fold; it is
timed on a few draws and scaled to all, which favours neither.
"""

import statistics
import time
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

from sonobench.evaluation import bootstrap_statistic, draw_subjects
from sonobench.evaluation.counts import subject_confusions
from sonobench.evaluation.metrics import macro_f1

CLASSES = np.arange(6)


def main(small: bool = False) -> dict[str, Any]:
    """Measure; `small` is the same at a size of seconds for a test of the benchmark itself."""
    draws, models, folds, images, patients = (
        (200, 2, 2, 300, 60) if small else (10_000, 14, 5, 5_271, 896)
    )
    loop_draws, repeats = 3, 1 if small else 3
    subject, true, predicted = _cohort(models, folds, images, patients)
    ours, loop, differences = [], [], []
    for repeat in range(repeats):
        start = time.perf_counter()
        weights, values = _ours(subject, true, predicted, patients, draws)
        ours.append(time.perf_counter() - start)
        some = slice(repeat * loop_draws, (repeat + 1) * loop_draws)
        start = time.perf_counter()
        expected = _loop(subject, true, predicted, weights[some])
        loop.append((time.perf_counter() - start) * draws / loop_draws)
        differences.append(float(np.abs(values[some] - expected).max()))
    tracemalloc.start()
    _ours(subject, true, predicted, patients, draws)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "draws": draws,
        "models": models,
        "folds": folds,
        "images": images,
        "patients": patients,
        "seconds": statistics.median(ours),
        "peak_memory_mib": peak / 2**20,
        "sklearn_loop_seconds_scaled": statistics.median(loop),
        "sklearn_loop_draws_measured": loop_draws * repeats,
        "ratio": statistics.median(loop) / statistics.median(ours),
        "largest_difference": max(differences),
    }


def _cohort(
    models: int, folds: int, images: int, patients: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Subject and class of every image, and the classes predicted, (models, folds, images)."""
    generator = np.random.default_rng(0)
    # Every patient has an image; the rest are spread as unevenly as in the real cohort.
    spread = generator.dirichlet(np.full(patients, 0.5))
    sizes = 1 + generator.multinomial(images - patients, spread)
    subject = np.repeat(np.arange(patients), sizes)
    true = generator.integers(len(CLASSES), size=images)
    wrong = generator.random((models, folds, images)) < 0.1
    other = generator.integers(len(CLASSES), size=wrong.shape)
    return subject, true, np.where(wrong, other, true)


def _ours(
    subject: npt.NDArray[np.intp],
    true: npt.NDArray[np.intp],
    predicted: npt.NDArray[np.intp],
    patients: int,
    draws: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Weights of the draws and the mean macro F1 over folds, (draws, models)."""
    of_class = np.bincount(subject * len(CLASSES) + true, minlength=patients * len(CLASSES))
    drawn = draw_subjects(
        np.zeros(patients, dtype=np.intp),
        of_class.reshape(patients, -1) > 0,
        draws,
        np.random.default_rng(0),
    )
    counts = np.stack(
        [
            [subject_confusions(subject, true, fold, patients, len(CLASSES)) for fold in model]
            for model in predicted
        ]
    )
    values = bootstrap_statistic(
        drawn.weights,
        np.moveaxis(counts, 2, 0),
        lambda confusion: macro_f1(confusion, CLASSES).mean(-1),
    )
    return drawn.weights, values


def _loop(
    subject: npt.NDArray[np.intp],
    true: npt.NDArray[np.intp],
    predicted: npt.NDArray[np.intp],
    weights: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    values = np.empty((len(weights), *predicted.shape[:2]))
    for draw, weight in enumerate(weights):
        rows = np.repeat(np.arange(len(true)), weight[subject].astype(int))
        for position in np.ndindex(predicted.shape[:2]):
            values[draw, *position] = f1_score(
                true[rows],
                predicted[*position, rows],
                labels=CLASSES,
                average="macro",
                zero_division=0,
            )
    mean: npt.NDArray[np.float64] = values.mean(-1)
    return mean
