"""What the linear probe's solvers are given, and what they return."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

# A path begins at λ = 10 at the latest and falls by ten at most, whatever the penalties that are
# asked for: from further away a gradient within the tolerance can be far from the solution.
_STRONG, _FALL = 10.0, 10.0


class ProbeData(NamedTuple):
    """Features (N, D) float32, labels (N,), and the images of each fold, (F, N) bool."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.integer]
    train: npt.NDArray[np.bool_]
    validation: npt.NDArray[np.bool_]

    def of_folds(self, folds: npt.NDArray[np.int64]) -> "ProbeData":
        """The same images for some of the folds."""
        return self._replace(train=self.train[folds], validation=self.validation[folds])


class ProbeSettings(NamedTuple):
    """How a path is fitted; `fit_path` says what each is."""

    n_classes: int
    penalties: npt.NDArray[np.float64]
    tolerance: float
    patience: int | None
    selection: Literal["nll", "macro_f1"]


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
        converged: (F, L) whether the certificate is within the tolerance, and, of the chosen
            solution, whether its probabilities have settled (`fit_path`).
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

    @classmethod
    def joined(cls, parts: Sequence[tuple[npt.NDArray[np.int64], "ProbePath"]]) -> "ProbePath":
        """One path of all folds, from paths of some with the places, (F′,), of their folds."""
        order = np.argsort(np.concatenate([places for places, _ in parts]))
        arrays = {
            field.name: np.concatenate([getattr(path, field.name) for _, path in parts])[order]
            for field in fields(cls)
            if field.name != "penalties"
        }
        return cls(penalties=parts[0][1].penalties, **arrays)


def has_ended(loss: npt.NDArray[np.float64], patience: int | None) -> bool:
    """Say whether the last `patience` values are each worse than the best before them."""
    if patience is None or len(loss) <= patience:
        return False
    best_before = np.minimum.accumulate(loss)[:-1]
    return bool((loss[1:] > best_before)[-patience:].all())


def penalties_between(last: float, penalty: float) -> list[float]:
    """Penalties to walk over on the way from one, or from infinity, to the next."""
    start = min(last, max(_STRONG, penalty))
    falls = int(np.ceil(np.log(start / penalty) / np.log(_FALL) - 1e-9))
    walk = np.geomspace(start, penalty, falls + 1)[:-1] if falls else np.empty(0)
    return [float(between) for between in walk if between < last]
