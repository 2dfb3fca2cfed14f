"""Metrics of confusion counts are scikit-learn's, whatever is absent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from sonobench.evaluation.counts import subject_confusions
from sonobench.evaluation.metrics import (
    accuracy,
    balanced_accuracy,
    bounded_metric_names,
    bounded_metrics,
    macro_f1,
    per_class_f1,
    per_class_precision,
    per_class_recall,
    subject_shares,
    weighted_f1,
)

K = 4


def confusion_of(true: list[int], predicted: list[int]) -> np.ndarray:
    nobody = np.zeros(len(true), dtype=np.intp)
    return subject_confusions(nobody, np.array(true), np.array(predicted), 1, K)[0]


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[int], list[int], np.ndarray]:
    """True classes, predicted ones, and a set of declared classes that holds the true ones.

    Small samples of few classes: absent and never predicted classes are common among them.
    """
    declared = draw(st.sets(st.integers(0, K - 1), min_size=1))
    n = draw(st.integers(1, 12))
    true = draw(st.lists(st.sampled_from(sorted(declared)), min_size=n, max_size=n))
    predicted = draw(st.lists(st.integers(0, K - 1), min_size=n, max_size=n))
    return true, predicted, np.array(sorted(declared))


@given(labelled())
def test_every_metric_is_that_of_scikit_learn(
    case: tuple[list[int], list[int], np.ndarray],
) -> None:
    true, predicted, declared = case
    confusion = confusion_of(true, predicted)
    options = {"y_true": true, "y_pred": predicted, "zero_division": 0}
    by_class = precision_recall_fscore_support(labels=range(K), **options)
    macro = precision_recall_fscore_support(labels=declared, average="macro", **options)
    weighted = precision_recall_fscore_support(labels=declared, average="weighted", **options)
    np.testing.assert_allclose(per_class_precision(confusion), by_class[0], rtol=1e-12)
    np.testing.assert_allclose(per_class_recall(confusion), by_class[1], rtol=1e-12)
    np.testing.assert_allclose(per_class_f1(confusion), by_class[2], rtol=1e-12)
    assert macro_f1(confusion, declared) == pytest.approx(macro[2], rel=1e-12)
    assert weighted_f1(confusion, declared) == pytest.approx(weighted[2], rel=1e-12)
    # scikit-learn's balanced accuracy skips absent classes; over declared ones it is macro recall.
    assert balanced_accuracy(confusion, declared) == pytest.approx(macro[1], rel=1e-12)
    assert accuracy(confusion, declared) == pytest.approx(accuracy_score(true, predicted))


def test_a_declared_class_that_is_never_predicted_has_precision_and_f1_0() -> None:
    confusion = confusion_of([0, 0, 1], [0, 0, 0])
    assert per_class_precision(confusion)[1] == 0
    # F1 of class 0: 2·2 / (2 + 3); of class 1: 0.
    assert macro_f1(confusion, np.array([0, 1])) == pytest.approx((4 / 5 + 0) / 2)


def test_a_class_that_is_not_declared_enters_no_average_but_takes_its_predictions() -> None:
    # One of two images of class 0 is taken for class 3, which the cohort does not have.
    confusion = confusion_of([0, 0, 1, 1], [0, 3, 1, 1])
    assert macro_f1(confusion, np.array([0, 1])) == pytest.approx((2 / 3 + 1) / 2)
    assert balanced_accuracy(confusion, np.array([0, 1])) == pytest.approx((1 / 2 + 1) / 2)


def test_leading_dimensions_are_kept() -> None:
    generator = np.random.default_rng(0)
    confusions = generator.integers(0, 9, size=(2, 3, K, K))
    together = bounded_metrics(confusions, np.array([0, 1, 3]))
    for position in np.ndindex(2, 3):
        alone = bounded_metrics(confusions[position], np.array([0, 1, 3]))
        np.testing.assert_array_equal(together[position], alone)


def test_metrics_are_named_for_the_declared_classes_only() -> None:
    assert bounded_metric_names(("brain", "femur", "other"), np.array([0, 2])) == [
        "macro_f1",
        "balanced_accuracy",
        "weighted_f1",
        "accuracy",
        "f1[brain]",
        "f1[other]",
        "precision[brain]",
        "precision[other]",
        "recall[brain]",
        "recall[other]",
    ]


def test_every_value_stands_at_the_place_of_its_name() -> None:
    declared = np.array([0, 2])
    confusion = np.array([[5, 1, 2], [0, 0, 0], [3, 0, 9]])
    names = bounded_metric_names("abc", declared)
    values = dict(zip(names, bounded_metrics(confusion, declared), strict=True))
    assert values == {
        "macro_f1": macro_f1(confusion, declared),
        "balanced_accuracy": balanced_accuracy(confusion, declared),
        "weighted_f1": weighted_f1(confusion, declared),
        "accuracy": accuracy(confusion, declared),
        "f1[a]": per_class_f1(confusion)[0],
        "f1[c]": per_class_f1(confusion)[2],
        "precision[a]": per_class_precision(confusion)[0],
        "precision[c]": per_class_precision(confusion)[2],
        "recall[a]": per_class_recall(confusion)[0],
        "recall[c]": per_class_recall(confusion)[2],
    }


def test_a_subjects_share_is_what_a_recall_loses_when_all_its_images_are_wrong() -> None:
    # Subject 0 has 3 of 4 images of class 0; subject 1 the other, and both of class 1.
    declared = np.array([0, 1])
    shares = subject_shares(np.array([[3, 0, 0, 0], [1, 2, 0, 0]]), declared)
    right = bounded_metrics(confusion_of([0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]), declared)
    wrong = bounded_metrics(confusion_of([0, 0, 0, 0, 1, 1], [2, 2, 2, 0, 1, 1]), declared)
    np.testing.assert_allclose(shares.sum(0), 1)
    for place, name in enumerate(bounded_metric_names("abcd", declared)):
        if name in ("accuracy", "balanced_accuracy", "recall[a]", "recall[b]"):
            assert right[place] - wrong[place] == pytest.approx(shares[0, place])
