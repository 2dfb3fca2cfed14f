"""Numbers as people read them: estimates, intervals, differences, p-values, shares, folds."""

import math

# Decimals of a number, and how many it may have where fewer would say something else.
_DECIMALS, _MOST_DECIMALS = 3, 6


def number(value: float, decimals: int = _DECIMALS) -> str:
    """Three decimals, or as many as are asked for; a dash where there is no number."""
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"


def bounds(low: float, high: float, decimals: int = _DECIMALS) -> str:
    """`[low, high]`; a dash where there is no interval."""
    return "–" if math.isnan(low) else f"[{number(low, decimals)}, {number(high, decimals)}]"


def with_bounds(estimate: float, low: float, high: float, decimals: int = _DECIMALS) -> str:
    """`estimate [low, high]`, or as much of it as there is."""
    found = [number(estimate, decimals)]
    found += [] if math.isnan(low) else [bounds(low, high, decimals)]
    return " ".join(found)


def signed(value: float, decimals: int = _DECIMALS) -> str:
    """Three decimals with their sign; a dash where there is no number.

    What three decimals would make 0 has a fourth, as its sign says on which side of 0 it lies.
    """
    if math.isnan(value):
        return "–"
    if round(value, decimals) == 0:
        decimals += 1
    rounded = round(value, decimals)
    return f"{rounded:+.{decimals}f}".replace("-", "−") if rounded else f"{0:.{_DECIMALS}f}"


def signed_bounds(low: float, high: float) -> str:
    """`[low, high]` of a difference; a dash where there is no interval."""
    return "–" if math.isnan(low) else f"[{signed(low)}, {signed(high)}]"


def p_value(value: float, alpha: float) -> str:
    """Three decimals, or as many as show on which side of `alpha` it lies."""
    if math.isnan(value):
        return "–"
    if value < 0.001:
        return "< 0.001"
    # Whoever reads 0.050 takes it for 5 %, which 1 - 0.95 is only nearly.
    decimals, alpha = _DECIMALS, round(alpha, _MOST_DECIMALS)
    while decimals < _MOST_DECIMALS and (round(value, decimals) < alpha) != (value < alpha):
        decimals += 1
    return f"{value:.{decimals}f}"


def percent(share: float) -> str:
    """A confidence as people write it: 95 %."""
    return f"{100 * share:.6g} %"


def counted(position: int) -> int:
    """A fold or an epoch as people count them: the tables of a run begin at 0, the report at 1."""
    return position + 1
