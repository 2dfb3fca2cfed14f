"""A table's split: words, or flags in a column whose name says of what; asked where it does not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sonobench.datasets import DatasetError
from sonobench.datasets.propose import Proposal, from_table
from sonobench.datasets.split_column import parts


def proposed(folder: Path, header: str, *values: str, **columns: str) -> Proposal:
    """The proposal for a table with further columns, of which a row has these values."""
    for number in range(len(values)):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    rows = [f"{number}.png,x,{number},{value}" for number, value in enumerate(values)]
    (folder / "list.csv").write_text("\n".join([f"path,label,patient,{header}", *rows]))
    return from_table(folder / "list.csv", columns)


def splits(proposal: Proposal) -> list[str]:
    return [row.get("split", "") for row in proposal.rows]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("Train ", ("1", "0"), ["train", "test"]),
        ("is_train", ("True", "False"), ["train", "test"]),
        ("Train_Flag", ("1.0", "0.0"), ["train", "test"]),
        ("training set", ("yes", "NO"), ["train", "test"]),
        ("test", ("1", "0"), ["test", "train"]),
        ("isTest", ("FALSE", "TRUE"), ["train", "test"]),
        ("in-test", ("0", "0"), ["train", "train"]),
        ("train", ("1", "", "0"), ["train", "", "test"]),
    ],
)
def test_flags_are_of_the_part_that_their_column_is_called(
    tmp_path: Path, column: str, values: tuple[str, ...], expected: list[str]
) -> None:
    assert splits(proposed(tmp_path, column, *values)) == expected


@pytest.mark.parametrize("values", [("Train", "TEST"), ("training", "Testing")])
def test_words_are_train_and_test(tmp_path: Path, values: tuple[str, ...]) -> None:
    assert splits(proposed(tmp_path, "Split", *values)) == ["train", "test"]


def test_what_is_translated_is_told(tmp_path: Path) -> None:
    assert proposed(tmp_path, "is_test", "True", "False", "").translated == (
        "the split is that of the column is_test: False is train, True is test"
    )
    assert proposed(tmp_path, "split", "Train", "test").translated == ""


@pytest.mark.parametrize("column", ["split", "part"])
def test_flags_whose_column_does_not_say_of_what_they_are_are_asked_about_once(
    tmp_path: Path, column: str
) -> None:
    expected = (
        rf"list\.csv, row 1: {column} has '1' \(2 rows\) and '0' \(1 row\): which is train and "
        r"which is test\? Call the column train if that is what 1, true or yes means, or test"
    )
    with pytest.raises(DatasetError, match=expected):
        proposed(tmp_path, column, "1", "1", "0")


def test_a_column_that_is_named_as_the_split_says_by_its_own_name_of_what_its_flags_are(
    tmp_path: Path,
) -> None:
    assert splits(proposed(tmp_path, "test", "1", "0", split="test")) == ["test", "train"]
    with pytest.raises(DatasetError, match=r"weeks has '1' \(1 row\) and '0' \(1 row\): which is"):
        proposed(tmp_path, "weeks", "1", "0", split="weeks")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (("1", "train"), "'1' (1 row) and 'train' (1 row)"),
        (("1", "2", "3"), "'1' (1 row), '2' (1 row) and '3' (1 row)"),
        (("WAHR", "FALSCH"), "'WAHR' (1 row) and 'FALSCH' (1 row)"),
        (tuple("abcdefg"), "'e' (1 row) and 2 more"),
    ],
)
def test_what_is_no_part_is_named_in_one_sentence(
    tmp_path: Path, values: tuple[str, ...], shown: str
) -> None:
    with pytest.raises(DatasetError) as error:
        proposed(tmp_path, "split", *values)
    assert shown + ": expected train or test, or 0 and 1 in a column whose" in str(error.value)
    assert "problems" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "values"),
    [
        # With validation images beside, 0 is not the other part.
        ("train,val", ("1,0", "0,1", "0,0")),
        ("train,test", ("1,0", "0,1", "0,0")),
        ("validation", ("1", "0")),
        # A number of something, and a sentence.
        ("test", ("1", "7")),
        ("training", ("3 years", "none")),
        ("train_id", ("1", "0")),
    ],
)
def test_a_column_that_may_be_something_else_is_left_out(
    tmp_path: Path, header: str, values: tuple[str, ...]
) -> None:
    proposal = proposed(tmp_path, header, *values)
    assert proposal.left_out == tuple(header.split(","))
    assert set(splits(proposal)) == {""}


def test_a_split_in_words_goes_before_flags(tmp_path: Path) -> None:
    proposal = proposed(tmp_path, "train,split", "1,test", "0,train")
    assert splits(proposal) == ["test", "train"]
    assert proposal.left_out == ("train",)


@given(st.lists(st.sampled_from(["1", "0", "TRUE", "no", ""]), min_size=1))
def test_a_test_flag_means_the_contrary_of_a_train_flag(values: list[str]) -> None:
    train, test = parts("train", values), parts("test", values)
    assert train.keys() == test.keys() == set(values) - {""}
    assert all({train[value], test[value]} == {"train", "test"} for value in train)
