"""The linear probe of folds with fewer training images than features: Newton's method.

Every optimum is a combination of the fold's own standardised images: directions outside their span
change no training logit, and the penalty takes them to zero. With Q an orthonormal basis of the
span (D × n, of the QR decomposition X̃ᵀ = Q R) the weights are W = Q C, the penalty is that of C,
and the problem is the same one on the n × n features Z = X̃ Q = Rᵀ, whatever D is. There it has so
few unknowns that the whole Hessian can be factorised; a penalty takes two or three steps from
where the last ones lead. What all classes share of their logits changes no probability and the
penalty wants none of it, so the unknowns are K − 1 contrasts of the classes.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, helmert, qr
from scipy.linalg.blas import dsymv
from scipy.linalg.lapack import dpotrf, dpotri

from sonobench.adaptation.probe_path import (
    ProbeData,
    ProbePath,
    ProbeSettings,
    has_ended,
    penalties_between,
)

Matrix = npt.NDArray[np.float64]

# A step costs the cube of the unknowns; above, folds that share images are faster together.
_MOST_UNKNOWNS = 1200
# Length of the gradient at which a solution ends, so that no entry of it is larger on the features.
_GRADIENT = 1e-9
# Length of the last step, as a share of the unknowns; another would be a thousandth of it.
_SETTLED = 1e-5
_STEPS = 100
# Solutions through which the next start is extrapolated; more save no steps.
_RECENT = 3
# Unknowns up to which a factor costs less than some products with it.
_DIRECT = 200
# Products after which conjugate gradients give way to a new factor.
_PRODUCTS = 8


def is_solved_in_span(n_train: int, n_features: int, n_classes: int) -> bool:
    """Whether a fold of so many training images is solved by `span_path`."""
    return n_train < n_features and (n_train + 1) * (n_classes - 1) <= _MOST_UNKNOWNS


def span_path(
    data: ProbeData,
    settings: ProbeSettings,
    on_progress: Callable[[int, int], None] | None = None,
) -> ProbePath:
    """Fit every fold alone.

    Args:
        data, settings: checked by `fit_path`.
        on_progress: as of `fit_path`; a fold counts as its share of the penalties.
    """
    penalties, n_folds = settings.penalties, len(data.train)
    shape = (n_folds, len(penalties))
    coefficients = np.full((*shape, data.features.shape[1], settings.n_classes), np.nan)
    intercepts = np.full((*shape, settings.n_classes), np.nan)
    objective, gradient, nll, macro_f1 = np.full((4, *shape), np.nan)
    iterations, fitted = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
    loss = np.full(shape, np.inf)
    stop = min(_GRADIENT, settings.tolerance)
    for fold in range(n_folds):
        problem = _Problem(data, fold, settings.n_classes)
        recent, last = [(np.inf, problem.at_class_frequencies())], np.inf
        for step, penalty in enumerate(penalties):
            if has_ended(loss[fold, :step], settings.patience):
                break
            for at in [*penalties_between(last, penalty), penalty]:
                start = problem.extrapolate(recent, at)
                unknowns, iterations[fold, step] = problem.minimise(start, at, stop)
                recent = [*recent[-_RECENT + 1 :], (at, unknowns)]
            last = penalty
            where = fold, step
            weights = problem.weights(unknowns)
            coefficients[where], intercepts[where] = problem.on_original(weights, unknowns)
            objective[where], gradient[where] = problem.certificate(weights, unknowns, penalty)
            nll[where], macro_f1[where] = problem.validate(unknowns)
            loss[where] = nll[where] if settings.selection == "nll" else -macro_f1[where]
            fitted[where] = True
        if on_progress is not None:
            on_progress(len(penalties) * (fold + 1) // n_folds, len(penalties))
    chosen = loss.argmin(1)
    return ProbePath(
        penalties=penalties,
        coefficients=coefficients,
        intercepts=intercepts,
        objective=objective,
        gradient=gradient,
        converged=gradient <= settings.tolerance,
        iterations=iterations,
        fitted=fitted,
        validation_nll=nll,
        validation_macro_f1=macro_f1,
        chosen=chosen,
        at_edge=(chosen == 0) | (chosen == len(penalties) - 1),
    )


class _Problem:
    """One fold: n images, K classes, unknowns (n + 1, K − 1) with the intercepts last."""

    def __init__(self, data: ProbeData, fold: int, n_classes: int) -> None:
        train, validation = data.train[fold], data.validation[fold]
        rows = data.features[train].astype(np.float64)
        self._mean = rows.mean(0)
        rows -= self._mean
        deviation = np.sqrt(np.square(rows).mean(0))
        # Constant means: varies by no more than float32 rounds values of this size.
        self._dropped = deviation <= np.finfo(np.float32).eps * np.abs(self._mean)
        self._scale = np.where(self._dropped, 1.0, deviation)
        self._rows = self._standardised(rows)
        self._basis, triangle = qr(self._rows.T, mode="economic", check_finite=False)
        self._features = np.column_stack([triangle.T, np.ones(len(rows))])
        self._targets = np.eye(n_classes)[data.labels[train]]
        # Orthonormal columns, so that the penalty of the unknowns is that of the weights.
        self._contrasts = helmert(n_classes).T
        self._pairs = np.tril_indices(n_classes - 1)
        one, two = self._pairs
        self._products = self._contrasts[:, one] * self._contrasts[:, two]
        validated = self._standardised(data.features[validation].astype(np.float64) - self._mean)
        self._validated = np.column_stack([validated @ self._basis, np.ones(len(validated))])
        self._validation_labels = data.labels[validation]
        self._inverse: Matrix | None = None

    def _standardised(self, centred: Matrix) -> Matrix:
        centred /= self._scale
        centred[:, self._dropped] = 0.0
        return centred

    def at_class_frequencies(self) -> Matrix:
        """The solution for an infinite penalty."""
        unknowns = np.zeros((self._features.shape[1], self._contrasts.shape[1]))
        unknowns[-1] = np.log(self._targets.mean(0)) @ self._contrasts
        return unknowns

    def extrapolate(self, recent: list[tuple[float, Matrix]], penalty: float) -> Matrix:
        """The polynomial, in the penalty's logarithm, through solutions of stronger penalties.

        Where that is not lower than the last of them, the last.
        """
        last = recent[-1][1]
        finite = [(np.log(at / penalty), unknowns) for at, unknowns in recent if np.isfinite(at)]
        if len(finite) < 2:
            return last
        powers = np.vander([distance for distance, _ in finite], increasing=True)
        shares = np.linalg.solve(powers.T, np.eye(len(finite))[0])
        there: Matrix = np.tensordot(shares, [unknowns for _, unknowns in finite], 1)
        lower = self._evaluate(there, penalty)[0] < self._evaluate(last, penalty)[0]
        return there if lower else last

    def minimise(self, unknowns: Matrix, penalty: float, stop: float) -> tuple[Matrix, int]:
        """Newton's method with backtracking (Nocedal and Wright, Numerical Optimization, ch. 3).

        Returns the unknowns and the number of steps; it ends where the gradient is no longer than
        `stop` and the last step was short (at a weak penalty a small gradient alone is little), or
        where no step gets any lower in double precision.
        """
        value, gradient, probability = self._evaluate(unknowns, penalty)
        settled = False
        for taken in range(_STEPS):
            if np.linalg.norm(gradient) <= stop and settled:
                return unknowns, taken
            step = -self._solve_hessian(probability, penalty, gradient)
            slope, length = float((step * gradient).sum()), 1.0
            while True:
                at = unknowns + length * step
                new_value, new_gradient, new_probability = self._evaluate(at, penalty)
                rounding = 4 * np.finfo(np.float64).eps * abs(value)
                if new_value <= value + 1e-4 * length * slope + rounding:
                    break
                length /= 2
                if length < 1e-10:
                    return unknowns, taken
            # Within rounding the value tells nothing any more; the gradient does.
            if value - new_value <= rounding and np.linalg.norm(new_gradient) >= np.linalg.norm(
                gradient
            ):
                return unknowns, taken
            settled = length * np.linalg.norm(step) <= _SETTLED * np.linalg.norm(at)
            unknowns, value, gradient, probability = at, new_value, new_gradient, new_probability
        return unknowns, _STEPS

    def _evaluate(self, unknowns: Matrix, penalty: float) -> tuple[float, Matrix, Matrix]:
        """Objective, gradient (n + 1, K − 1) and probabilities (n, K)."""
        log_probability = _log_softmax(self._features @ (unknowns @ self._contrasts.T))
        probability = np.exp(log_probability)
        count = len(self._targets)
        value = -float((log_probability * self._targets).sum()) / count
        value += penalty / 2 * float(np.square(unknowns[:-1]).sum())
        residual = (probability - self._targets) @ self._contrasts
        gradient = self._features.T @ residual / count
        gradient[:-1] += penalty * unknowns[:-1]
        return value, gradient, probability

    def _solve_hessian(self, probability: Matrix, penalty: float, gradient: Matrix) -> Matrix:
        """Newton's step, by conjugate gradients as long as an earlier inverse makes them short."""
        if gradient.size <= _DIRECT:
            factor = cho_factor(
                self._hessian(probability, penalty),
                lower=True,
                overwrite_a=True,
                check_finite=False,
            )
            step: Matrix = cho_solve(factor, gradient.T.ravel(), check_finite=False)
            return step.reshape(gradient.shape[::-1]).T
        if self._inverse is not None:
            short = self._conjugate_gradients(probability, penalty, gradient)
            if short is not None:
                return short
        # What is below the diagonal in C's order is above it in Fortran's.
        hessian = self._hessian(probability, penalty).T
        factor, failed = dpotrf(hessian, overwrite_a=True)
        if failed:
            raise np.linalg.LinAlgError(
                f"the Hessian at penalty {penalty} is not positive definite"
            )
        # Products with the inverse take a fraction of the time of two triangular solutions.
        self._inverse, _ = dpotri(factor, overwrite_c=True)
        return self._precondition(gradient)

    def _conjugate_gradients(
        self, probability: Matrix, penalty: float, gradient: Matrix
    ) -> Matrix | None:
        """The step to a thousandth of the gradient, or None where that takes too many products."""
        step, residual = np.zeros_like(gradient), gradient.copy()
        direction = conditioned = self._precondition(residual)
        size = float((residual * conditioned).sum())
        enough = 1e-3 * np.linalg.norm(gradient)
        for _ in range(_PRODUCTS):
            product = self._curvature_along(probability, penalty, direction)
            length = size / float((direction * product).sum())
            step += length * direction
            residual -= length * product
            if np.linalg.norm(residual) <= enough:
                return step
            conditioned = self._precondition(residual)
            last, size = size, float((residual * conditioned).sum())
            direction = conditioned + size / last * direction
        return None

    def _curvature_along(self, probability: Matrix, penalty: float, direction: Matrix) -> Matrix:
        """The Hessian's product with a direction (n + 1, K − 1)."""
        change = self._features @ (direction @ self._contrasts.T)
        change -= (probability * change).sum(1, keepdims=True)
        change = (probability * change) @ self._contrasts
        product: Matrix = self._features.T @ change / len(probability)
        product[:-1] += penalty * direction[:-1]
        return product

    def _precondition(self, gradient: Matrix) -> Matrix:
        assert self._inverse is not None
        step: Matrix = dsymv(1.0, self._inverse, gradient.T.ravel())
        return step.reshape(gradient.shape[::-1]).T

    def _hessian(self, probability: Matrix, penalty: float) -> Matrix:
        """The Hessian, contrast by contrast; what is above the diagonal is not filled in."""
        size, n_contrasts = self._features.shape[1], self._contrasts.shape[1]
        one, two = self._pairs
        share = probability @ self._contrasts
        weight = probability @ self._products - share[:, one] * share[:, two]
        weight /= len(probability)
        weighted = self._features[:, None, :] * weight[:, :, None]
        blocks = self._features.T @ weighted.reshape(len(weighted), -1)
        hessian = np.empty((n_contrasts, size, n_contrasts, size))
        hessian[one, :, two] = blocks.reshape(size, len(one), size).swapaxes(0, 1)
        diagonal = np.einsum("kiki->ki", hessian)
        diagonal[:, :-1] += penalty
        return hessian.reshape(size * n_contrasts, -1)

    def weights(self, unknowns: Matrix) -> Matrix:
        """(D, K) on the standardised features."""
        weights: Matrix = self._basis @ (unknowns[:-1] @ self._contrasts.T)
        weights[self._dropped] = 0.0
        return weights

    def on_original(self, weights: Matrix, unknowns: Matrix) -> tuple[Matrix, Matrix]:
        """Coefficients (D, K) and intercepts (K,) for the features as they came."""
        coefficients = weights / self._scale[:, None]
        intercepts = self._contrasts @ unknowns[-1] - self._mean @ coefficients
        return coefficients, intercepts - intercepts.mean()

    def certificate(self, weights: Matrix, unknowns: Matrix, penalty: float) -> tuple[float, float]:
        """Objective, and largest absolute entry of the gradient, on the standardised features."""
        log_probability = _log_softmax(self._rows @ weights + self._contrasts @ unknowns[-1])
        residual = (np.exp(log_probability) - self._targets) / len(self._targets)
        value = -float((log_probability * self._targets).sum()) / len(self._targets)
        value += penalty / 2 * float(np.square(weights).sum())
        gradient = self._rows.T @ residual + penalty * weights
        return value, max(float(np.abs(gradient).max()), float(np.abs(residual.sum(0)).max()))

    def validate(self, unknowns: Matrix) -> tuple[float, float]:
        """Mean cross-entropy and macro F1 on the validation images."""
        log_probability = _log_softmax(self._validated @ (unknowns @ self._contrasts.T))
        labels, n_classes = self._validation_labels, len(self._contrasts)
        predicted = log_probability.argmax(1)
        hits = np.bincount(labels[predicted == labels], minlength=n_classes)
        either = np.bincount(labels, minlength=n_classes)
        either += np.bincount(predicted, minlength=n_classes)
        nll = -float(log_probability[np.arange(len(labels)), labels].mean())
        # 2 tp / (2 tp + fp + fn); the smallest denominator with a hit is 2.
        return nll, float((2 * hits / np.maximum(either, 1)).mean())


def _log_softmax(logits: Matrix) -> Matrix:
    # SciPy's has more cases, and at these sizes they take longer than the sum.
    logits = logits - logits.max(1, keepdims=True)
    shifted: Matrix = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return shifted
