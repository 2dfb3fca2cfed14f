"""Holm, rank intervals and groups: against hand-made cases and what they must satisfy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonobench.evaluation.ranking import holm, letter_groups, rank_intervals, ranks


def symmetric(m: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    flags = np.zeros((m, m), dtype=bool)
    for a, b in pairs:
        flags[a, b] = flags[b, a] = True
    return flags


def test_holm_multiplies_by_the_number_that_is_left_and_never_falls() -> None:
    # 0.01·4, 0.02·3, then 0.022·2 = 0.044 is raised to the 0.06 before it, 0.9·1.
    assert holm(np.array([0.9, 0.01, 0.022, 0.02])) == pytest.approx([0.9, 0.04, 0.06, 0.06])


def test_equal_estimates_share_the_better_rank() -> None:
    assert ranks(np.array([0.5, 0.9, 0.5, 0.1])).tolist() == [2, 1, 2, 4]


def test_a_rank_interval_counts_who_is_significantly_better_and_worse() -> None:
    # The first is better than the last, nothing else is sure.
    low, high = rank_intervals(np.array([0.9, 0.8, 0.7]), symmetric(3, [(0, 2)]))
    assert list(zip(low, high, strict=True)) == [(1, 2), (1, 3), (2, 3)]


def test_models_that_all_differ_have_a_letter_each_from_the_best() -> None:
    estimates = np.array([0.7, 0.9, 0.8])
    assert letter_groups(estimates, symmetric(3, [(0, 1), (0, 2), (1, 2)])) == ["c", "a", "b"]


def test_a_model_between_two_that_differ_has_the_letters_of_both() -> None:
    assert letter_groups(np.array([0.9, 0.8, 0.7]), symmetric(3, [(0, 2)])) == ["a", "ab", "b"]


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_models_differ_if_and_only_if_they_share_no_letter(m: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    different = np.triu(generator.random((m, m)) < 0.4, 1)
    different |= different.T
    groups = letter_groups(generator.permutation(m) / m, different)
    for a in range(m):
        for b in range(a):
            assert bool(set(groups[a]) & set(groups[b])) != different[a, b]
