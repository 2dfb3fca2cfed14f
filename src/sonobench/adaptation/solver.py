"""The path of a linear probe: its solutions for every fold and penalty, each with a certificate.

The probe is multinomial logistic regression with an L2 penalty on features that every fold
standardises with its own training images. For fold f and penalty λ it minimises over weights W and
intercepts b

    (1 / n_f) Σ_{i in f} CE(softmax(W x̃_i + b), y_i) + λ/2 ‖W‖²,

b unpenalised. The problem is convex, so there is one right answer, and the certificate, the largest
absolute entry of the gradient in double precision, says how near it is. scikit-learn's C is
1 / (λ n_f).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sonobench.adaptation.probe_descent import Descent
from sonobench.adaptation.probe_objective import Evaluation, ProbeObjective

# Rounds of iterative refinement at most; one or two are what ill-conditioned features take.
_ROUNDS = 20


@dataclass(frozen=True)
class ProbePath:
    """The solutions of F folds at L penalties, for D features and K classes.

    Attributes:
        penalties: (L,) λ, from strong to weak.
        coefficients: (F, L, D, K) for the features as they came:
            logits = X @ coefficients[f, l] + intercepts[f, l].
        intercepts: (F, L, K), summing to zero over the classes, as the coefficients do.
        objective: (F, L) in double precision.
        gradient: (F, L) the certificate: largest absolute entry of the gradient on the features as
            the fold standardises them, in double precision.
        converged: (F, L) whether the certificate is within the tolerance.
        iterations: (F, L).
        fitted: (F, L) False where the fold's path had ended; the rest is NaN, zero and False there.
        validation_nll: (F, L) mean cross-entropy on the fold's validation images.
        validation_macro_f1: (F, L) mean F1 score over all K classes on the fold's validation
            images, zero for a class that is neither present nor predicted.
        chosen: (F,) index of the penalty with the best selection metric; the larger of equals.
        at_edge: (F,) whether that is the first or the last of the penalties.

    """

    penalties: npt.NDArray[np.float64]
    coefficients: npt.NDArray[np.float64]
    intercepts: npt.NDArray[np.float64]
    objective: npt.NDArray[np.float64]
    gradient: npt.NDArray[np.float64]
    converged: npt.NDArray[np.bool_]
    iterations: npt.NDArray[np.int64]
    fitted: npt.NDArray[np.bool_]
    validation_nll: npt.NDArray[np.float64]
    validation_macro_f1: npt.NDArray[np.float64]
    chosen: npt.NDArray[np.int64]
    at_edge: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Point:
    """Where P problems stand: weights (P, K, D), intercepts (P, K), logits (P, K, N)."""

    weights: Tensor
    intercepts: Tensor
    logits: Tensor


def fit_path(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    train: npt.NDArray[np.bool_],
    validation: npt.NDArray[np.bool_],
    *,
    n_classes: int,
    penalties: Sequence[float] | npt.NDArray[np.float64],
    tolerance: float = 1e-5,
    patience: int | None = 3,
    selection: Literal["nll", "macro_f1"] = "nll",
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    all_at_once: bool | None = None,
) -> ProbePath:
    """Fit the linear probe of every fold at every penalty and choose a penalty for every fold.

    Args:
        features: (N, D) float32.
        labels: (N,) integers in 0 … K − 1.
        train: (F, N) the images every fold trains on.
        validation: (F, N) the images every fold chooses its penalty on.
        n_classes: K.
        penalties: (L,) λ, positive, from strong to weak.
        tolerance: for the certificate.
        patience: how many values in a row of the selection metric that are worse than the best so
            far end a fold's path; None fits all penalties.
        selection: the metric on the validation images that chooses the penalty.
        device: where torch computes.
        on_progress: called with penalties done, of how many.
        all_at_once: solve for all penalties in one wide product instead of one after the other from
            the last solution. The answers agree within the tolerance. By default on CUDA, whose
            time goes into the number of products, and not on the CPU, where it goes into their size.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, labels out of range, an
            image that a fold both trains and validates on, a fold without validation images or
            without a training image of some class, penalties that are not positive and falling.

    """
    penalties = np.asarray(penalties, dtype=np.float64)
    _check(features, labels, train, validation, n_classes, penalties)
    used = (train | validation).any(0)
    everything = bool(used.all()) and features.flags.writeable
    device = torch.device(device)
    objective = ProbeObjective(
        torch.from_numpy(features if everything else features[used]).to(device),
        torch.from_numpy(labels[used].astype(np.int64)).to(device),
        torch.from_numpy(train[:, used]).to(device),
        torch.from_numpy(validation[:, used]).to(device),
        n_classes,
    )
    descent = Descent(objective)
    if all_at_once is None:
        all_at_once = device.type == "cuda"

    n_folds, n_penalties, n_features = len(train), len(penalties), features.shape[1]
    shape = (n_folds, n_penalties)
    path = ProbePath(
        penalties=penalties,
        coefficients=np.full((*shape, n_features, n_classes), np.nan),
        intercepts=np.full((*shape, n_classes), np.nan),
        objective=np.full(shape, np.nan),
        gradient=np.full(shape, np.nan),
        converged=np.zeros(shape, dtype=np.bool_),
        iterations=np.zeros(shape, dtype=np.int64),
        fitted=np.zeros(shape, dtype=np.bool_),
        validation_nll=np.full(shape, np.nan),
        validation_macro_f1=np.full(shape, np.nan),
        chosen=np.zeros(n_folds, dtype=np.int64),
        at_edge=np.zeros(n_folds, dtype=np.bool_),
    )
    last = before = _class_frequencies(objective)
    batches = [np.arange(n_penalties)] if all_at_once else np.arange(n_penalties)[:, None]
    for batch in batches:
        running = [f for f in range(n_folds) if not _has_ended(loss[f, : batch[0]], patience)]
        fold = torch.tensor(running, device=device).repeat_interleave(len(batch))
