"""Cohorts of features for the linear probe, and scikit-learn fitted fold by fold as the oracle."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from sonobench.adaptation.probe_path import ProbePath
from sonobench.adaptation.solver import fit_path

PENALTIES = np.logspace(1, -3, 5)


class Cohort(NamedTuple):
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    train: npt.NDArray[np.bool_]
    validation: npt.NDArray[np.bool_]

    def fit(self, penalties: Any = PENALTIES, **settings: Any) -> ProbePath:
        n_classes = int(self.labels.max()) + 1
        return fit_path(*self, n_classes=n_classes, penalties=penalties, **settings)


def cohort(
    n_images: int = 150, n_features: int = 12, n_classes: int = 4, n_folds: int = 3, seed: int = 0
) -> Cohort:
    """Correlated features with overlapping classes; a third of the images validates each fold."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n_images) % n_classes)
    latent = rng.standard_normal((n_images, n_features))
    latent += rng.standard_normal((n_classes, n_features))[labels]
    mixing = rng.standard_normal((n_features, n_features)) / np.arange(1, n_features + 1)
    group = rng.permutation(np.arange(n_images) % n_folds)
    validation = np.arange(n_folds)[:, None] == group
    features = (latent @ mixing + rng.standard_normal(n_features)).astype(np.float32)
    return Cohort(features, labels, ~validation, validation)


class Oracle(NamedTuple):
    """One fold at one penalty as scikit-learn solves it, on the features that vary in the fold."""

    coefficients: npt.NDArray[np.float64]  # (D, K) for the features as they came
    objective: float
    probabilities: npt.NDArray[np.float64]  # (N, K) of all images


def oracle(data: Cohort, fold: int, penalty: float) -> Oracle:
    train, n_train = data.train[fold], int(data.train[fold].sum())
    features = data.features.astype(np.float64)
    varies = np.ptp(features[train], axis=0) > 0
    scaler = StandardScaler().fit(features[train][:, varies])
    x, y = scaler.transform(features[:, varies]), data.labels
    binary = y.max() == 1
    model = LogisticRegression(
        # With two classes scikit-learn penalises w = w₁ − w₀, and ‖w‖² is twice ‖w₀‖² + ‖w₁‖².
        C=(2 if binary else 1) / (penalty * n_train),
        solver="newton-cholesky" if x.shape[1] < 100 else "lbfgs",
        tol=1e-10,
        max_iter=20_000,
    ).fit(x[train], y[train])
    weights = np.vstack([-model.coef_, model.coef_]) / 2 if binary else model.coef_
    probabilities = model.predict_proba(x)
    coefficients = np.zeros((features.shape[1], len(weights)))
    coefficients[varies] = (weights / scaler.scale_).T
    objective = log_loss(y[train], probabilities[train]) + penalty / 2 * np.square(weights).sum()
    return Oracle(coefficients, objective, probabilities)


def probabilities(data: Cohort, path: ProbePath, fold: int, step: int) -> npt.NDArray[np.float64]:
    logits: npt.NDArray[np.float64] = (
        data.features.astype(np.float64) @ path.coefficients[fold, step]
    )
    logits += path.intercepts[fold, step]
    return softmax(logits, axis=1)


def assert_is_what_sklearn_finds(data: Cohort, path: ProbePath, rtol: float = 1e-5) -> None:
    for fold in range(len(data.train)):
        for step, penalty in enumerate(path.penalties):
            expected = oracle(data, fold, penalty)
            np.testing.assert_allclose(path.objective[fold, step], expected.objective, rtol=1e-9)
            np.testing.assert_allclose(
                path.coefficients[fold, step],
                expected.coefficients,
                rtol=rtol,
                atol=rtol * np.abs(expected.coefficients).max(),
            )
            np.testing.assert_allclose(
                probabilities(data, path, fold, step), expected.probabilities, atol=rtol
            )
