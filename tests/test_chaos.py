"""A run that is interrupted again and again ends with what an undisturbed one has."""

from pathlib import Path

from benchmarks.chaos import torment


def test_nothing_is_lost_half_written_or_made_twice(tmp_path: Path) -> None:
    # A short round of 18 tasks; `python -m benchmarks chaos` does more than a hundred.
    figures = torment(tmp_path, 3, width=3, seconds=0.05, a_round=3)
    assert figures.interruptions.total() >= 3
    assert figures.different == 0
    assert figures.half_written == 0
    assert figures.repeated == 0
    assert figures.leftovers == 0
