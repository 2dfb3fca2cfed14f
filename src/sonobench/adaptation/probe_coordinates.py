"""The coordinates in which the linear probe is solved: features rotated once, shared by all folds.

Features are standardised once for all folds, with a mean μ and a deviation σ, and rotated into the
eigenbasis Q of their covariance: z = Qᵀ(x − μ)/σ. A problem's unknowns are weights V on z, less its
mean in the fold, and an intercept. On the features as its own fold f standardises them, with
deviation σ_f, the same probe has the weights W = diag(s) Q V, s = σ_f/σ, so that the penalty on W,
which is what is asked for, is λ/2 ‖diag(s) Q V‖² in V, and its gradient λ Qᵀ diag(s²) Q V. None of
this needs Q to be orthogonal to the last digit: it is a change of coordinates, and where it rounds,
it rounds in the unknowns, not in the problem.
"""

import torch
from torch import Tensor

from sonobench.adaptation.probe_objective import BLOCK, ProbeObjective


class RotatedFeatures:
    """The rotated features of the images that some fold trains on, and products with them.

    Everything is float32 but for what goes to and from `ProbeObjective`. P problems, each a fold
    and a penalty, are in one product; `fold` is (P,) int64, unknowns and gradients with respect to
    them are (P, K, D + 1), the intercepts last. All of them sum to zero over the classes, so the
    last class is what the others leave and is in no product.

    Attributes:
        rows: (N′,) which of the objective's images these are.
        targets: (K, N′) their one-hot labels.
        weight: (F, N′) 1 / n_f for the fold's training images.

    """

    def __init__(self, objective: ProbeObjective) -> None:
        self.rows = objective.in_training.nonzero()[:, 0]
        self.targets = objective.targets[:, self.rows].float()
        self.weight = objective.train_weight[:, self.rows].float()
        self._dropped = objective.dropped
        # The smallest of the folds' deviations: a feature that hardly varies in one fold then has a
        # direction of the basis to itself, and the diagonal curvature fits it in every fold.
        spread = objective.scale.masked_fill(objective.dropped, torch.inf).amin(0)
        spread.masked_fill_(spread.isinf(), 1.0)
        self._features = torch.empty(
            len(self.rows), len(spread), dtype=torch.float32, device=spread.device
        )
        filled = 0
        for rows, block in objective.blocks():
            chosen = block[objective.in_training[rows]] / spread
            self._features[filled : filled + len(chosen)] = chosen
            filled += len(chosen)
        self._basis = _eigenbasis(self._features)
        for block in torch.split(self._features, BLOCK):
            block.copy_(block @ self._basis)
        self._mean = (objective.offset / spread).float() @ self._basis
        # For a feature that is constant in a fold any scale will do: on the training images it does
        # nothing, and the penalty takes its weight to zero.
        self._scale = (objective.scale / spread).masked_fill(objective.dropped, 1.0).float()
        self._penalty_diagonal = self._scale.square() @ self._basis.square()

    def logits(self, fold: Tensor, unknowns: Tensor) -> Tensor:
        """Return what the unknowns make of the images: (P, K, N′)."""
        weights, intercepts = unknowns[:, :-1, :-1], unknowns[:, :-1, -1]
        bias = intercepts - (weights * self._mean[fold, None]).sum(2)
        product = weights.reshape(-1, weights.shape[2]) @ self._features.T
        return _with_last_class(product.view(*bias.shape, -1).add_(bias[:, :, None]))

    def gradient(self, fold: Tensor, residual: Tensor) -> Tensor:
        """Return the gradient of weighted residuals (P, K, N′): the transpose of `logits`."""
        residual = residual[:, :-1]
        product = residual.reshape(-1, residual.shape[2]) @ self._features
        total = residual.sum(2, keepdim=True)
        weights = product.view(*residual.shape[:2], -1) - total * self._mean[fold, None]
        return _with_last_class(torch.cat([weights, total], 2))

    def penalty_gradient(self, fold: Tensor, unknowns: Tensor) -> Tensor:
        """Return the gradient of the penalty for λ = 1: Qᵀ diag(s²) Q V, zero for intercepts."""
        on_standardised = unknowns[:, :-1, :-1] @ self._basis.T
        gradient = (on_standardised * self._scale[fold, None].square()) @ self._basis
        return _with_last_class(torch.nn.functional.pad(gradient, (0, 1)))

    def curvature(self, fold: Tensor, penalty: Tensor, image_curvature: Tensor) -> Tensor:
        """Return the diagonal of the Hessian, Σ_i c_ik (z_ij − m_j)² + λ (Qᵀ diag(s²) Q)_jj.

        Args:
            fold: (P,).
            penalty: (P, 1, 1) λ.
            image_curvature: (P, K, N′) c, the weighted p (1 − p) of every image and class.

        """
        mean, total = self._mean[fold, None], image_curvature.sum(2, keepdim=True)
        first, second = total.new_zeros(2, *total.shape[:2], mean.shape[2])
        start = 0
        for block in torch.split(self._features, BLOCK):
            share = image_curvature[:, :, start : start + len(block)]
            first += share @ block
            second += share @ block.square()
            start += len(block)
        weights = (second - 2 * mean * first + mean.square() * total).clamp_min(0.0)
        weights += penalty * self._penalty_diagonal[fold, None]
        return torch.cat([weights, total], 2)

    def largest(self, fold: Tensor, gradient: Tensor) -> Tensor:
        """Return the largest absolute entry, (P,), of gradients on standardised features."""
        weights = gradient[:, :-1, :-1] @ self._basis.T
        weights = _with_last_class(weights) / self._scale[fold, None]
        return torch.maximum(weights.abs().amax((1, 2)), gradient[..., -1].abs().amax(1))

    def from_standardised(
        self, fold: Tensor, gradient: Tensor, intercept_gradient: Tensor
    ) -> Tensor:
        """Re-express gradients (P, K, D) and (P, K) on standardised features for the unknowns."""
        rotated = (gradient * self._scale[fold, None]).float() @ self._basis
        return torch.cat([rotated, intercept_gradient.float()[:, :, None]], 2)

    def to_standardised(self, fold: Tensor, unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (P, K, D) and intercepts (P, K) on standardised features, in float64."""
        weights = unknowns[..., :-1].double() @ self._basis.T.double() * self._scale[fold, None]
        return weights.masked_fill(self._dropped[fold, None], 0.0), unknowns[..., -1].double()


def _with_last_class(others: Tensor) -> Tensor:
    return torch.cat([others, -others.sum(1, keepdim=True)], 1)


def _eigenbasis(standardised: Tensor) -> Tensor:
    """Return an orthonormal basis (D, D) in which the covariance of (N, D) features is diagonal."""
    n_rows, n_features = standardised.shape
    if n_rows >= n_features:
        return _eigenvectors(standardised)
    # Fewer images than features: the eigenvectors that matter are in the span of the images, so
    # the eigenproblem is of their number; the others are any basis of what is orthogonal to it.
    basis: Tensor
    basis, _ = torch.linalg.qr(standardised.T, mode="complete")
    span = basis[:, :n_rows]
    basis[:, :n_rows] = span @ _eigenvectors(standardised @ span)
    return basis


def _eigenvectors(rows: Tensor) -> Tensor:
    # In double precision, in which one feature of huge variance does not drown the others.
    vectors: Tensor
    _, vectors = torch.linalg.eigh((rows.T @ rows).double())
    return vectors.to(rows.dtype)
