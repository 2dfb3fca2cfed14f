"""What each subject adds: predictions in either label space, confusion counts, likelihoods."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import confusion_matrix, log_loss

from sonobench.evaluation.counts import (
    NLL_UNITS,
    predicted_classes,
    subject_confusions,
    subject_nll,
)

ALL = np.arange(4)
LOGITS = np.array([[0.0, 1.0, 3.0, 2.0], [5.0, 4.0, 9.0, 4.5]], dtype=np.float32)


def test_the_open_label_space_takes_the_largest_logit_of_all_classes() -> None:
    assert predicted_classes(LOGITS, ALL).tolist() == [2, 2]


def test_the_closed_label_space_takes_the_largest_logit_of_the_declared_classes() -> None:
    assert predicted_classes(LOGITS, np.array([0, 1, 3])).tolist() == [3, 0]


def test_of_equal_logits_the_first_class_wins() -> None:
    assert predicted_classes(np.zeros((1, 4)), np.array([1, 3])).tolist() == [1]


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_subject_confusions_are_those_of_scikit_learn_for_every_subject(n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    subject, true, predicted = generator.integers(0, 4, size=(3, n))
    counts = subject_confusions(subject, true, predicted, 4, 4)
    for index in range(4):
        own = subject == index
        expected = (
            confusion_matrix(true[own], predicted[own], labels=ALL)
            if own.any()
            else np.zeros((4, 4))
        )
        np.testing.assert_array_equal(counts[index], expected)


@given(npst.arrays(np.float32, (5, 4), elements=st.floats(-10, 10, width=32)))
def test_nll_is_the_log_loss_of_the_softmax(logits: np.ndarray) -> None:
    # Within ±10, since scikit-learn cuts probabilities off at 2e-16.
    true = np.array([0, 1, 2, 3, 0])
    nll = subject_nll(np.zeros(5, dtype=np.intp), true, logits, ALL, 1)[0] / NLL_UNITS / 5
    exact = logits.astype(np.float64)
    probabilities = np.exp(exact - exact.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    # Rounding to units of 2^-24 nats: at most half a unit an image.
    assert nll == pytest.approx(log_loss(true, probabilities, labels=ALL), rel=1e-9, abs=1e-7)


def test_nll_in_the_closed_label_space_is_that_of_the_declared_logits_alone() -> None:
    declared = np.array([0, 3])
    true, subject = np.array([3, 0]), np.array([0, 1])
    closed = subject_nll(subject, true, LOGITS, declared, 2)
    alone = subject_nll(subject, np.array([1, 0]), LOGITS[:, declared], np.arange(2), 2)
    np.testing.assert_array_equal(closed, alone)


def test_nll_of_a_confidently_wrong_model_is_finite() -> None:
    logits = np.array([[1e30, 0.0]], dtype=np.float32)
    zero = np.zeros(1, dtype=np.intp)
    nll = subject_nll(zero, np.array([1]), logits, np.arange(2), 1)[0] / NLL_UNITS
    assert nll == pytest.approx(1e30)


def test_nll_sums_do_not_depend_on_the_order_of_rows() -> None:
    generator = np.random.default_rng(0)
    subject, true = generator.integers(0, 4, size=(2, 500))
    logits = generator.normal(size=(500, 4)).astype(np.float32)
    order = generator.permutation(500)
    np.testing.assert_array_equal(
        subject_nll(subject, true, logits, ALL, 4),
        subject_nll(subject[order], true[order], logits[order], ALL, 4),
    )
