"""What each subject adds to metrics of probabilities: scores of images, calibration errors by bin.

Probabilities are the softmax over the classes that may be predicted, or as they were given. Sums
are whole numbers of small units, so that they do not depend on the order of rows, subjects, draws.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from sonobench.evaluation.counts import NLL_UNITS, subject_nll

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

BINS = 15
_UNITS = NLL_UNITS


def probabilities(
    logits: npt.NDArray[np.floating], allowed: Indices, given: Values | None = None
) -> Values:
    """Softmax over the `allowed` class indices, (N, K) -> (N, K); 0 for the others.

    Where probabilities were `given`, (N, K), these, to the last digit: equal ones stay equal. If
    not all classes are allowed, they are divided by their sum over those that are; where that is 0,
    the classes are equally probable.
    """
    if given is not None and len(allowed) == given.shape[1]:
        return given
    exact = np.zeros(logits.shape)
    if given is None:
        exact[:, allowed] = np.exp(log_softmax(logits[:, allowed].astype(np.float64), axis=1))
        return exact
    total = given[:, allowed].sum(axis=1, keepdims=True)
    equal = np.full((len(given), len(allowed)), 1 / len(allowed))
    exact[:, allowed] = np.divide(given[:, allowed], total, out=equal, where=total > 0)
    return exact


def log_probabilities(given: Values, zero: float) -> Values:
    """Logarithms of given probabilities; one of exactly 0 counts as `zero`."""
    return np.log(np.where(given == 0, zero, given))


def equal_mass_bins(values: Values) -> Indices:
    """Bin of every value, 0 ... 14, by quantiles of the values themselves, (N,) -> (N,).

    Equal values share a bin, so that bins can be unequal or empty where there are many ties.
    """
    edges = np.quantile(values, np.arange(1, BINS) / BINS)
    bins: Indices = np.searchsorted(edges, values, side="left")
    return bins


@dataclass(frozen=True)
class ProbabilitySums:
    """Sums over every subject's images of one trained model, in whole units.

    Attributes:
        scores: number of images, negative log-likelihood, Brier score, (S, 3).
        gaps: number of images; then, by bin of the predicted class' probability, that probability
            less whether it is right; then the same of every declared class, (S, 1 + (1 + D) 15).
    """

    scores: Values
    gaps: Values


def probability_sums(
    subject: Indices,
    true: Indices,
    logits: npt.NDArray[np.floating],
    allowed: Indices,
    declared: Indices,
    n_subjects: int,
    given: Values | None = None,
) -> ProbabilitySums:
    """Tally one trained model; bins are fixed here, on all of its images.

    Args:
        subject, true: indices, one an image, (N,).
        logits: (N, K).
        allowed: classes that may be predicted.
        declared: classes of the cohort.
        n_subjects: S.
        given: probabilities whose logarithms the logits are, (N, K), if they were given.
    """
    probability = probabilities(logits, allowed, given)
    is_class = np.arange(probability.shape[1]) == true[:, None]
    brier = np.square(probability - is_class).sum(1)
    predicted = allowed[np.argmax((logits if given is None else given)[:, allowed], axis=1)]
    confidence = probability[np.arange(len(true)), predicted]
    images = np.bincount(subject, minlength=n_subjects).astype(np.float64)
    # What is given sums to 1 but for the rounding of its digits, and counts as it is.
    sums_to_1 = given is not None and len(allowed) == logits.shape[1]
    nll = subject_nll(subject, true, logits, allowed, n_subjects, normalize=not sums_to_1)
    gaps = [_by_bin(confidence, predicted == true, subject, n_subjects)]
    for index in declared:
        gaps.append(_by_bin(probability[:, index], true == index, subject, n_subjects))
    return ProbabilitySums(
        np.column_stack([images, nll, np.bincount(subject, np.rint(brier * _UNITS), n_subjects)]),
        np.column_stack([images, *gaps]),
    )


def score_means(scores: Values) -> Values:
    """Mean negative log-likelihood and Brier score of summed `scores`, (..., 3) -> (..., 2).

    The Brier score is the squared distance of the probabilities from the truth over all classes,
    between 0 and 2 (Brier, 1950).
    """
    means: Values = scores[..., 1:] / scores[..., :1] / _UNITS
    return means


def calibration_errors(gaps: Values) -> Values:
    """Expected calibration error of summed `gaps`, top-label and class-wise, (..., 2).

    The mean over images of the absolute difference, in the image's bin, of mean probability and
    share of successes (Naeini, Cooper and Hauskrecht, 2015; here in 15 bins of equal mass);
    class-wise: the mean over the declared classes of that of their probabilities (Kull et al.,
    2019). Biased upward: noise within bins adds to it, most where bins hold few images.
    """
    by_bin = gaps[..., 1:].reshape(*gaps.shape[:-1], -1, BINS)
    errors = np.abs(by_bin).sum(-1) / gaps[..., :1] / _UNITS
    both: Values = np.stack([errors[..., 0], errors[..., 1:].mean(-1)], axis=-1)
    return both


def _by_bin(
    probability: Values, success: npt.NDArray[np.bool_], subject: Indices, n_subjects: int
) -> Values:
    cells = subject * BINS + equal_mass_bins(probability)
    gaps = np.rint((probability - success) * _UNITS)
    sums = np.bincount(cells, gaps, n_subjects * BINS).astype(np.float64, copy=False)
    return sums.reshape(n_subjects, BINS)
