"""The interval of metrics in [0, 1]: standard error against a slow loop, and 0 and 1."""

import numpy as np
import pytest
from scipy.stats import beta
from scipy.stats import t as student
from sklearn.metrics import f1_score

from sonobench.evaluation import jackknife_replicates, jackknife_variance, logit_interval
from sonobench.evaluation.counts import subject_confusions
from sonobench.evaluation.metrics import macro_f1

K = 3
CLASSES = np.arange(K)


def standard_error(counts, statistic, strata):
    return np.sqrt(jackknife_variance(jackknife_replicates(counts, statistic, strata), strata))


def statistic(confusion: np.ndarray) -> np.ndarray:
    return macro_f1(confusion, CLASSES)[..., None]


def random_images(seed: int, n_subjects: int, models: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    subject = np.repeat(np.arange(n_subjects), generator.integers(1, 6, size=n_subjects))
    true = generator.integers(K, size=subject.size)
    wrong = generator.random((models, subject.size)) < 0.3
    return subject, true, np.where(wrong, generator.integers(K, size=wrong.shape), true)


def counts_of(subject: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    n = subject.max() + 1
    return np.stack([subject_confusions(subject, true, model, n, K) for model in predicted])


def interval(
    estimate: float, standard_error: float, shares: np.ndarray, degrees_of_freedom: int = 10
) -> tuple[float, float]:
    low, high = logit_interval(
        np.array([estimate]),
        np.array([standard_error]),
        shares[:, None],
        degrees_of_freedom,
        confidence=0.95,
    )
    return float(low[0]), float(high[0])


@pytest.mark.parametrize("strata", [[0] * 12, [0, 1, 2] * 4, [0] * 10 + [1] * 2])
def test_the_standard_error_is_that_of_leaving_out_one_subject_after_the_other(
    strata: list[int],
) -> None:
    subject, true, predicted = random_images(0, 12, models=2)
    stratum = np.array(strata)
    variance = 0.0
    for h in set(strata):
        members = np.flatnonzero(stratum == h)
        replicates = []
        for left_out in members:
            weight = np.where(stratum == h, members.size / (members.size - 1), 1.0)
            weight[left_out] = 0
            replicates.append(
                np.mean(
                    [
                        f1_score(
                            true,
                            model,
                            labels=CLASSES,
                            average="macro",
                            sample_weight=weight[subject],
                            zero_division=0,
                        )
                        for model in predicted
                    ]
                )
            )
        deviations = np.array(replicates) - np.mean(replicates)
        variance += (members.size - 1) / members.size * np.sum(deviations**2)
    error = standard_error(counts_of(subject, true, predicted), statistic, stratum)
    assert error[0] == pytest.approx(np.sqrt(variance), rel=1e-10)


def test_for_a_mean_of_single_images_it_is_the_textbook_standard_error() -> None:
    # Accuracy of one image a subject is a binomial proportion; the jackknife's variance of a mean
    # is s² / n exactly, with s² = n p (1 - p) / (n - 1).
    right = np.array([1] * 15 + [0] * 5)
    counts = np.zeros((1, 20, 2, 2), dtype=np.int64)
    counts[0, np.arange(20), 0, 1 - right] = 1
    error = standard_error(
        counts,
        lambda confusion: (confusion[..., 0, 0] / confusion.sum((-2, -1)))[..., None],
        np.zeros(20, dtype=np.intp),
    )
    assert error[0] == pytest.approx(np.sqrt(0.75 * 0.25 / 19), rel=1e-12)


def test_five_times_the_same_model_is_not_more_certain_than_one() -> None:
    subject, true, predicted = random_images(1, 10, models=1)
    one = counts_of(subject, true, predicted)
    strata = np.zeros(10, dtype=np.intp)
    five = standard_error(np.repeat(one, 5, axis=0), statistic, strata)
    assert five[0] == pytest.approx(standard_error(one, statistic, strata)[0], rel=1e-12)


def test_a_class_of_one_subject_makes_the_interval_wide() -> None:
    # All right, but class 2 has one subject: without it its F1 is 0 and macro F1 2/3.
    subject, true = np.array([0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 0, 1, 0, 1, 2])
    counts = counts_of(subject, true, true[None])
    error = standard_error(counts, statistic, np.zeros(4, dtype=np.intp))
    # Replicates 1, 1, 1, 2/3: sum of squares 1/12, times 3/4.
    assert error[0] == pytest.approx(np.sqrt(3 / 4 / 12))


def test_a_stratum_of_one_subject_adds_nothing() -> None:
    subject, true, predicted = random_images(2, 6, models=1)
    counts = counts_of(subject, true, predicted)
    error = standard_error(counts, statistic, np.array([0, 1, 2, 3, 4, 5]))
    assert error[0] == 0


def test_inside_0_and_1_the_interval_is_symmetric_on_the_logit_scale() -> None:
    low, high = interval(0.9, 0.02, np.full(11, 1 / 11), degrees_of_freedom=10)
    margin = student.ppf(0.975, 10) * 0.02 / (0.9 * 0.1)
    assert np.log(low / (1 - low)) == pytest.approx(np.log(9) - margin)
    assert np.log(high / (1 - high)) == pytest.approx(np.log(9) + margin)


def test_the_interval_stays_within_0_and_1() -> None:
    low, high = interval(0.999, 0.3, np.full(5, 0.2), degrees_of_freedom=1)
    assert 0 <= low < 0.999 < high <= 1


@pytest.mark.parametrize("n", [5, 112])
def test_at_1_and_0_the_bound_is_clopper_and_pearsons_of_the_subjects(n: int) -> None:
    equal = np.full(n, 1 / n)
    # Clopper-Pearson with n of n: the lower bound is the 2.5 % point of Beta(n, 1).
    bound = beta.ppf(0.025, n, 1)
    assert interval(1.0, 0.0, equal) == (pytest.approx(bound), 1.0)
    assert interval(0.0, 0.0, equal) == (0.0, pytest.approx(1 - bound))


def test_at_1_a_subject_that_holds_most_images_counts_for_more() -> None:
    equal, _ = interval(1.0, 0.0, np.full(10, 0.1))
    uneven, _ = interval(1.0, 0.0, np.array([0.91] + [0.01] * 9))
    assert uneven < equal


def test_without_degrees_of_freedom_there_is_no_interval() -> None:
    low, high = interval(0.9, 0.0, np.ones(1), degrees_of_freedom=0)
    assert np.isnan(low)
    assert np.isnan(high)
