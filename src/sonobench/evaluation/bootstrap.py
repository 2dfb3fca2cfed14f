"""Resampling of subjects: one matrix of weights a cohort, shared by every model and metric.

A draw takes, within each stratum, as many subjects as the stratum has, with replacement; a weight
says how often. A statistic of a draw is computed from weighted sums over subjects, so one matrix
product serves all models, and all comparisons between models come from the same draws.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Sums of one block of draws; small enough to stay in a processor's cache.
_BLOCK_BYTES = 2**22


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of a cohort's subjects.

    Attributes:
        weights: how often each draw takes each subject, whole numbers, (draws, S).
        redrawn_share: share of the draws that first came without an image of some declared class
            and were drawn again; in a subgroup of those that are left out for it.
    """

    weights: npt.NDArray[np.float32]
    redrawn_share: float


def draw_subjects(
    strata: npt.NDArray[np.intp],
    carries: npt.NDArray[np.bool_],
    draws: int,
    generator: np.random.Generator,
) -> Draws:
    """Draw subjects with replacement within their strata.

    A draw that lacks something it must carry is drawn again, once. What it still lacks then counts
    as the metrics define it (F1 of an absent class is 0): with 5 % of draws redrawn, the most that
    is called reliable, that is one draw in 400.

    Args:
        strata: stratum of each subject, 0, 1, ..., (S,).
        carries: what each subject carries of what every draw must have, such as an image of each
            declared class, (S, R).
        draws: number of draws.
        generator: source of random numbers; the same state gives the same draws.
    """
    weights = np.empty((draws, strata.size), dtype=np.float32)
    _fill(weights, strata, generator)
    lacking = _lacks(weights, carries)
    redrawn = np.empty((np.count_nonzero(lacking), strata.size), dtype=np.float32)
    _fill(redrawn, strata, generator)
    weights[lacking] = redrawn
    return Draws(weights, float(lacking.mean()))


def bootstrap_statistic(
    weights: npt.NDArray[np.float32],
    per_subject: npt.NDArray[Any],
    statistic: Callable[[npt.NDArray[Any]], npt.NDArray[np.float64]],
) -> npt.NDArray[np.float64]:
    """Compute a statistic in every draw.

    Sums are exact, and so independent of BLAS and of the order of its additions, as long as
    `per_subject` holds whole numbers and no sum exceeds 2^53.

    Args:
        weights: (draws, S), from `draw_subjects`.
        per_subject: what each subject adds to the sums, (S, ...), such as confusion counts of all
            models, (S, models, folds, K, K).
        statistic: takes the weighted sums of some draws, (b, ...), and returns (b, ...).

    Returns:
        The statistic of every draw, (draws, ...).
    """
    # Whole numbers are exact up to 2^24 in float32, which halves the work, and 2^53 in float64.
    exact_in_float32 = per_subject.shape[0] * np.abs(per_subject).max(initial=0) < 2**24
    dtype = np.dtype(np.float32 if exact_in_float32 else np.float64)
    flat = per_subject.reshape(per_subject.shape[0], -1).astype(dtype)
    step = max(1, _BLOCK_BYTES // max(1, flat.shape[1] * dtype.itemsize))
    blocks = []
    # At least one block, so that no draws give no statistics, of the right shape.
    for start in range(0, max(1, len(weights)), step):
        sums = weights[start : start + step].astype(dtype, copy=False) @ flat
        blocks.append(statistic(sums.reshape(-1, *per_subject.shape[1:])))
    return np.concatenate(blocks)


def restricted(
    draws: Draws, members: npt.NDArray[np.intp], carries: npt.NDArray[np.bool_]
) -> Draws:
    """The same draws of some of the subjects, without those that lack what they must carry.

    Args:
        draws: of all subjects.
        members: positions of the subjects, (s,).
        carries: what each of them carries of what a draw must have, (s, R).

    Returns:
        The draws that are left; `redrawn_share` is the share of those that were skipped.
    """
    weights = draws.weights[:, members]
    lacking = _lacks(weights, carries)
    return Draws(weights[~lacking], float(lacking.mean()))


def percentile_interval(
    statistics: npt.NDArray[np.float64], confidence: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lower and upper percentile bound over the draws, (draws, ...) -> two of (...).

    NaN without any draw.
    """
    if not len(statistics):
        nothing = np.full(statistics.shape[1:], np.nan)
        return nothing, nothing
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail], axis=0)
    return low, high


def _fill(
    weights: npt.NDArray[np.float32],
    strata: npt.NDArray[np.intp],
    generator: np.random.Generator,
) -> None:
    for stratum in range(strata.max(initial=-1) + 1):
        members = np.flatnonzero(strata == stratum)
        equal = np.full(members.size, 1 / members.size)
        weights[:, members] = generator.multinomial(members.size, equal, size=len(weights))


def _lacks(
    weights: npt.NDArray[np.float32], carries: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    lacks: npt.NDArray[np.bool_] = ((weights @ carries.astype(np.float32)) == 0).any(axis=1)
    return lacks
