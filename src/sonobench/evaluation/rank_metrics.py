"""Metrics that rank images, in every draw at once: AUROC, average precision, risk-coverage area.

Images are sorted once. In a draw each counts as often as its subject was drawn, so what lies above
a threshold is a cumulative sum of weights. Images with equal scores share a threshold. Computed in
the precision of the weights: in float32 sums of weights are exact (below 2^24), and the metrics of
draws good to five digits, which is enough for their spread.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Weights = npt.NDArray[np.floating]
Indices = npt.NDArray[np.intp]

# Draws at a time; bounds the memory of cumulative sums, images times draws.
_BLOCK = 250
_STRETCH = 64


def one_vs_rest(
    scores: npt.NDArray[np.float64],
    positive: npt.NDArray[np.bool_],
    subject: Indices,
    weights: Weights,
) -> npt.NDArray[np.float64]:
    """AUROC and average precision of one class against the rest, in every draw.

    AUROC is the probability that a positive image has a larger score than a negative one, ties
    counting half (Mann and Whitney). Average precision is the sum over thresholds of precision
    times the gain in recall, without interpolation. Both as scikit-learn defines them.

    Args:
        scores: of the class, (n,).
        positive: which images are of the class, at least one, (n,).
        subject: index of every image's subject, (n,).
        weights: how often each draw takes each subject, (S, B).

    Returns:
        (2, B); NaN where a draw has no positive image, AUROC also where it has no negative one.
    """
    thresholds, of_positive = np.unique(scores[positive], return_inverse=True)
    m, n_subjects = len(thresholds), len(weights)
    first = np.searchsorted(thresholds, scores[~positive], side="left")
    tied = first < np.searchsorted(thresholds, scores[~positive], side="right")
    negative = subject[~positive]
    hits_of = _sums(of_positive, subject[positive], (m, n_subjects), weights.dtype)
    misses_of = _sums(first, negative, (m + 1, n_subjects), weights.dtype)
    ties_of = _sums(first[tied], negative[tied], (m, n_subjects), weights.dtype)
    blocks = []
    for start in range(0, weights.shape[1], _BLOCK):
        block = np.ascontiguousarray(weights[:, start : start + _BLOCK])
        hits = hits_of @ block
        found = _from_the_last(hits)
        misses = _from_the_last(misses_of @ block)
        total, above = misses[0], misses[1:]
        ties = ties_of @ block if tied.any() else np.zeros_like(total)
        with np.errstate(divide="ignore", invalid="ignore"):
            auroc = _dot(hits, total - above - ties / 2) / total
            average_precision = _dot(hits, found / np.maximum(found + above + ties, 1))
            blocks.append(np.stack([auroc, average_precision]) / found[0])
    return np.concatenate(blocks, axis=1).astype(np.float64)


def risk_coverage_area(
    confidence: npt.NDArray[np.float64],
    wrong: npt.NDArray[np.bool_],
    subject: Indices,
    weights: Weights,
) -> npt.NDArray[np.float64]:
    """Area under the risk-coverage curve in every draw, (B,).

    The mean over images of the share of errors among all images that are at least as confident
    (Geifman and El-Yaniv, 2017). 0 is a model without an error.

    Args:
        confidence: of the predicted class, (n,).
        wrong: which images are predicted wrong, (n,).
        subject: index of every image's subject, (n,).
        weights: how often each draw takes each subject, (S, B).

    Returns:
        (B,); NaN where a draw has no image.
    """
    thresholds, row = np.unique(confidence, return_inverse=True)
    shape = (len(thresholds), len(weights))
    images_of = _sums(row, subject, shape, weights.dtype)
    errors_of = _sums(row[wrong], subject[wrong], shape, weights.dtype)
    blocks = []
    for start in range(0, weights.shape[1], _BLOCK):
        block = np.ascontiguousarray(weights[:, start : start + _BLOCK])
        images = images_of @ block
        errors = _from_the_last(errors_of @ block)
        answered = _from_the_last(images)
        with np.errstate(invalid="ignore"):
            blocks.append(_dot(images, errors / np.maximum(answered, 1)) / answered[0])
    return np.concatenate(blocks).astype(np.float64)


def _sums(
    row: Indices, subject: Indices, shape: tuple[int, int], dtype: np.dtype[Any]
) -> "csr_array[Any, tuple[int, int]]":
    """The matrix that takes weights of subjects to sums over the images of every row."""
    return csr_array((np.ones(len(row), dtype), (row, subject)), shape=shape)


def _from_the_last(rows: Weights) -> Weights:
    """Cumulative sums from the last row up, (m, B) -> (m, B)."""
    # numpy's cumsum over the first axis adds single numbers. Adding rows is many times as fast:
    # first in all stretches of rows at once, then what comes after each stretch.
    m, draws = rows.shape
    stretches = -(-m // _STRETCH)
    sums = np.zeros((stretches, _STRETCH, draws), rows.dtype)
    sums.reshape(-1, draws)[:m] = rows
    for row in range(_STRETCH - 2, -1, -1):
        sums[:, row] += sums[:, row + 1]
    for stretch in range(stretches - 2, -1, -1):
        sums[stretch] += sums[stretch + 1, 0]
    return sums.reshape(-1, draws)[:m]


def _dot(a: Weights, b: Weights) -> Weights:
    """Sum of products over the rows."""
    products: Weights = np.einsum("ij,ij->j", a, b)
    return products
