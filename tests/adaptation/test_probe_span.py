"""Folds with fewer training images than features, solved in the span of their images."""

import numpy as np
import pytest
from probe_oracle import Cohort, assert_is_what_sklearn_finds, cohort, probabilities

from sonobench.adaptation import probe_span
from sonobench.adaptation.probe_span import is_solved_in_span

GRID = np.logspace(1, -6, 15)


def few(n_images: int = 24, n_folds: int = 2, seed: int = 0) -> Cohort:
    """Folds of at most 18 training images with 60 features."""
    return cohort(n_images, 60, 3, n_folds, seed)


def test_folds_of_fewer_images_than_features_are_solved_in_their_span() -> None:
    assert is_solved_in_span(59, 60, 3)
    assert not is_solved_in_span(60, 60, 3)
    assert not is_solved_in_span(2000, 4096, 6)


@pytest.mark.parametrize("seed", range(3))
def test_solutions_are_those_of_scikit_learn(seed: int) -> None:
    data = few(seed=seed)
    path = data.fit(patience=None)
    assert path.converged.all()
    assert_is_what_sklearn_finds(data, path)


def test_the_gradient_vanishes_on_the_whole_default_grid() -> None:
    path = few().fit(GRID, patience=None)
    assert path.gradient.max() < 1e-9
    assert path.iterations[:, 1:].min() >= 1


def test_the_shared_solver_finds_the_same_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    data = few()
    exact = data.fit(GRID[:12], patience=None)
    monkeypatch.setattr(probe_span, "_MOST_UNKNOWNS", 0)
    shared = data.fit(GRID[:12], patience=None, tolerance=1e-8)
    for fold in range(2):
        for step in range(12):
            np.testing.assert_allclose(
                probabilities(data, exact, fold, step),
                probabilities(data, shared, fold, step),
                atol=1e-4,
            )
    np.testing.assert_allclose(exact.validation_nll, shared.validation_nll, rtol=1e-3)
    np.testing.assert_array_equal(exact.validation_macro_f1, shared.validation_macro_f1)
    np.testing.assert_allclose(exact.objective, shared.objective, rtol=1e-5)


@pytest.mark.parametrize("penalties", [[1e-6], [10.0, 1e-6], [1e3, 1e-6], [1e-5, 1e-6]])
def test_a_weak_penalty_has_the_same_solution_whatever_stands_before_it(
    penalties: list[float],
) -> None:
    data = few()
    whole, alone = data.fit(GRID, patience=None), data.fit(penalties, patience=None)
    assert alone.converged.all()
    for fold in range(2):
        np.testing.assert_allclose(
            probabilities(data, alone, fold, len(penalties) - 1),
            probabilities(data, whole, fold, len(GRID) - 1),
            atol=1e-6,
        )


def test_folds_of_few_and_of_many_images_keep_their_places() -> None:
    data = cohort(150, 60, 3, 3)
    # The middle fold trains on twelve images, four of each class.
    chosen = np.concatenate(
        [np.flatnonzero(data.train[1] & (data.labels == label))[:4] for label in range(3)]
    )
    data.train[1] = np.isin(np.arange(150), chosen)
    assert [is_solved_in_span(int(n), 60, 3) for n in data.train.sum(1)] == [False, True, False]
    path = data.fit(patience=None, tolerance=1e-9)
    assert path.converged.all()
    assert_is_what_sklearn_finds(data, path)


def test_a_path_ends_after_values_that_are_worse() -> None:
    data = few()
    # What is learnt of the wrong labels gets worse on the validation images.
    data.labels[data.train[0]] = np.roll(data.labels[data.train[0]], 1)
    whole, ended = data.fit(GRID, patience=None), data.fit(GRID, patience=2)
    assert not ended.fitted[0].all()
    assert (ended.chosen == whole.chosen).all()
    last = int(ended.fitted[0].sum())
    assert (whole.validation_nll[0, last - 2 : last] > whole.validation_nll[0].min()).all()
    assert np.isnan(ended.coefficients[0, last:]).all()
    assert not ended.converged[0, last:].any()
    np.testing.assert_array_equal(ended.coefficients[0, :last], whole.coefficients[0, :last])


def test_one_image_of_every_class_and_constant_features() -> None:
    data = few()
    first = [int(np.flatnonzero(data.train[0] & (data.labels == label))[0]) for label in range(3)]
    data.train[0] = np.isin(np.arange(24), first)
    data.features[:, 5] = 0.1
    data.features[:, 7] = np.where(data.train[0], 3.0, data.features[:, 7])
    path = data.fit(patience=None)
    assert path.converged.all()
    assert (path.coefficients[:, :, 5] == 0).all()
    assert (path.coefficients[0, :, 7] == 0).all()
    assert (path.coefficients[1, :, 7] != 0).all()
    assert_is_what_sklearn_finds(data, path)


def test_progress_counts_penalties() -> None:
    told: list[tuple[int, int]] = []
    few().fit(GRID, on_progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (15, 15)
    assert told == sorted(told)


def test_conjugate_gradients_lead_to_the_same_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    data = few()
    direct = data.fit(GRID, patience=None)
    for products in (1, 40):  # nearly always, and never, a new factor
        monkeypatch.setattr(probe_span, "_DIRECT", 0)
        monkeypatch.setattr(probe_span, "_PRODUCTS", products)
        path = data.fit(GRID, patience=None)
        assert path.gradient.max() < 1e-9
        np.testing.assert_allclose(path.objective, direct.objective, rtol=1e-9)
        np.testing.assert_allclose(
            probabilities(data, path, 0, 14), probabilities(data, direct, 0, 14), atol=1e-6
        )
