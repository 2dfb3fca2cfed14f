import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from sonobench.tables import (
    PREDICTIONS,
    SPLITS,
    TableError,
    check,
    read_classes,
    read_table,
    replace_file,
    write_csv,
    write_parquet,
)


def splits() -> pd.DataFrame:
    return pd.DataFrame({"image_id": ["a", "b"], "fold": [0, 0], "role": ["train", "test"]})


def predictions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "encoder": ["e"] * 2,
            "adaptation": ["linear_probe"] * 2,
            "dataset": ["d"] * 2,
            "role": ["test"] * 2,
            "fold": [0, 0],
            "seed": [0, 0],
            "image_id": ["a", "b"],
            "subject_id": ["s", "t"],
            "label": ["x", "y"],
            "logits": [[0.25, -1.0], [1.5, 2.0]],
        }
    )


def test_a_checked_table_has_its_columns_in_the_declared_order() -> None:
    shuffled = splits()[["role", "image_id", "fold"]]
    assert list(check(shuffled, SPLITS)) == ["image_id", "fold", "role"]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(TableError, match=r"splits: expected .* missing: role"):
        check(splits().drop(columns="role"), SPLITS)


def test_an_unknown_column_of_a_closed_table_is_named() -> None:
    with pytest.raises(TableError, match="unknown columns surprise"):
        check(splits().assign(surprise=1), SPLITS)


def test_an_empty_required_value_is_named_with_its_row() -> None:
    with pytest.raises(TableError, match="row 1 has no role"):
        check(splits().assign(role=["train", None]), SPLITS)


def test_a_value_of_the_wrong_type_is_named_with_its_row() -> None:
    with pytest.raises(TableError, match="row 0, role: expected text, found 3"):
        check(splits().assign(role=[3, "test"]), SPLITS)


def test_a_repeated_key_is_named_with_its_row() -> None:
    with pytest.raises(TableError, match="row 1 repeats image_id=a, fold=0"):
        check(splits().assign(image_id="a"), SPLITS)


def test_predictions_come_back_from_parquet_with_the_order_of_their_classes(
    tmp_path: Path,
) -> None:
    file = tmp_path / "p.parquet"
    write_parquet(predictions(), file, PREDICTIONS, ("x", "y"))
    back = read_table(file, PREDICTIONS)
    assert [list(row) for row in back["logits"]] == [[0.25, -1.0], [1.5, 2.0]]
    assert read_classes(file) == ("x", "y")


def test_predictions_without_the_order_of_their_classes_are_refused(tmp_path: Path) -> None:
    write_parquet(splits(), tmp_path / "s.parquet", SPLITS)
    with pytest.raises(TableError, match="no 'classes'"):
        read_classes(tmp_path / "s.parquet")


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.parquet"
    file.write_bytes(b"not parquet")
    with pytest.raises(TableError, match=r"broken\.parquet: cannot be read as Parquet"):
        read_table(file, SPLITS)


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_csv(splits(), tmp_path / f"{name}.csv", SPLITS)
        write_parquet(splits(), tmp_path / f"{name}.parquet", SPLITS)
    for kind in ("csv", "parquet"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_replacing_a_file_leaves_the_old_one_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.csv"
    replace_file(file, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_a_file_is_written_for_whom_the_umask_says(tmp_path: Path, mask: int) -> None:
    file = tmp_path / "folder" / "file"
    for content in (b"new", b"in place of the old"):
        with umask(mask):
            replace_file(file, content)
        assert file.read_bytes() == content
        assert mode(file) == 0o666 & ~mask
    assert mode(file.parent) == 0o777 & ~mask


def test_folders_below_one_of_a_group_are_of_the_group(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    with umask(0o002):
        replace_file(tmp_path / "a" / "b" / "file", b"")
    assert [mode(tmp_path / name) for name in ("a", "a/b")] == [0o2775, 0o2775]


def test_nothing_is_left_aside_of_a_file_that_cannot_be_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        replace_file(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
