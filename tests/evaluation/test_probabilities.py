"""Metrics of probabilities against scikit-learn and against the definition, image by image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, log_loss, matthews_corrcoef

from sonobench.evaluation.counts import subject_confusions
from sonobench.evaluation.metrics import COMPARED, UNBOUNDED, accuracy, drawn_metrics, macro_f1
from sonobench.evaluation.metrics import weighted_f1 as weighted
from sonobench.evaluation.probabilities import (
    calibration_errors,
    equal_mass_bins,
    probabilities,
    probability_sums,
    score_means,
)

ALL = np.arange(4)


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, 6, n),
        generator.integers(0, 3, n),  # class 3 is absent
        generator.normal(size=(n, 4)).astype(np.float32) * 2,
    )


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_likelihood_and_brier_score_are_means_over_images(n: int, seed: int) -> None:
    subject, true, logits = drawn(seed, n)
    sums = probability_sums(subject, true, logits, ALL, ALL[:3], 6)
    nll, brier = score_means(sums.scores.sum(0))
    probability = probabilities(logits, ALL)
    # Rounding to units of 2^-24: at most half a unit an image.
    assert nll == pytest.approx(log_loss(true, probability, labels=ALL), abs=1e-6)
    truth = np.eye(4)[true]
    assert brier == pytest.approx(np.square(probability - truth).sum(1).mean(), abs=1e-6)


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_calibration_errors_follow_their_definition(n: int, seed: int) -> None:
    subject, true, logits = drawn(seed, n)
    sums = probability_sums(subject, true, logits, ALL, ALL[:3], 6)
    top, by_class = calibration_errors(sums.gaps.sum(0))
    probability = probabilities(logits, ALL)

    def error(confidence: np.ndarray, success: np.ndarray) -> float:
        bins = equal_mass_bins(confidence)
        return sum(
            (bins == b).mean() * abs(confidence[bins == b].mean() - success[bins == b].mean())
            for b in set(bins)
        )

    expected = error(probability.max(1), probability.argmax(1) == true)
    assert top == pytest.approx(expected, abs=1e-6)
    classes = [error(probability[:, k], true == k) for k in range(3)]
    assert by_class == pytest.approx(np.mean(classes), abs=1e-6)


def test_bins_hold_equally_many_images() -> None:
    values = np.random.default_rng(0).random(150)
    assert np.bincount(equal_mass_bins(values)).tolist() == [10] * 15


def test_equal_probabilities_share_a_bin() -> None:
    assert len(set(equal_mass_bins(np.full(20, 0.7)))) == 1


def test_probabilities_of_classes_that_cannot_be_predicted_are_0() -> None:
    probability = probabilities(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([0, 2]))
    assert probability[0, [1, 3]].tolist() == [0, 0]
    assert probability.sum() == pytest.approx(1)
    assert probability[0, 2] / probability[0, 0] == pytest.approx(np.exp(2))


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_kappa_and_matthews_coefficient_are_scikit_learns(n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    true, predicted = generator.integers(0, 3, n), generator.integers(0, 4, n)
    confusion = subject_confusions(np.zeros(n, dtype=np.intp), true, predicted, 1, 4)[0]
    values = dict(zip((*COMPARED, *UNBOUNDED), drawn_metrics(confusion, ALL[:3]), strict=True))
    if len({*true, *predicted}) > 1:
        assert values["kappa"] == pytest.approx(cohen_kappa_score(true, predicted))
        assert values["mcc"] == pytest.approx(matthews_corrcoef(true, predicted), abs=1e-12)
    assert values["macro_f1"] == pytest.approx(macro_f1(confusion, ALL[:3]))
    assert values["weighted_f1"] == pytest.approx(weighted(confusion, ALL[:3]))
    assert values["accuracy"] == pytest.approx(accuracy(confusion, ALL[:3]))


def test_of_one_class_that_is_always_predicted_kappa_and_matthews_coefficient_are_0() -> None:
    confusion = np.zeros((4, 4))
    confusion[1, 1] = 7
    assert drawn_metrics(confusion, ALL[1:2])[-2:].tolist() == [0, 0]
