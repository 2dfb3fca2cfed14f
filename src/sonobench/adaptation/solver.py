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
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from sonobench.adaptation.probe_coordinates import RotatedFeatures
from sonobench.adaptation.probe_descent import descend, extrapolate
from sonobench.adaptation.probe_objective import Evaluation, ProbeObjective
from sonobench.adaptation.probe_path import (
    ProbeData,
    ProbePath,
    ProbeSettings,
    has_ended,
    penalties_between,
)
from sonobench.adaptation.probe_span import is_solved_in_span, span_path
from sonobench.encoders import tf32

# Solutions from whose plane the next is started; more than four save no iterations.
_RECENT = 4
# Rounds of iterative refinement at most; ill-conditioned features take two or three.
_ROUNDS = 20
# A chosen solution is refined until a round, which divides its gradient by a hundred, changes no
# probability by more. What is left to change is then a small part of it.
_SETTLED = 1e-5
_FURTHER = 0.01


@tf32(False)
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
        tolerance: for the certificate. At weak penalties that alone is little, and solutions are
            taken further, to where the objective would fall by some 1e-6 of itself. The chosen
            solution of each fold is taken to where no probability of an image that it is trained or
            chosen on changes by more than 1e-5.
        patience: how many values in a row of the selection metric that are worse than the best so
            far end a fold's path; None fits all penalties.
        selection: the metric on the validation images that chooses the penalty.
        device: where torch computes.
        on_progress: called with penalties done, of how many.
        all_at_once: solve for all penalties in one wide product instead of one after the other from
            the last solution. The answers agree within the tolerance. By default so on CUDA, where
            the time goes into the number of products; on the CPU it goes into their size.
            Folds of few images are solved one by one in any case (`probe_span`).

    Raises:
        ValueError: shapes or types that do not fit, features that are not finite, labels out of
            range, an image that a fold both trains and validates on, a fold without validation
            images or without a training image of some class, penalties that are not positive and
            falling, other settings out of their range.

    """
    penalties = np.asarray(penalties, dtype=np.float64)
    _check_settings(penalties, tolerance, patience, selection)
    _check_data(features, labels, train, validation, n_classes)
    data = ProbeData(features, labels, train, validation)
    settings = ProbeSettings(n_classes, penalties, tolerance, patience, selection)
    in_span = [is_solved_in_span(int(n), features.shape[1], n_classes) for n in train.sum(1)]
    few, many = np.flatnonzero(in_span), np.flatnonzero(~np.array(in_span))
    parts = []
    if len(few):
        # Threads that share matrices this small wait for each other, several times as long.
        with threadpool_limits(limits=1, user_api="blas"):
            part = span_path(data.of_folds(few), settings, None if len(many) else on_progress)
        parts.append((few, part))
    if len(many):
        device = torch.device(device)
        wide = device.type == "cuda" if all_at_once is None else all_at_once
        part = _shared_path(data.of_folds(many), settings, device, wide, on_progress)
        parts.append((many, part))
    return ProbePath.joined(parts)


def _shared_path(
    data: ProbeData,
    settings: ProbeSettings,
    device: torch.device,
    all_at_once: bool,
    on_progress: Callable[[int, int], None] | None,
) -> ProbePath:
    """Fit all folds together, in one basis; arguments as of `fit_path`."""
    features, labels, train, validation = data
    n_classes, penalties, tolerance, patience, selection = settings
    used = (train | validation).any(0)
    everything = bool(used.all()) and features.flags.writeable
    objective = ProbeObjective(
        torch.from_numpy(features if everything else features[used]).to(device),
        torch.from_numpy(labels[used].astype(np.int64)).to(device),
        torch.from_numpy(train[:, used]).to(device),
        torch.from_numpy(validation[:, used]).to(device),
        n_classes,
    )
    rotated = RotatedFeatures(objective)

    n_folds, n_penalties = len(train), len(penalties)
    shape = (n_folds, n_penalties)
    coefficients = np.zeros((*shape, features.shape[1], n_classes))
    intercepts = np.zeros((*shape, n_classes))
    value, gradient, nll, macro_f1 = np.full((4, *shape), np.nan)
    loss = np.full(shape, np.inf)
    iterations = np.zeros(shape, dtype=np.int64)
    fitted = np.zeros(shape, dtype=np.bool_)

    every_fold = torch.arange(n_folds, device=device)
    recent = [_at_class_frequencies(objective, every_fold)]
    # Of each fold the best solution so far, or of all penalties at once the last.
    best = recent[-1].select(every_fold)
    batches = [np.arange(n_penalties)] if all_at_once else np.arange(n_penalties)[:, None]
    for batch in batches:
        running = [f for f in range(n_folds) if not has_ended(loss[f, : batch[0]], patience)]
        if not running:
            if on_progress is not None:
                on_progress(n_penalties, n_penalties)
            break
        if not all_at_once:
            last = penalties[batch[0] - 1] if batch[0] else np.inf
            for between in penalties_between(last, penalties[batch[0]]):
                fold = torch.tensor(running, device=device)
                penalty = torch.full_like(fold, between, dtype=torch.float64)
                start = _extrapolate(rotated, fold, penalty, recent)
                solution, _ = _solve(objective, rotated, fold, penalty, start, tolerance)
                recent = _with_latest(recent, fold, solution)
        fold = torch.tensor(running, device=device).repeat_interleave(len(batch))
        position = np.tile(batch, len(running))
        penalty = torch.from_numpy(penalties[position]).to(device)
        start = _extrapolate(rotated, fold, penalty, recent)
        solution, steps = _solve(objective, rotated, fold, penalty, start, tolerance)
        if not all_at_once:
            recent = _with_latest(recent, fold, solution)

        on_original, bias = objective.on_original(fold, solution.weights, solution.intercepts)
        where = fold.cpu().numpy(), position
        coefficients[where] = on_original.transpose(1, 2).cpu().numpy()
        intercepts[where] = (bias - bias.mean(1, keepdim=True)).cpu().numpy()
        value[where] = solution.objective.cpu().numpy()
        gradient[where] = solution.certificate.cpu().numpy()
        nll[where] = solution.validation_nll.cpu().numpy()
        macro_f1[where] = solution.validation_macro_f1.cpu().numpy()
        found = nll[where] if selection == "nll" else -macro_f1[where]
        if not all_at_once:
            better = torch.from_numpy(found < loss[running].min(1)).to(device)
            best.put(fold[better], solution.select(better.nonzero()[:, 0]))
        loss[where] = found
        iterations[where] = steps.cpu().numpy()
        fitted[where] = True
        if on_progress is not None:
            on_progress(int(batch[-1]) + 1, n_penalties)

    # Where all penalties were solved for at once, a path ends where it would have ended.
    for fold_loss, fold_fitted in zip(loss, fitted, strict=True):
        for step in range(n_penalties):
            if has_ended(fold_loss[:step], patience):
                fold_fitted[step], fold_loss[step] = False, np.inf
    for array in (coefficients, intercepts, value, gradient, nll, macro_f1):
        array[~fitted] = np.nan
    iterations[~fitted] = 0
    chosen = np.nanargmin(loss, axis=1)
    if all_at_once:
        # Problems stand fold by fold.
        place = torch.from_numpy(chosen).to(device) + every_fold * n_penalties
        best = solution.select(place)
    at_chosen = np.arange(n_folds), chosen
    penalty = torch.from_numpy(penalties[chosen]).to(device)
    best, steps, settled = _settle(objective, rotated, every_fold, penalty, best)
    on_original, bias = objective.on_original(every_fold, best.weights, best.intercepts)
    coefficients[at_chosen] = on_original.transpose(1, 2).cpu().numpy()
    intercepts[at_chosen] = (bias - bias.mean(1, keepdim=True)).cpu().numpy()
    value[at_chosen] = best.objective.cpu().numpy()
    gradient[at_chosen] = best.certificate.cpu().numpy()
    nll[at_chosen] = best.validation_nll.cpu().numpy()
    macro_f1[at_chosen] = best.validation_macro_f1.cpu().numpy()
    iterations[at_chosen] += steps.cpu().numpy()
    converged = gradient <= tolerance
    converged[at_chosen] &= settled.cpu().numpy()
    return ProbePath(
        penalties=penalties,
        coefficients=coefficients,
        intercepts=intercepts,
        objective=value,
        gradient=gradient,
        converged=converged,
        iterations=iterations,
        fitted=fitted,
        validation_nll=nll,
        validation_macro_f1=macro_f1,
        chosen=chosen,
        at_edge=(chosen == 0) | (chosen == n_penalties - 1),
    )


def _solve(
    objective: ProbeObjective,
    rotated: RotatedFeatures,
    fold: Tensor,
    penalty: Tensor,
    start: tuple[Tensor, Tensor, Tensor],
    tolerance: float,
) -> tuple[Evaluation, Tensor]:
    """Descend from weights, intercepts and logits; refine for as long as the certificate asks."""
    solution, iterations = _descend_and_evaluate(
        objective, rotated, fold, penalty, start, tolerance
    )
    improving = torch.ones_like(solution.certificate, dtype=torch.bool)
    for _ in range(_ROUNDS):
        at = (improving & (solution.certificate > tolerance)).nonzero()[:, 0]
        if not len(at):
            break
        _, _, improving[at], steps = _refine(
            objective, rotated, fold, penalty, solution, at, tolerance
        )
        iterations[at] += steps
    return solution, iterations


def _settle(
    objective: ProbeObjective,
    rotated: RotatedFeatures,
    fold: Tensor,
    penalty: Tensor,
    solution: Evaluation,
) -> tuple[Evaluation, Tensor, Tensor]:
    """Refine solutions until their probabilities do not change; also steps, and which settled."""
    solution = solution.select(torch.arange(len(fold), device=fold.device))
    iterations = torch.zeros_like(fold)
    settled = torch.zeros_like(solution.certificate, dtype=torch.bool)
    improving = ~settled
    for _ in range(_ROUNDS):
        at = (improving & ~settled).nonzero()[:, 0]
        if not len(at):
            break
        further = _FURTHER * solution.certificate[at]
        old, new, improving[at], steps = _refine(
            objective, rotated, fold, penalty, solution, at, further
        )
        iterations[at] += steps
        # At double precision's rounding nothing gets better, and nothing changes.
        change = (new.logits.softmax(1) - old.logits.softmax(1)).abs().amax((1, 2))
        settled[at] = change <= _SETTLED
    return solution, iterations, settled


def _refine(
    objective: ProbeObjective,
    rotated: RotatedFeatures,
    fold: Tensor,
    penalty: Tensor,
    solution: Evaluation,
    at: Tensor,
    tolerance: float | Tensor,
) -> tuple[Evaluation, Evaluation, Tensor, Tensor]:
    """Go on from the solutions `at` some places, and put those that get better in their place.

    Returns:
        Old and new solutions, which of the new ones are better, and the steps that they took.
    """
    old = solution.select(at)
    new, steps = _descend_and_evaluate(
        objective,
        rotated,
        fold[at],
        penalty[at],
        (old.weights, old.intercepts, old.logits),
        tolerance,
        old,
    )
    better = new.certificate < old.certificate
    solution.put(at[better], new.select(better))
    return old, new, better, steps


def _with_latest(recent: list[Evaluation], fold: Tensor, solution: Evaluation) -> list[Evaluation]:
    """The last few solutions of every fold, with the newest of some."""
    latest = recent[-1].select(torch.arange(len(recent[-1].certificate), device=fold.device))
    latest.put(fold, solution)
    return [*recent[-_RECENT + 1 :], latest]


def _descend_and_evaluate(
    objective: ProbeObjective,
    rotated: RotatedFeatures,
    fold: Tensor,
    penalty: Tensor,
    start: tuple[Tensor, Tensor, Tensor],
    tolerance: float | Tensor,
    exact: Evaluation | None = None,
) -> tuple[Evaluation, Tensor]:
    weights, intercepts, logits = start
    weights_change, intercepts_change, steps = descend(
        rotated, fold, penalty, weights, logits, tolerance, exact
    )
    weights, intercepts = weights + weights_change, intercepts + intercepts_change
    # What all classes share changes no probability; the penalty wants none of it in the weights,
    # and without it the intercepts are unique.
    weights -= weights.mean(1, keepdim=True)
    intercepts -= intercepts.mean(1, keepdim=True)
    return objective.evaluate(fold, penalty, weights, intercepts), steps


def _extrapolate(
    rotated: RotatedFeatures, fold: Tensor, penalty: Tensor, recent: list[Evaluation]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, intercepts and logits to start from: in the plane of recent solutions."""
    weights = torch.stack([solution.weights[fold] for solution in recent])
    intercepts = torch.stack([solution.intercepts[fold] for solution in recent])
    logits = torch.stack([solution.logits[fold] for solution in recent])
    lengths = extrapolate(rotated, fold, penalty, weights, logits)
    return (
        weights[-1] + torch.einsum("pi,ipkd->pkd", lengths, weights.diff(dim=0)),
        intercepts[-1] + torch.einsum("pi,ipk->pk", lengths, intercepts.diff(dim=0)),
        (logits[-1] + torch.einsum("pi,ipkn->pkn", lengths, logits.diff(dim=0))).float(),
    )


def _at_class_frequencies(objective: ProbeObjective, fold: Tensor) -> Evaluation:
    """Return the solutions for an infinite penalty: the intercepts of all folds, no weights."""
    intercepts = (objective.train_weight @ objective.targets.T).log()
    intercepts -= intercepts.mean(1, keepdim=True)
    weights = torch.zeros_like(objective.scale)[:, None].repeat(1, intercepts.shape[1], 1)
    return objective.evaluate(fold, torch.zeros_like(intercepts[:, 0]), weights, intercepts)


def _check_settings(
    penalties: npt.NDArray[np.float64], tolerance: float, patience: int | None, selection: str
) -> None:
    if penalties.ndim != 1 or not len(penalties):
        raise ValueError(f"penalties must be a list of at least one λ, found {penalties.tolist()}")
    if not (np.isfinite(penalties) & (penalties > 0)).all() or (np.diff(penalties) >= 0).any():
        raise ValueError(
            "penalties must be positive, finite and falling, from strong to weak, "
            f"found {penalties.tolist()}"
        )
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, found {tolerance}")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1, or None for no end, found {patience}")
    if selection not in ("nll", "macro_f1"):
        raise ValueError(f"selection must be 'nll' or 'macro_f1', found {selection!r}")


def _check_data(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    train: npt.NDArray[np.bool_],
    validation: npt.NDArray[np.bool_],
    n_classes: int,
) -> None:
    if features.ndim != 2 or features.dtype != np.float32:
        raise ValueError(
            f"features must be (N, D) float32, found {features.shape} {features.dtype}"
        )
    n_images = len(features)
    if labels.shape != (n_images,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be ({n_images},) integers, one for each row of features, "
            f"found {labels.shape} {labels.dtype}"
        )
    for name, mask in (("train", train), ("validation", validation)):
        if mask.shape != (len(train), n_images) or mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(
                f"{name} must be (F, {n_images}) bool, with as many folds as train, "
                f"found {mask.shape} {mask.dtype}"
            )
    if not len(train):
        raise ValueError("train must have at least one fold, found none")
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, found {n_classes}")

    used = (train | validation).any(0)
    bad = np.flatnonzero(used & ~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(
            f"features must be finite, found nan or inf in row {bad[0]} ({len(bad)} such rows); "
            "leave these images out or embed them again"
        )
    bad = np.flatnonzero(used & ((labels < 0) | (labels >= n_classes)))
    if len(bad):
        raise ValueError(
            f"labels must be in 0 … {n_classes - 1}, found {labels[bad[0]]} in row {bad[0]}"
        )
    for fold in range(len(train)):
        both = np.flatnonzero(train[fold] & validation[fold])
        if len(both):
            raise ValueError(
                f"fold {fold} both trains and validates on row {both[0]} ({len(both)} such rows)"
            )
        if not validation[fold].any():
            raise ValueError(f"fold {fold} has no validation image to choose a penalty on")
        missing = np.setdiff1d(np.arange(n_classes), labels[train[fold]])
        if len(missing):
            raise ValueError(
                f"fold {fold} has no training image of class {missing[0]} "
                f"(missing: {missing.tolist()}); split so that every fold trains on every class"
            )
