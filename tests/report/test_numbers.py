"""Numbers are rounded so that they do not contradict what is said of them."""

import math

import pytest

from sonobench.report.numbers import bounds, p_value, percent, signed, with_bounds


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "+0.012"), (-0.5, "−0.500"), (0.0, "0.000"), (-0.0, "0.000"), (math.nan, "–")],
)
def test_a_difference_has_three_decimals_and_a_sign_unless_it_is_none(value, text):
    assert signed(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0003, "+0.0003"), (-0.0002, "−0.0002")])
def test_a_bound_near_zero_shows_on_which_side_it_lies(value, text):
    assert signed(value) == text


def test_what_four_decimals_make_zero_has_no_sign():
    assert signed(-0.00001) == "0.000"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0498, "0.0498"), (0.05004, "0.050"), (0.3, "0.300"), (0.0004, "< 0.001")],
)
def test_a_p_value_does_not_round_across_its_threshold(p, text):
    assert p_value(p, alpha=1 - 0.95) == text


def test_an_interval_that_is_not_there_is_a_dash_or_left_out():
    assert bounds(math.nan, math.nan) == "–"
    assert with_bounds(0.5, math.nan, math.nan) == "0.500"


def test_a_confidence_near_one_is_not_rounded_to_all():
    assert percent(0.995) == "99.5 %"
