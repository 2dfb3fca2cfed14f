"""A small share of `python -m benchmarks fuzz`: the same hostile checkpoints."""

from benchmarks.fuzz_checkpoints import torment_checkpoints


def test_hostile_checkpoints_give_the_weights_or_a_clear_error() -> None:
    assert torment_checkpoints(100)["cases"] == 100
