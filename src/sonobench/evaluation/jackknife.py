"""The jackknife over subjects, and intervals of metrics in [0, 1] on the logit scale."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, stdtr, stdtrit

Values = npt.NDArray[np.float64]


def jackknife_replicates(
    counts: npt.NDArray[np.int64],
    statistic: Callable[[npt.NDArray[np.float64]], Values],
    strata: npt.NDArray[np.intp],
) -> Values:
    """The mean statistic of several trained models without each subject in turn.

    Of the stratified delete-one jackknife (JKn; K. M. Wolter, Introduction to Variance Estimation,
    2nd ed., 2007, section 4.5): without subject i of a stratum of n, the stratum's other subjects
    count n / (n - 1) times, so that the stratum keeps its weight. A class that only one subject has
    is absent from one replicate, and counts there as the metrics define it (F1 0), which makes the
    interval wide, as it should be.

    Args:
        counts: confusion counts of every trained model and subject, (U, S, K, K). A model that
            was not tested on a subject has zeros there.
        statistic: (..., K, K) -> (..., M), a function of the proportions between counts only.
        strata: stratum of each subject, 0, 1, ..., (S,).

    Returns:
        (S, M)
    """
    replicates = np.zeros((len(strata), *statistic(counts[0].sum(0)).shape))
    for members in _members(strata):
        # One model after the other: memory is one model's, whatever their number.
        for of_model in counts:
            without = _without_each(of_model.sum(0), of_model[members])
            replicates[members] += statistic(without) / len(counts)
    return replicates


def jackknife_variance(replicates: Values, strata: npt.NDArray[np.intp]) -> Values:
    """Variance of a statistic from its values without each subject, (S, ...) -> (...).

    The sum over strata of (n - 1) / n times the squared deviations of the replicates from their
    mean in the stratum. A stratum of one subject adds nothing, since it says nothing of its
    variance: the caller has to tell.
    """
    variance = np.zeros(replicates.shape[1:])
    for members in _members(strata):
        own, n = replicates[members], members.size
        variance += (n - 1) / n * np.square(own - own.mean(0)).sum(0)
    return variance


def t_interval(
    estimate: Values,
    standard_error: Values,
    degrees_of_freedom: Values | int,
    confidence: float,
) -> tuple[Values, Values]:
    """Interval of a difference of two metrics in [0, 1], within [-1, 1].

    Arrays that broadcast. With 0 degrees of freedom nothing is known, and it is [-1, 1].
    """
    margin = _critical(degrees_of_freedom, confidence) * standard_error
    margin = np.where(np.asarray(degrees_of_freedom) > 0, margin, 2)
    return np.maximum(estimate - margin, -1), np.minimum(estimate + margin, 1)


def t_p(estimate: Values, standard_error: Values, degrees_of_freedom: int) -> Values:
    """Two-sided p of an estimate of 0, from the t distribution; 1 with 0 degrees of freedom.

    Without any standard error 1 for an estimate of 0, and else 0.
    """
    if degrees_of_freedom == 0:
        return np.ones_like(estimate)
    with np.errstate(divide="ignore"):
        ratio = np.abs(estimate) / np.where(estimate == 0, 1, standard_error)
    p: Values = 2 * stdtr(degrees_of_freedom, -ratio)
    return p


def logit_interval(
    estimate: Values,
    standard_error: Values,
    shares: Values,
    degrees_of_freedom: int,
    confidence: float,
) -> tuple[Values, Values]:
    """Interval of metrics in [0, 1]: t on the logit scale, exact binomial at 0 and 1.

    Inside (0, 1) the standard error is carried to the logit scale by its derivative,
    1 / (estimate (1 - estimate)).

    An estimate of exactly 0 or 1 has no spread to take an error from: no subject differed. Then
    the bound is that of Clopper and Pearson (1934) for a proportion of which none was seen in n
    subjects, 1 - (tail)^(1/n) with tail = (1 - confidence) / 2, as if a subject were all right or
    all wrong, which is the widest that images of one patient can make it. Subjects with more
    images count for more, so n is the effective number 1 / sum of squared shares (Kish 1965).

    Args:
        estimate: (M,).
        standard_error: of the estimates, (M,).
        shares: how much of each metric rests on each subject, (S, M); columns sum to 1.
        degrees_of_freedom: of the standard error, subjects - strata; with 0 the bounds of
            estimates inside (0, 1) are NaN.
        confidence: in (0, 1).

    Returns:
        Lower and upper bounds, (M,) each.
    """
    tail = (1 - confidence) / 2
    edge = (estimate == 0) | (estimate == 1)
    inside = np.where(edge, 0.5, estimate)
    critical = _critical(degrees_of_freedom, confidence)
    margin = critical * standard_error / (inside * (1 - inside))
    low, high = expit(logit(inside) - margin), expit(logit(inside) + margin)
    unseen = 1 - tail ** np.square(shares).sum(0)
    low = np.where(edge, np.where(estimate == 0, 0.0, 1 - unseen), low)
    high = np.where(edge, np.where(estimate == 0, unseen, 1.0), high)
    return low, high


def _critical(degrees_of_freedom: Values | int, confidence: float) -> Values:
    """The t distribution's quantile; NaN with 0 degrees of freedom."""
    return np.asarray(stdtrit(degrees_of_freedom, 1 - (1 - confidence) / 2), dtype=np.float64)


def _members(strata: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    return [np.flatnonzero(strata == stratum) for stratum in range(strata.max(initial=-1) + 1)]


def _without_each(
    total: npt.NDArray[np.int64], members: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Counts without each member of a stratum, (S, K, K), the others weighted up to its size."""
    n = len(members)
    if n == 1:
        return total[None].astype(np.float64)
    without: npt.NDArray[np.float64] = total + (members.sum(0) - n * members) / (n - 1)
    return without
