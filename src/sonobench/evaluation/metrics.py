"""Metrics as functions of a confusion matrix, for any number of matrices at once.

A confusion matrix counts images: rows are true classes, columns predicted classes. Every function
takes an array (..., K, K) of counts, whole or weighted, and keeps the leading dimensions.
`declared` holds the indices of the classes that the cohort has; averages run over these. A ratio
without a denominator is 0: a declared class that is never predicted has precision 0, and one
without any image has recall 0 and, since there is no true positive, F1 0.

Definitions are scikit-learn's with `labels=declared, zero_division=0`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[Any]
Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def per_class_recall(confusion: Counts) -> Values:
    """Share of a class's images that are predicted as that class, (..., K, K) -> (..., K)."""
    return _ratio(_correct(confusion), _true(confusion))


def per_class_precision(confusion: Counts) -> Values:
    """Share of the images predicted as a class that are of it, (..., K, K) -> (..., K)."""
    return _ratio(_correct(confusion), _predicted(confusion))


def per_class_f1(confusion: Counts) -> Values:
    """Harmonic mean of precision and recall, 2 TP / (true + predicted), (..., K, K) -> (..., K)."""
    return _ratio(2 * _correct(confusion), _true(confusion) + _predicted(confusion))


def macro_f1(confusion: Counts, declared: Indices) -> Values:
    """Mean F1 of the declared classes, (..., K, K) -> (...)."""
    return _mean(per_class_f1(confusion)[..., declared])


def weighted_f1(confusion: Counts, declared: Indices) -> Values:
    """F1 of the declared classes, weighted by their numbers of images, (..., K, K) -> (...)."""
    images = _true(confusion)[..., declared]
    return _ratio((per_class_f1(confusion)[..., declared] * images).sum(-1), images.sum(-1))


def accuracy(confusion: Counts, declared: Indices) -> Values:
    """Share of the images of declared classes that are predicted right, (..., K, K) -> (...)."""
    images = _true(confusion)[..., declared]
    return _ratio(_correct(confusion)[..., declared].sum(-1), images.sum(-1))


def balanced_accuracy(confusion: Counts, declared: Indices) -> Values:
    """Mean recall of the declared classes, (..., K, K) -> (...)."""
    return _mean(per_class_recall(confusion)[..., declared])


# Metrics that two models are compared by, and those whose intervals come from the bootstrap.
COMPARED = ("macro_f1", "weighted_f1", "accuracy")
UNBOUNDED = ("kappa", "mcc")


def drawn_metrics(confusion: Counts, declared: Indices) -> Values:
    """The metrics `COMPARED`, then `UNBOUNDED`, (..., K, K) -> (..., 5).

    All images must be of declared classes. Cohen's kappa and the Matthews correlation coefficient
    (R_K of Gorodkin, 2004) count predictions of undeclared classes as any other error; both are 0
    where they have no denominator, as when only one class occurs and is always predicted.
    """
    # Each sum is taken once: there are as many matrices as draws times models.
    confusion = np.asarray(confusion, np.float64)
    correct, true, predicted = _correct(confusion), _true(confusion), _predicted(confusion)
    f1 = _ratio(2 * correct, true + predicted)[..., declared]
    of_class = true[..., declared]
    images, right = np.einsum("...i->...", true), np.einsum("...i->...", correct)
    chance = np.einsum("...i,...i->...", true, predicted)
    spread = (images**2 - np.einsum("...i,...i->...", true, true)) * (
        images**2 - np.einsum("...i,...i->...", predicted, predicted)
    )
    gain = images * right - chance
    return np.stack(
        [
            np.einsum("...i->...", f1) / len(declared),
            _ratio(np.einsum("...i,...i->...", f1, of_class), images),
            _ratio(right, images),
            _ratio(gain, images**2 - chance),
            _ratio(gain, np.sqrt(spread)),
        ],
        axis=-1,
    )


# Averages that weight classes equally, averages that pool all images, metrics of a class each.
_BALANCED = {"macro_f1": macro_f1, "balanced_accuracy": balanced_accuracy}
_POOLED = {"weighted_f1": weighted_f1, "accuracy": accuracy}
_PER_CLASS = {"f1": per_class_f1, "precision": per_class_precision, "recall": per_class_recall}


def bounded_metric_names(classes: Sequence[str], declared: Indices) -> list[str]:
    """Names of the M metrics that lie in [0, 1]: `macro_f1`, ..., `f1[Fetal brain]`, ...."""
    per_class = [f"{name}[{classes[index]}]" for name in _PER_CLASS for index in declared]
    return [*_BALANCED, *_POOLED, *per_class]


def bounded_metrics(confusion: Counts, declared: Indices) -> Values:
    """All metrics that lie in [0, 1], (..., K, K) -> (..., M), as `bounded_metric_names` has them.

    M is 4 averages and 3 metrics of each declared class.
    """
    averages = [metric(confusion, declared) for metric in (_BALANCED | _POOLED).values()]
    per_class = [metric(confusion)[..., declared] for metric in _PER_CLASS.values()]
    return np.concatenate([np.stack(averages, axis=-1), *per_class], axis=-1)


def subject_shares(class_images: Counts, declared: Indices) -> Values:
    """How much of each bounded metric rests on each subject, (S, K) -> (S, M); columns sum to 1.

    Subject s holds m[s, k] of the M[k] images of class k. Its share of a metric of class k is
    m[s, k] / M[k]; of one that weights classes equally, the mean of these over the declared
    classes; of one that pools images, its part of all images. These are exactly the weights with
    which a subject's recall enters recall, balanced accuracy and accuracy; precision and F1 take
    the same.
    """
    images = class_images[:, declared]
    by_class = _ratio(images, images.sum(0))
    pooled = _ratio(images.sum(1), images.sum())
    averages = [_mean(by_class)] * len(_BALANCED) + [pooled] * len(_POOLED)
    return np.concatenate([np.stack(averages, axis=-1), *[by_class] * len(_PER_CLASS)], axis=-1)


def _correct(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _true(confusion: Counts) -> Counts:
    # einsum adds up short rows several times faster than sum does.
    images: Counts = np.einsum("...ij->...i", confusion)
    return images


def _predicted(confusion: Counts) -> Counts:
    images: Counts = np.einsum("...ij->...j", confusion)
    return images


def _mean(values: Values) -> Values:
    mean: Values = np.asarray(values.mean(-1))
    return mean


def _ratio(numerator: Counts, denominator: Counts) -> Values:
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(
        numerator, denominator, out=np.zeros(shape), where=denominator > 0, dtype=np.float64
    )
