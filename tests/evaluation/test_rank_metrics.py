"""Metrics that rank images are scikit-learn's in every draw, whatever is tied or absent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from sonobench.evaluation.rank_metrics import one_vs_rest, risk_coverage_area


@st.composite
def ranked(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, classes, subjects and the weights of a few draws."""
    n = draw(st.integers(2, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = generator.integers(0, draw(st.integers(1, 30)), n) / 7
    positive = generator.random(n) < 0.4
    positive[0] = True
    subject = generator.integers(0, 5, n)
    return scores, positive, subject, generator.integers(0, 3, (5, 4)).astype(np.float64)


@given(ranked())
def test_auroc_and_average_precision_are_those_of_scikit_learn_in_every_draw(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    scores, positive, subject, weights = case
    auroc, average_precision = one_vs_rest(scores, positive, subject, weights)
    for draw in range(weights.shape[1]):
        weight = weights[subject, draw]
        kept = weight > 0
        if not positive[kept].any():
            assert np.isnan(average_precision[draw])
            assert np.isnan(auroc[draw])
            continue
        expected = average_precision_score(positive[kept], scores[kept], sample_weight=weight[kept])
        assert average_precision[draw] == pytest.approx(expected)
        if positive[kept].all():
            assert np.isnan(auroc[draw])
        else:
            expected = roc_auc_score(positive[kept], scores[kept], sample_weight=weight[kept])
            assert auroc[draw] == pytest.approx(expected)


@given(ranked())
def test_the_area_under_risk_and_coverage_is_that_of_really_resampled_images(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    confidence, wrong, subject, weights = case
    area = risk_coverage_area(confidence, wrong, subject, weights)
    for draw in range(weights.shape[1]):
        rows = np.repeat(np.arange(len(subject)), weights[subject, draw].astype(int))
        if rows.size:
            risks = [wrong[rows][confidence[rows] >= value].mean() for value in confidence[rows]]
            assert area[draw] == pytest.approx(np.mean(risks))


def test_draws_in_float32_are_good_to_five_digits() -> None:
    generator = np.random.default_rng(0)
    positive = generator.random(3_000) < 0.3
    scores = generator.normal(size=3_000) + positive
    subject = generator.integers(0, 500, 3_000)
    weights = generator.multinomial(500, np.full(500, 1 / 500), size=300).T
    exact = one_vs_rest(scores, positive, subject, weights.astype(np.float64))
    quick = one_vs_rest(scores, positive, subject, weights.astype(np.float32))
    np.testing.assert_allclose(quick, exact, rtol=1e-5)


def test_a_perfect_ranking_has_1_and_a_reversed_one_0() -> None:
    scores, subject, once = np.array([1.0, 2.0, 3.0, 4.0]), np.arange(4), np.ones((4, 1))
    positive = np.array([False, False, True, True])
    assert one_vs_rest(scores, positive, subject, once)[:, 0].tolist() == [1, 1]
    assert one_vs_rest(-scores, positive, subject, once)[0, 0] == 0


def test_scores_that_are_all_equal_are_chance() -> None:
    positive = np.array([True, False, False, False])
    auroc, average_precision = one_vs_rest(np.zeros(4), positive, np.arange(4), np.ones((4, 1)))
    assert auroc[0] == 0.5
    assert average_precision[0] == 0.25
