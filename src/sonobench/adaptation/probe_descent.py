"""How the linear probe's objective is brought down: L-BFGS for many folds and penalties at once.

All problems share one feature matrix; a fold is a vector of image weights. The logits of all
problems are one matrix product and their gradients another, so that the matrix, which is what the
time goes into, is read twice an iteration and not twice an iteration and problem. Everything here
is float32: `probe_objective` says in double precision how good the result is, and hands back an
exact gradient when it is not good enough.

Coordinates. Features are standardised once with the deviation σ of all training images and rotated
into the eigenbasis Q of their covariance: z = Qᵀ(x − μ)/σ. A problem's unknowns are weights V and
an intercept on z. On the features as its own fold f standardises them, with deviation σ_f, the same
probe has the weights W = diag(s) Q V, s = σ_f/σ, so that the penalty on W, which is what is asked
for, is λ/2 ‖diag(s) Q V‖² in V, and its gradient λ Qᵀ diag(s²) Q V. The fold's own mean goes into
the intercept. None of this needs Q to be orthogonal to the last digit: it is a change of
coordinates, and where it rounds, it rounds in the unknowns, not in the problem.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sonobench.adaptation.probe_objective import BLOCK, Evaluation, ProbeObjective

# L-BFGS pairs that are kept; Nocedal and Wright, Numerical Optimization, section 7.2, find 3 to 20
# useful.
_MEMORY = 10
# Iterations between two computations of the curvature: it costs about as much as one iteration.
_REFRESH = 15
# A problem is left alone when the objective could still fall by about this share of itself. At weak
# penalties a small gradient alone does not pin the solution down: there, two solutions with all
# entries of the gradient below 1e-5 differed by a fifth in their validation NLL.
_DECREMENT = 1e-7
# A step has gone too far where the objective rises by more than this share of how it fell at first.
_UPHILL = 0.1
_BACKTRACKS = 20
# Iterations without progress after which float32 has nothing more to give.
_STALLED = 40
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
    logits: Tensor  # (P, K, N)
    moved: Tensor  # (P, K, D + 1) the unknowns, less where they started
    pull: Tensor  # (P, K, D + 1) gradient of the penalty for λ = 1
    tilt: Tensor  # (P, K, D + 1) exact gradient less float32's, where they started
    attainable: Tensor  # (P,) decrement at which a problem is left alone
    inverse_curvature: Tensor  # (P, K, D + 1)
    best: Tensor  # (P,) smallest distance from the goal so far
    best_at: Tensor  # (P,) and its iteration
    gradient: Tensor  # (P, K, D + 1)

    def keep(self, which: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[which])


class Descent:
    """Brings the objective down for any set of folds and penalties.

    Holds the rotated features: N × (D + 1) floats, over the images that some fold trains on.
    """

    def __init__(self, objective: ProbeObjective) -> None:
        self._objective = objective
        self._rows = objective.in_training.nonzero()[:, 0]
        n_rows, n_features = len(self._rows), objective.features.shape[1]
        device = objective.features.device
        # The last column is the intercept's.
        self._rotated = torch.ones(n_rows, n_features + 1, device=device)
        standardised = self._rotated[:, :-1]
        filled = 0
        for rows, block in objective.blocks():
            block = (block / objective.spread)[objective.in_training[rows]]
            standardised[filled : filled + len(block)] = block
            filled += len(block)
        self._basis = _eigenbasis(standardised)
        for start in range(0, n_rows, BLOCK):
            rows = slice(start, start + BLOCK)
            standardised[rows] = standardised[rows] @ self._basis

        # For a feature that is constant in a fold any scale will do: it acts as a second
        # intercept there, and the penalty takes its weight to zero.
        self._scale = torch.where(
            objective.dropped, 1.0, objective.scale / objective.spread
        ).float()
        self._mean = (objective.offset / objective.spread).float() @ self._basis
        self._penalty_diagonal = torch.nn.functional.pad(
            self._scale.square() @ self._basis.square(), (0, 1)
        )
        self._targets = objective.targets[:, self._rows].float()
        self._weight = objective.train_weight[:, self._rows].float()

    def run(
        self,
        fold: Tensor,
        penalty: Tensor,
        weights: Tensor,
        logits: Tensor,
        tolerance: float,
        exact: Evaluation | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go from a starting point to where the gradient is within the tolerance, or stall.

        Args:
            fold: (P,) int64.
            penalty: (P,) λ.
            weights: (P, K, D) float64 to start from, on the fold's own standardised features.
            logits: (P, K, N) float32 of all images at the starting point.
            tolerance: for the largest absolute entry of the gradient.
            exact: the evaluation at the starting point. With it, a constant is added to float32's
                gradient that makes it right there, and what is solved for is the rest: iterative
                refinement (Golub and Van Loan, Matrix Computations, section 3.5.3), which reaches
                double precision's answer at float32's price.

        Returns:
            The changes of weights (P, K, D) and intercepts (P, K), in float64, on the fold's own
            standardised features, and the iterations (P,).

        """
        running = self._start(fold, penalty, weights, logits, exact)
        moved = torch.zeros_like(running.moved)
        iterations = torch.zeros_like(fold)
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        probabilities = torch.softmax(running.logits, 1)
        step = None
        for iteration in range(_MAX_ITERATIONS + 1):
            gradient = self._gradient(running, probabilities)
            if step is not None:
                pairs = [*pairs[-_MEMORY + 1 :], _pair(step, gradient - running.gradient)]
            running.gradient = gradient
            if iteration % _REFRESH == 0:
                running.inverse_curvature = self._inverse_curvature(running, probabilities)

            distance = self._distance(running, _AIM * tolerance)
            better = distance < running.best
            running.best = torch.where(better, distance, running.best)
            running.best_at = torch.where(better, iteration, running.best_at)
            finished = (distance <= 1) | (iteration - running.best_at >= _STALLED)
            if iteration == _MAX_ITERATIONS:
                finished[:] = True
            if finished.any():
                moved[running.index[finished]] = running.moved[finished]
                iterations[running.index[finished]] = iteration
                if finished.all():
                    break
                running.keep(~finished)
                pairs = [(s[~finished], y[~finished], r[~finished]) for s, y, r in pairs]

            direction = _direction(running, pairs)
            change = self._logits(direction)
            pull = self._pull(running.fold, direction)
            length, probabilities = _step_length(
                running.logits,
                change,
                self._targets,
                running.weight,
                _dot(running.gradient, direction),
                _dot(running.penalty * running.pull + running.tilt, direction),
                running.penalty[:, 0, 0] * _dot(pull, direction),
            )
            step = length * direction
            running.moved = running.moved + step
            running.pull = running.pull + length * pull
            running.logits = running.logits + length * change

        on_standardised = moved[..., :-1].double() @ self._basis.T.double()
        own = (on_standardised * self._scale[fold, None]).masked_fill(
            self._objective.dropped[fold, None], 0.0
        )
        intercepts = moved[..., -1] + (moved[..., :-1] * self._mean[fold, None]).sum(2)
        return own, intercepts.double(), iterations

    def extrapolate(
        self,
        fold: Tensor,
        penalty: Tensor,
        weights: Tensor,
        logits: Tensor,
        weights_change: Tensor,
        logits_change: Tensor,
    ) -> Tensor:
        """Return how far, (P, 1, 1), to follow the line through the last two solutions.

        The solutions lie on a smooth curve in λ, so the way from the last but one to the last
        points on to the next. The logits along it are known, so looking there costs no product.
        """
        logits, change = logits[:, :, self._rows], logits_change[:, :, self._rows]
        weight = self._weight[fold][:, None]
        linear = (penalty * _dot(weights_change, weights)).float()
        quadratic = (penalty * _dot(weights_change, weights_change)).float()
        residual = (torch.softmax(logits, 1) - self._targets) * weight
        slope = _dot(residual, change) + linear
        return _step_length(logits, change, self._targets, weight, slope, linear, quadratic)[0]

    def _start(
        self,
        fold: Tensor,
        penalty: Tensor,
        weights: Tensor,
        logits: Tensor,
        exact: Evaluation | None,
    ) -> _Running:
        logits = logits[:, :, self._rows]
        weight = self._weight[fold]
        pull = self._into_unknowns(fold, weights, torch.zeros_like(weights[..., 0]))
        zero = torch.zeros_like(pull)
        cross_entropy = -(torch.log_softmax(logits, 1) * self._targets).sum(1)
        objective = (weight * cross_entropy).sum(1) + penalty / 2 * weights.square().sum((1, 2))
        running = _Running(
            index=torch.arange(len(fold), device=fold.device),
            fold=fold,
            penalty=penalty.float()[:, None, None],
            weight=weight[:, None],
            logits=logits,
            moved=zero,
            pull=pull,
            tilt=zero,
            attainable=(_DECREMENT * objective).float(),
            inverse_curvature=zero,
            best=torch.full_like(penalty, torch.inf, dtype=torch.float32),
            best_at=torch.zeros_like(fold),
            gradient=zero,
        )
        if exact is not None:
            running.tilt = self._into_unknowns(
                fold, exact.gradient, exact.intercept_gradient
            ) - self._gradient(running, torch.softmax(logits, 1))
        return running

    def _into_unknowns(self, fold: Tensor, gradient: Tensor, intercept_gradient: Tensor) -> Tensor:
        """Re-express a gradient (P, K, D) on the fold's standardised features for the unknowns."""
        rotated = (gradient * self._scale[fold, None]).float() @ self._basis
        intercept = intercept_gradient.float()[:, :, None]
        return torch.cat([rotated + intercept * self._mean[fold, None], intercept], 2)

    def _logits(self, unknowns: Tensor) -> Tensor:
        n_problems, n_classes, n_unknowns = unknowns.shape
        product = unknowns.reshape(-1, n_unknowns) @ self._rotated.T
        return product.view(n_problems, n_classes, -1)

    def _gradient(self, running: _Running, probabilities: Tensor) -> Tensor:
        residual = (probabilities - self._targets) * running.weight
        product = residual.view(-1, residual.shape[2]) @ self._rotated
        return product.view_as(running.pull) + running.penalty * running.pull + running.tilt

    def _pull(self, fold: Tensor, direction: Tensor) -> Tensor:
        """Return Qᵀ diag(s²) Q V, and zero for the intercept."""
        on_standardised = direction[..., :-1] @ self._basis.T
        pull = (on_standardised * self._scale[fold, None].square()) @ self._basis
        return torch.nn.functional.pad(pull, (0, 1))

    def _inverse_curvature(self, running: _Running, probabilities: Tensor) -> Tensor:
        """Return the inverse of the Hessian's diagonal, Σ_i w_i p_ik (1 − p_ik) z_ij² + λ (…)_jj.

        The basis is the covariance's own, in which the Hessian at equal probabilities is diagonal
        in the features, so its diagonal says much.
        """
        curvature = probabilities * (1 - probabilities) * running.weight
        curvature = curvature.view(-1, curvature.shape[2])
        diagonal = torch.zeros(len(curvature), self._rotated.shape[1], device=curvature.device)
        for start in range(0, len(self._rotated), BLOCK):
            rows = slice(start, start + BLOCK)
            diagonal += curvature[:, rows] @ self._rotated[rows].square()
        penalty = running.penalty * self._penalty_diagonal[running.fold, None]
        # Probabilities that are 0 and 1 to float32 leave an unpenalised intercept no curvature.
        return 1 / (diagonal.view_as(running.pull) + penalty).clamp_min(1e-10)

    def _distance(self, running: _Running, aim: float) -> Tensor:
        """Return how far every problem is from its goal: arrived at 1, by gradient and decrement.

        The decrement, half of gᵀ H⁻¹ g, is by how much the objective would still fall (Boyd and
        Vandenberghe, Convex Optimization, section 9.5.1).
        """
        gradient, intercept = running.gradient[..., :-1], running.gradient[..., -1:]
        centred = gradient - intercept * self._mean[running.fold, None]
        own = (centred @ self._basis.T) / self._scale[running.fold, None]
        largest = torch.maximum(own.abs().amax((1, 2)), intercept.abs().amax((1, 2)))
        decrement = _dot(running.gradient, _precondition(running, running.gradient)) / 2
        return torch.maximum(largest / aim, decrement / running.attainable)


def _eigenbasis(standardised: Tensor) -> Tensor:
    """Return an orthonormal basis (D, D) in which the covariance of (N, D) features is diagonal."""
    n_rows, n_features = standardised.shape
    if n_rows >= n_features:
        return torch.linalg.eigh(standardised.T @ standardised)[1]
    # Fewer images than features: the eigenvectors that matter are in the span of the images, so
    # the eigenproblem is of their number; the others are any basis of what is orthogonal to it.
    basis = torch.linalg.qr(standardised.T, mode="complete")[0]
    within = standardised @ basis[:, :n_rows]
    basis[:, :n_rows] = basis[:, :n_rows] @ torch.linalg.eigh(within.T @ within)[1]
    return basis


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))


def _pair(step: Tensor, gradient_change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return s, y and 1 / sᵀy, or zero for the last where rounding has left no curvature."""
    curvature = _dot(step, gradient_change)[:, None, None]
    inverse = torch.where(curvature > 0, 1 / curvature, 0.0)
    return step, gradient_change, inverse


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
    change: Tensor,
    targets: Tensor,
    weight: Tensor,
    slope: Tensor,
    linear: Tensor,
    quadratic: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return step lengths (P, 1, 1) from a full step backwards, and the probabilities there.

    Logits are linear in the unknowns, so trying a length costs no product. The objective is
    convex, so the slope at the end of a step tells whether it went too far, and tells it without
    the cancellation that comparing two values of the objective in float32 would suffer: Armijo's
    rule in the form for that case (Hager and Zhang, 2005, equation 4.1).

    Args:
        logits: (P, K, N) and `change`, (P, K, N), what a full step adds.
        change: see above.
        targets: (K, N) one-hot labels.
        weight: (P, 1, N) of the images.
        slope: (P,) of the objective along the step at its start.
        linear: (P,) that part of it which is not the cross-entropy's.
        quadratic: (P,) what a full step adds to that part.

    """
    downhill = (-slope).clamp_min(0.0)
    length = torch.ones_like(slope)
    for _ in range(_BACKTRACKS):
        probabilities = torch.softmax(logits + length[:, None, None] * change, 1)
        by_image = ((probabilities - targets) * change).sum(1)
        uphill = (by_image * weight[:, 0]).sum(1) + linear + length * quadratic
        too_far = (uphill > _UPHILL * downhill) & (length > 0)
        if not too_far.any():
            break
        # Where a straight line between the two slopes crosses zero.
        length = torch.where(too_far, length * downhill / (downhill + uphill), length)
    else:
        probabilities = torch.softmax(logits + length[:, None, None] * change, 1)
    return length[:, None, None], probabilities
