"""The linear probe's objective in double precision, in every fold's own standardised coordinates.

This is the side that is believed: what a solution is worth, how far its gradient is from zero and
how it does on the validation images are computed here, from the features as they came. How a
solution is found is the business of `probe_descent`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Rows that are in double precision at a time: 1,024 × 1,024 features are 8 MB, which stay in the
# cache between the two products that need them.
BLOCK = 1024


@dataclass(frozen=True)
class Evaluation:
    """What P problems, each a fold and a penalty, are worth at their weights.

    Attributes:
        weights: (P, K, D) on the features as standardised by the problem's fold.
        intercepts: (P, K) likewise.
        objective: (P,) mean cross-entropy over the training images plus λ/2 ‖W‖².
        gradient: (P, K, D) with respect to the weights.
        intercept_gradient: (P, K).
        certificate: (P,) largest absolute entry of the two gradients.
        logits: (P, K, N) of all images.
        validation_nll: (P,) mean cross-entropy over the validation images.
        validation_macro_f1: (P,) mean over all K classes of the F1 score, which is zero for a class
            that is neither present nor predicted.

    """

    weights: Tensor
    intercepts: Tensor
    objective: Tensor
    gradient: Tensor
    intercept_gradient: Tensor
    certificate: Tensor
    logits: Tensor
    validation_nll: Tensor
    validation_macro_f1: Tensor

    def select(self, index: Tensor) -> "Evaluation":
        """Return a copy for some of the problems."""
        return Evaluation(*(getattr(self, field.name)[index] for field in fields(self)))

    def put(self, index: Tensor, other: "Evaluation") -> None:
        """Overwrite some of the problems."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)


class ProbeObjective:
    """The objective of multinomial logistic regression for F folds that share their features.

    Args:
        features: (N, D) float32; every row is of the training images of some fold or of the
            validation images of some fold.
        labels: (N,) int64 in 0 … K − 1.
        train: (F, N) bool, at least one image of every class in every fold.
        validation: (F, N) bool, at least one image in every fold.
        n_classes: K.

    Attributes:
        features: (N, D) as they came.
        targets: (K, N) float64, the one-hot labels.
        train_weight: (F, N) float64, 1 / n_f for the fold's training images.
        in_training: (N,) whether some fold trains on the image.
        centre: (D,) mean over these images.
        offset: (F, D) mean over the fold's training images, minus `centre`.
        scale: (F, D) deviation over the fold's training images, one for a constant feature.
        dropped: (F, D) whether the feature is constant over the fold's training images.

    """

    def __init__(
        self, features: Tensor, labels: Tensor, train: Tensor, validation: Tensor, n_classes: int
    ) -> None:
        self.features = features
        self.targets = torch.nn.functional.one_hot(labels, n_classes).T.double().contiguous()
        self.train_weight = train.double() / train.sum(1, keepdim=True)
        self._validation_weight = validation.double() / validation.sum(1, keepdim=True)
        self.in_training = train.any(0)
        self._standardise()

    def _standardise(self) -> None:
        shared = self.in_training.double() / self.in_training.sum()
        self.centre = torch.zeros_like(self.features[0], dtype=torch.float64)
        self.centre = self._means(shared[None])[0]
        self.offset = self._means(self.train_weight)
        # A second pass, around each fold's own mean: mean square minus squared mean would lose the
        # deviation of a feature that hardly varies in a fold and elsewhere does.
        variance = torch.zeros_like(self.offset)
        for rows, block in self.blocks():
            for fold, mean in enumerate(self.offset):
                variance[fold] += self.train_weight[fold, rows] @ (block - mean).square_()
        deviation = variance.sqrt()
        # Constant means: varies by no more than float32 rounds values of this size.
        size = (self.centre + self.offset).abs() + self.offset.abs()
        self.dropped = deviation <= torch.finfo(torch.float32).eps * size
        self.scale = deviation.masked_fill(self.dropped, 1.0)

    def _means(self, weight: Tensor) -> Tensor:
        """Return the weighted means, (W, D), of the features less `centre`; weight is (W, N)."""
        means = self.centre.repeat(len(weight), 1).zero_()
        for rows, block in self.blocks():
            means += weight[:, rows] @ block
        return means

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield some rows at a time and their features, less `centre`, in double precision."""
        for start in range(0, len(self.features), BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, self.features[rows].double().sub_(self.centre)

    def evaluate(
        self, fold: Tensor, penalty: Tensor, weights: Tensor, intercepts: Tensor
    ) -> Evaluation:
        """Evaluate P problems.

        Args:
            fold: (P,) int64.
            penalty: (P,) λ.
            weights: (P, K, D) on the features as standardised by the problem's fold.
            intercepts: (P, K) likewise.

        """
        n_problems, n_classes, n_features = weights.shape
        on_centred, bias = self.on_centred(fold, weights, intercepts)
        on_centred = on_centred.reshape(-1, n_features)
        train, validation = self.train_weight[fold], self._validation_weight[fold]
        objective = penalty / 2 * weights.square().sum((1, 2))
        gradient = torch.zeros_like(on_centred)
        intercept_gradient = torch.zeros_like(intercepts)
        all_logits = weights.new_empty(n_problems, n_classes, len(self.features))
        nll = torch.zeros_like(objective)
        hits, predictions, occurrences = torch.zeros(
            3, n_problems, n_classes, dtype=weights.dtype, device=weights.device
        )
        for rows, block in self.blocks():
            targets = self.targets[:, rows]
            logits = (on_centred @ block.T).view(n_problems, n_classes, -1) + bias[:, :, None]
            log_probabilities = torch.log_softmax(logits, 1)
            cross_entropy = -(log_probabilities * targets).sum(1)
            objective += (train[:, rows] * cross_entropy).sum(1)
            residual = (log_probabilities.exp() - targets) * train[:, None, rows]
            gradient += residual.view(n_problems * n_classes, -1) @ block
            intercept_gradient += residual.sum(2)
            all_logits[:, :, rows] = logits

            nll += (validation[:, rows] * cross_entropy).sum(1)
            validated = (validation[:, None, rows] > 0).double()
            predicted = torch.nn.functional.one_hot(logits.argmax(1), n_classes).transpose(1, 2)
            predicted = predicted * validated
            hits += (predicted * targets).sum(2)
            predictions += predicted.sum(2)
            occurrences += (validated * targets).sum(2)

        gradient = gradient.view_as(weights)
        gradient -= self.offset[fold, None] * intercept_gradient[:, :, None]
        gradient = gradient / self.scale[fold, None] + penalty[:, None, None] * weights
        gradient.masked_fill_(self.dropped[fold, None], 0.0)
        return Evaluation(
            weights,
            intercepts,
            objective,
            gradient,
            intercept_gradient,
            torch.maximum(gradient.abs().amax((1, 2)), intercept_gradient.abs().amax(1)),
            all_logits,
            nll,
            # 2 tp / (2 tp + fp + fn); the smallest denominator with a hit is 2.
            (2 * hits / (predictions + occurrences).clamp_min(1.0)).mean(1),
        )

    def on_centred(
        self, fold: Tensor, weights: Tensor, intercepts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Re-express weights and intercepts for features less `centre`, not standardised."""
        on_centred = weights / self.scale[fold, None]
        return on_centred, intercepts - (on_centred * self.offset[fold, None]).sum(2)

    def on_original(
        self, fold: Tensor, weights: Tensor, intercepts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Re-express weights and intercepts for the features as they came."""
        on_centred, bias = self.on_centred(fold, weights, intercepts)
        return on_centred, bias - on_centred @ self.centre
