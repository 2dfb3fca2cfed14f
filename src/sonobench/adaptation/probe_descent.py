"""How the linear probe's objective is brought down: L-BFGS for many folds and penalties at once.

All problems share one feature matrix; a fold is a vector of image weights. The logits of all
problems are one matrix product and their gradients another, so that the matrix, which is what the
time goes into, is read twice an iteration and not twice an iteration and problem. The products are
float32: `probe_objective` says in double precision how good the result is, and hands back an exact
gradient when it is not good enough.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sonobench.adaptation.probe_coordinates import RotatedFeatures
from sonobench.adaptation.probe_objective import Evaluation

# L-BFGS pairs that are kept; Nocedal and Wright, Numerical Optimization, section 7.2, find 3 to 20
# useful.
_MEMORY = 10
# Iterations between two computations of the curvature: it costs about as much as one iteration.
_REFRESH = 15
# A problem is left alone when the objective could still fall by about this share of itself. At weak
# penalties a small gradient alone does not pin the solution down: there, two solutions with all
# entries of the gradient below 1e-5 differed by a fifth in their validation NLL.
_DECREMENT = 1e-6
# A step has gone too far where the objective rises more steeply than this share of how it fell.
_UPHILL = 0.1
_BACKTRACKS = 20
# Share of the gradient at the start that float32's changes of it cannot take away.
_FLOOR = 1e-6
# Newton steps of the extrapolation: its M unknowns need no more.
_EXTRAPOLATIONS = 3
# Iterations without progress after which to start again from an exact gradient.
_STALLED = 100
_MAX_ITERATIONS = 1000
# Share of the tolerance that is aimed at, so that the certificate, which is the same gradient
# without float32's rounding, is within it.
_AIM = 0.8


@dataclass
class _Running:
    """The problems, P at first, that have not converged; every tensor's first axis."""

    index: Tensor
    fold: Tensor
    penalty: Tensor  # (P, 1, 1)
    weight: Tensor  # (P, 1, N) of the images
    largest_aim: Tensor  # (P,) entry of the gradient at which a problem is left alone
    decrement_aim: Tensor  # (P,) and decrement
    start_residual: Tensor  # (P, K, N) probabilities less one-hot labels
    start_gradient: Tensor  # (P, K, D + 1)
    logits: Tensor  # (P, K, N)
    residual: Tensor  # (P, K, N)
    unknowns: Tensor  # (P, K, D + 1) less where they started
    penalty_gradient: Tensor  # (P, K, D + 1) for λ = 1, likewise
    gradient_change: Tensor  # (P, K, D + 1)
    inverse_curvature: Tensor  # (P, K, D + 1)
    best: Tensor  # (P,) smallest distance from the goal so far
    best_at: Tensor  # (P,) and its iteration

    @property
    def gradient(self) -> Tensor:
        return self.start_gradient + self.gradient_change

    def keep(self, which: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[which])


def descend(
    rotated: RotatedFeatures,
    fold: Tensor,
    penalty: Tensor,
    weights: Tensor,
    logits: Tensor,
    tolerance: float | Tensor,
    exact: Evaluation | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Go from a starting point to where the gradient is within the tolerance, or stall.

    Args:
        fold: (P,) int64.
        penalty: (P,) λ.
        weights: (P, K, D) float64 to start from, on the fold's own standardised features.
        logits: (P, K, N) of all images at the starting point; in their precision is computed
            what is not a product.
        tolerance: for the largest absolute entry of the gradient; of all, or (P,).
        exact: the evaluation at the starting point, whose gradient is then started from.
            Everything after that is computed as a change, so that with logits in double
            precision float32's rounding is relative to the change and not to the whole. This is
            iterative refinement (Golub and Van Loan, Matrix Computations, section 3.5): it
            reaches double precision's answer with products in float32.

    Returns:
        The changes of weights (P, K, D) and intercepts (P, K), in float64, on the fold's own
        standardised features, and the iterations (P,).

    """
    running = _start(rotated, fold, penalty, weights, logits, tolerance, exact)
    moved = torch.zeros_like(running.unknowns)
    iterations = torch.zeros_like(fold)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for iteration in range(_MAX_ITERATIONS + 1):
        if iteration % _REFRESH == 0:
            running.inverse_curvature = _inverse_curvature(rotated, running)
        distance = _distance(rotated, running)
        better = distance < running.best
        running.best = torch.where(better, distance, running.best)
        running.best_at = torch.where(better, iteration, running.best_at)
        finished = (distance <= 1) | (iteration - running.best_at >= _STALLED)
        if iteration == _MAX_ITERATIONS:
            finished[:] = True
        if finished.any():
            moved[running.index[finished]] = running.unknowns[finished]
            iterations[running.index[finished]] = iteration
            if finished.all():
                break
            running.keep(~finished)
            pairs = [(s[~finished], y[~finished], r[~finished]) for s, y, r in pairs]

        direction = _direction(running, pairs)
        change = rotated.logits(running.fold, direction)
        penalty_gradient = rotated.penalty_gradient(running.fold, direction)
        length, running.residual = _step_length(
            running.logits,
            running.residual,
            change,
            rotated.targets,
            running.weight,
            _dot(running.gradient, direction),
            running.penalty[:, 0, 0] * _dot(penalty_gradient, direction),
        )
        before = running.gradient_change
        running.unknowns = running.unknowns + length * direction
        running.penalty_gradient = running.penalty_gradient + length * penalty_gradient
        running.logits = running.logits + length * change
        running.gradient_change = _gradient_change(rotated, running)
        pairs = [
            *pairs[1 - _MEMORY :],
            _pair(length * direction, running.gradient_change - before),
        ]

    weights_change, intercepts_change = rotated.to_standardised(fold, moved)
    return weights_change, intercepts_change, iterations


def extrapolate(
    rotated: RotatedFeatures, fold: Tensor, penalty: Tensor, weights: Tensor, logits: Tensor
) -> Tensor:
    """Return how far, (P, M), to follow each of the steps between the last M + 1 solutions.

    The solutions lie on a smooth curve in λ, and the next is not far from the plane through the
    last few. Where in it the objective is least, Newton's method finds with M unknowns; the logits
    along every step are known, so that it costs no product.

    Args:
        rotated: the features.
        fold: (P,) int64.
        penalty: (P,) λ of the next solution.
        weights: (M + 1, P, K, D) float64 of the solutions so far, newest last.
        logits: (M + 1, P, K, N) of all images there.

    """
    steps, changes = weights.diff(dim=0), logits[..., rotated.rows].diff(dim=0).float()
    along = logits[-1][..., rotated.rows].float()
    weight = rotated.weight[fold][:, None]
    norms = penalty[:, None, None] * torch.einsum("ipkd,jpkd->pij", steps, steps)
    pull = penalty[:, None] * torch.einsum("ipkd,pkd->pi", steps, weights[-1])
    lengths = torch.zeros_like(pull)
    for _ in range(_EXTRAPOLATIONS):
        residual = _residual(along, rotated.targets)
        probabilities = residual + rotated.targets
        slopes = torch.einsum("pkn,ipkn->pi", residual * weight, changes).double()
        slopes += pull + torch.einsum("pij,pj->pi", norms, lengths)
        deviations = changes - (probabilities * changes).sum(2, keepdim=True)
        curvature = torch.einsum("ipkn,jpkn->pij", probabilities * weight * deviations, changes)
        curvature = curvature.double() + norms
        # Steps that are nearly parallel leave less curvature than float32 resolves.
        diagonal = torch.diagonal(curvature, dim1=1, dim2=2)
        curvature += torch.diag_embed(1e-6 * diagonal + torch.finfo(torch.float32).tiny)
        newton = -torch.linalg.solve(curvature, slopes)
        change = torch.einsum("pi,ipkn->pkn", newton.float(), changes)
        quadratic = torch.einsum("pi,pij,pj->p", newton, norms, newton)
        length, _ = _step_length(
            along, residual, change, rotated.targets, weight, (slopes * newton).sum(1), quadratic
        )
        lengths += length[:, 0] * newton
        along = along + length.float() * change
    return lengths


def _start(
    rotated: RotatedFeatures,
    fold: Tensor,
    penalty: Tensor,
    weights: Tensor,
    logits: Tensor,
    tolerance: float | Tensor,
    exact: Evaluation | None,
) -> _Running:
    logits, weight = logits[:, :, rotated.rows], rotated.weight[fold][:, None]
    residual = _residual(logits, rotated.targets)
    objective = penalty / 2 * weights.square().sum((1, 2))
    objective -= _dot(torch.log_softmax(logits, 1) * weight, rotated.targets)
    if exact is None:
        gradient = rotated.gradient(fold, residual * weight)
        no_intercept = torch.zeros_like(weights[..., 0])
        penalised = penalty[:, None, None] * weights
        gradient += rotated.from_standardised(fold, penalised, no_intercept)
    else:
        gradient = rotated.from_standardised(fold, exact.gradient, exact.intercept_gradient)
    zero = torch.zeros_like(gradient)
    return _Running(
        index=torch.arange(len(fold), device=fold.device),
        fold=fold,
        penalty=penalty.float()[:, None, None],
        weight=weight,
        largest_aim=torch.maximum(
            _FLOOR * rotated.largest(fold, gradient),
            torch.as_tensor(_AIM * tolerance, dtype=torch.float32, device=fold.device),
        ),
        decrement_aim=(_DECREMENT * objective).float(),
        start_residual=residual,
        start_gradient=gradient,
        logits=logits,
        residual=residual,
        unknowns=zero,
        penalty_gradient=zero,
        gradient_change=zero,
        inverse_curvature=zero,
        best=torch.full_like(penalty, torch.inf, dtype=torch.float32),
        best_at=torch.zeros_like(fold),
    )


def _gradient_change(rotated: RotatedFeatures, running: _Running) -> Tensor:
    residual = (running.residual - running.start_residual) * running.weight
    loss = rotated.gradient(running.fold, residual.float())
    return loss + running.penalty * running.penalty_gradient


def _inverse_curvature(rotated: RotatedFeatures, running: _Running) -> Tensor:
    """Return the inverse of the Hessian's diagonal.

    The basis is the covariance's own, in which the Hessian at equal probabilities is diagonal in
    the features, so that its diagonal says much.
    """
    # p (1 − p), whether the residual is p or, for the image's own class, p − 1.
    distance = running.residual.float().abs()
    curvature = rotated.curvature(
        running.fold, running.penalty, distance * (1 - distance) * running.weight
    )
    # Probabilities that are 0 and 1 to float32 leave the unpenalised intercepts none.
    return 1 / curvature.clamp_min(1e-10)


def _distance(rotated: RotatedFeatures, running: _Running) -> Tensor:
    """Return how far every problem is from its goal: arrived at 1, by gradient and decrement.

    The decrement, half of gᵀ H⁻¹ g, is by how much the objective would still fall (Boyd and
    Vandenberghe, Convex Optimization, section 9.5.1).
    """
    gradient = running.gradient
    decrement = _dot(gradient, _precondition(running, gradient)) / 2 / running.decrement_aim
    if (decrement > 1).all():
        return decrement
    return torch.maximum(decrement, rotated.largest(running.fold, gradient) / running.largest_aim)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))


def _residual(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the probabilities less the one-hot labels.

    For an image's own class that is minus the sum of the others' probabilities. Subtracting one
    from a probability near one would leave float32's rounding of one, and at weak penalties, where
    nearly all images are fitted, that is as large as the gradient.
    """
    others = torch.softmax(logits, 1) * (1 - targets)
    return others - targets * others.sum(1, keepdim=True)


def _pair(step: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return s, y and 1 / sᵀy, or zero for the last where rounding has left no curvature."""
    curvature = _dot(step, turn)
    precision = torch.finfo(step.dtype)
    rounding = precision.eps * (_dot(step, step) * _dot(turn, turn)).sqrt() + precision.tiny
    inverse = torch.where(curvature > rounding, 1 / curvature, 0.0)
    return step, turn, inverse[:, None, None]


def _precondition(running: _Running, gradient: Tensor) -> Tensor:
    """Solve with the Hessian's diagonal among steps that sum to zero over the classes.

    A constant added to all classes' weights changes no probability, so all gradients sum to zero
    over the classes, and so do the weights. A step scaled class by class does not, and what it adds
    along that constant only the penalty takes back, slowly: without this projection, which is that
    of min ½ dᵀ diag(h) d − gᵀ d subject to Σ_k d_k = 0, the path took half as many iterations more.
    """
    scaled = running.inverse_curvature * gradient
    shift = scaled.sum(1, keepdim=True) / running.inverse_curvature.sum(1, keepdim=True)
    return scaled - running.inverse_curvature * shift


def _direction(running: _Running, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return the L-BFGS direction (Nocedal and Wright, algorithm 7.4), all problems side by side.

    The initial H₀ is the inverse curvature at hand, scaled to agree with the last pair.
    """
    remainder = running.gradient
    shares = []
    for step, change, inverse in reversed(pairs):
        share = inverse * _dot(step, remainder)[:, None, None]
        remainder = remainder - share * change
        shares.append(share)
    direction = _precondition(running, remainder)
    if pairs:
        _, change, inverse = pairs[-1]
        ratio = inverse[:, 0, 0] * _dot(change, _precondition(running, change))
        direction = direction / torch.where(ratio > 0, ratio, 1.0)[:, None, None]
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - inverse * _dot(change, direction)[:, None, None]) * step
    return -direction


def _step_length(
    logits: Tensor,
    residual: Tensor,
    change: Tensor,
    targets: Tensor,
    weight: Tensor,
    slope: Tensor,
    quadratic: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return step lengths (P, 1, 1), from a full step backwards, and the residual there.

    Logits are linear in the unknowns, so trying a length costs no product. The objective is
    convex, so the slope at the end of a step tells whether it went too far, and tells it without
    the cancellation that comparing two values of the objective in float32 would suffer: Armijo's
    rule as Hager and Zhang (2005) approximate it for that case, with δ = 0.45.

    Args:
        logits: (P, K, N) at the start of the step.
        residual: (P, K, N) likewise.
        change: (P, K, N) what a full step adds to the logits.
        targets: (K, N) one-hot labels.
        weight: (P, 1, N) of the images.
        slope: (P,) of the objective along the step at its start.
        quadratic: (P,) what a full step adds to the penalty's part of the slope.

    """
    downhill = (-slope).clamp_min(0.0)
    length = torch.ones_like(slope)
    for _ in range(_BACKTRACKS):
        there = _residual(logits + length[:, None, None] * change, targets)
        bent = _dot((there - residual) * weight, change).to(slope.dtype)
        uphill = slope + bent + length * quadratic
        too_far = (uphill > _UPHILL * downhill) & (length > 0)
        if not too_far.any():
            return length[:, None, None], there
        # Where a straight line between the two slopes crosses zero.
        length = torch.where(too_far, length * downhill / (downhill + uphill), length)
    length = torch.where(too_far, 0.0, length)[:, None, None]
    return length, _residual(logits + length * change, targets)
