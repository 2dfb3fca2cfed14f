"""A small share of `python -m benchmarks fuzz`: the same hostile tables and files."""

from benchmarks.fuzz import torment_tables
from benchmarks.fuzz_files import torment_archives, torment_images


def test_hostile_tables_give_rows_as_written_or_a_clear_error() -> None:
    figures = torment_tables(300)
    assert figures["cases"] == 300
    # Both happen: a generator whose tables are all refused would prove little.
    assert int(str(figures["manifest read"])) > 5
    assert int(str(figures["manifest refused"])) > 5


def test_hostile_images_give_pixels_or_a_clear_error() -> None:
    assert torment_images(150)["cases"] == 150


def test_hostile_archives_leave_the_whole_dataset_or_nothing() -> None:
    assert torment_archives(100)["cases"] == 100
