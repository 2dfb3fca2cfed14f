"""Draws of subjects, and statistics of draws against really resampled rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from sonobench.evaluation import bootstrap_statistic, draw_subjects, percentile_interval
from sonobench.evaluation.counts import subject_confusions
from sonobench.evaluation.metrics import macro_f1

K = 3
CLASSES = np.arange(K)


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_every_draw_takes_as_many_subjects_of_a_stratum_as_it_has(strata: list[int]) -> None:
    stratum = np.unique(strata, return_inverse=True)[1]
    draws = draw_subjects(stratum, np.ones((len(strata), 1), dtype=bool), 7, generator())
    for h in range(stratum.max() + 1):
        of_stratum = draws.weights[:, stratum == h].sum(1)
        assert (of_stratum == np.count_nonzero(stratum == h)).all()


def test_every_subject_is_drawn_once_on_average() -> None:
    draws = draw_subjects(np.zeros(5, dtype=int), np.ones((5, 1), dtype=bool), 40_000, generator())
    # A weight is binomial(5, 1/5) with variance 4/5: the mean's standard error is 0.0045.
    np.testing.assert_allclose(draws.weights.mean(0), 1, atol=0.02)
    np.testing.assert_allclose(draws.weights.var(0), 4 / 5, atol=0.04)


def test_macro_f1_of_a_draw_is_that_of_really_resampled_rows() -> None:
    random = generator()
    subject = np.repeat(np.arange(15), random.integers(1, 6, size=15))
    true = random.integers(K, size=subject.size)
    predicted = random.integers(K, size=(2, 3, subject.size))
    counts = np.stack(
        [[subject_confusions(subject, true, fold, 15, K) for fold in model] for model in predicted]
    )
    weights = draw_subjects(
        np.arange(15) % 2, np.ones((15, 1), dtype=bool), 20, generator()
    ).weights
    values = bootstrap_statistic(
        weights, np.moveaxis(counts, 2, 0), lambda sums: macro_f1(sums, CLASSES)
    )
    assert values.shape == (20, 2, 3)
    for draw, model, fold in np.ndindex(values.shape):
        rows = np.repeat(np.arange(subject.size), weights[draw, subject].astype(int))
        expected = f1_score(
            true[rows],
            predicted[model, fold, rows],
            labels=CLASSES,
            average="macro",
            zero_division=0,
        )
        assert values[draw, model, fold] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("largest", [100, 2**23, 2**40])
def test_sums_are_exact_and_independent_of_the_order_of_subjects(largest: int) -> None:
    random = generator()
    counts = random.integers(largest, size=(50, 30))
    weights = draw_subjects(
        np.zeros(50, dtype=int), np.ones((50, 1), dtype=bool), 40, generator()
    ).weights
    order = random.permutation(50)
    sums = bootstrap_statistic(weights, counts, lambda block: block.astype(np.float64))
    shuffled = bootstrap_statistic(
        weights[:, order], counts[order], lambda block: block.astype(np.float64)
    )
    np.testing.assert_array_equal(sums, weights.astype(np.int64) @ counts)
    np.testing.assert_array_equal(sums, shuffled)


def test_a_draw_without_a_declared_class_is_redrawn() -> None:
    # The class is carried by 4 of 12 subjects: (8/12)^12 = 0.8 % of draws lack it, and after one
    # more draw 0.006 %, which is less than one of 2,000.
    carries = np.arange(12)[:, None] < 4
    draws = draw_subjects(np.zeros(12, dtype=int), carries, 2_000, generator())
    assert draws.redrawn_share == pytest.approx((8 / 12) ** 12, abs=0.006)
    assert draws.redrawn_share > 0
    assert (draws.weights[:, :4].sum(1) > 0).all()


def test_a_draw_is_redrawn_once_only_and_the_share_counts_first_draws() -> None:
    # One of two subjects carries the class: 1/4 of draws lack it, of the redrawn ones as many.
    carries = np.array([[True], [False]])
    draws = draw_subjects(np.zeros(2, dtype=int), carries, 40_000, generator())
    assert draws.redrawn_share == pytest.approx(1 / 4, abs=0.01)
    assert (draws.weights[:, 0] == 0).mean() == pytest.approx(1 / 16, abs=0.006)


def test_draws_that_have_every_class_are_left_as_they_are() -> None:
    carries = np.arange(12)[:, None] < 4
    once = draw_subjects(np.zeros(12, dtype=int), np.ones((12, 1), dtype=bool), 2_000, generator())
    again = draw_subjects(np.zeros(12, dtype=int), carries, 2_000, generator())
    fine = once.weights[:, :4].sum(1) > 0
    np.testing.assert_array_equal(once.weights[fine], again.weights[fine])


def test_percentile_bounds_leave_out_equal_tails() -> None:
    low, high = percentile_interval(np.arange(1001.0)[:, None], 0.95)
    assert (low[0], high[0]) == (pytest.approx(25), pytest.approx(975))
