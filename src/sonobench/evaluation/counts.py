"""What each subject adds to a metric, from the logits of one trained model.

Metrics of whole samples, of resampled ones and of samples without one subject are all computed
from sums of these, so images are looked at once.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

# Negative log-likelihoods are rounded to this many units per nat. Sums of whole numbers below 2^53
# are exact in float64, so they do not depend on the order in which rows or BLAS add them up.
NLL_UNITS = 2.0**24


def predicted_classes(
    logits: npt.NDArray[np.floating], allowed: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Class with the largest logit among the `allowed` class indices, (N, K) -> (N,).

    Among equal logits the first of `allowed` wins.
    """
    predicted: npt.NDArray[np.intp] = allowed[np.argmax(logits[:, allowed], axis=1)]
    return predicted


def subject_confusions(
    subject: npt.NDArray[np.intp],
    true: npt.NDArray[np.intp],
    predicted: npt.NDArray[np.intp],
    n_subjects: int,
    n_classes: int,
) -> npt.NDArray[np.int64]:
    """Confusion matrix of every subject's images, (S, K, K), rows true classes.

    `subject`, `true` and `predicted` are indices, one an image, (N,).
    """
    cells = (subject * n_classes + true) * n_classes + predicted
    counts = np.bincount(cells, minlength=n_subjects * n_classes * n_classes)
    return counts.reshape(n_subjects, n_classes, n_classes)


def subject_nll(
    subject: npt.NDArray[np.intp],
    true: npt.NDArray[np.intp],
    logits: npt.NDArray[np.floating],
    allowed: npt.NDArray[np.intp],
    n_subjects: int,
    *,
    normalize: bool = True,
) -> npt.NDArray[np.float64]:
    """Summed negative log-likelihood of every subject's images, (S,), in 1 / `NLL_UNITS` nats.

    The probabilities are the softmax over the `allowed` class indices; `true`, (N,), must be among
    them. Without `normalize` the logits are logarithms of probabilities already. The sums are whole
    numbers.
    """
    exact = logits.astype(np.float64)
    nll = -exact[np.arange(len(true)), true]
    if normalize:
        nll += logsumexp(exact[:, allowed], axis=1)
    sums: npt.NDArray[np.float64] = np.bincount(
        subject, weights=np.rint(nll * NLL_UNITS), minlength=n_subjects
    ).astype(np.float64, copy=False)
    return sums
