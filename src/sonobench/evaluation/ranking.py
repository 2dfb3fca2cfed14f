"""What several comparisons say together: Holm's correction, rank intervals, groups of letters."""

import string

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def holm(p: Values) -> Values:
    """P values corrected for their number by Holm's step-down procedure (1979), (P,) -> (P,)."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, steps)
    return corrected


def ranks(estimates: Values) -> npt.NDArray[np.intp]:
    """Rank of every model, 1 for the largest estimate; equal ones share the better, (m,)."""
    rank: npt.NDArray[np.intp] = 1 + (estimates[:, None] < estimates[None, :]).sum(1)
    return rank


def rank_intervals(
    estimates: Values, different: Flags
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Lowest and highest rank that a model can have, given who differs significantly from whom.

    [1 + number significantly better, m - number significantly worse] (Mogstad et al., 2024).

    Args:
        estimates: (m,).
        different: symmetric, (m, m).
    """
    better = different & (estimates[:, None] < estimates[None, :])
    worse = different & (estimates[:, None] > estimates[None, :])
    return 1 + better.sum(1), len(estimates) - worse.sum(1)


def letter_groups(estimates: Values, different: Flags) -> list[str]:
    """Compact letter display: models differ significantly if and only if they share no letter.

    By insertion and absorption (Piepho, 2004); `a` is the group of the best. After z come numbered
    letters.

    Args:
        estimates: (m,).
        different: symmetric, (m, m).

    Returns:
        Letters of every model, such as `ab`.
    """
    order = np.argsort(-estimates, kind="stable")
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    groups = {frozenset(range(len(order)))}
    for one, other in np.argwhere(np.triu(different[np.ix_(order, order)])):
        split = {group for group in groups if one in group and other in group}
        parts = {group - {member} for group in split for member in (one, other)}
        groups = (groups - split) | parts
        groups = {group for group in groups if not any(group < larger for larger in groups)}
    letters = {
        member: "".join(
            _letter(number)
            for number, group in enumerate(sorted(groups, key=sorted))
            if member in group
        )
        for member in range(len(order))
    }
    return [letters[position] for position in place.tolist()]


def _letter(number: int) -> str:
    turn, letter = divmod(number, len(string.ascii_lowercase))
    return string.ascii_lowercase[letter] + (str(turn) if turn else "")
