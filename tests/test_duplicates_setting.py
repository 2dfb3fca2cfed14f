"""What a protocol's `duplicates` does with identical images, and what is left of it in the run."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hospitals import WriteProtocol

from sonobench.datasets import DatasetError
from sonobench.engine import LocalEngine, Store
from sonobench.preparation import Data, decode_and_divide, find_cohorts, hash_files
from sonobench.protocol import load_protocol


@pytest.fixture
def with_copy(hospitals: Path) -> Path:
    """A training patient's image a second time, under a test patient of the same class."""
    home = hospitals / "home"
    frame = pd.read_csv(home / "manifest.csv", dtype=str)
    # Patients have one image a class, in one order; every third patient is tested.
    shutil.copy(home / frame.loc[0, "path"], home / frame.loc[6, "path"])
    return hospitals


def divided(protocol: Path, root: Path, store: Path) -> Data:
    loaded = load_protocol(protocol)
    engine = LocalEngine(Store(store), 1)
    cohorts = find_cohorts(loaded, root, engine, Store(store))
    files, left_out = hash_files(cohorts, loaded.unreadable)
    return decode_and_divide(
        loaded, files, dict.fromkeys(files, ()), engine, Store(store), left_out
    )


def test_merged_subjects_are_tested_and_not_trained_on(
    write_protocol: WriteProtocol, with_copy: Path, tmp_path: Path
) -> None:
    data = divided(write_protocol(), with_copy, tmp_path / "store")
    home = data.audit["cohorts"]["home"]
    assert (home["images"], home["distinct_images"], home["subjects"]) == (30, 29, 9)
    assert home["excluded_images"] == 3
    assert json.dumps(data.audit)


def test_dropped_copies_are_counted(
    write_protocol: WriteProtocol, with_copy: Path, tmp_path: Path
) -> None:
    data = divided(write_protocol(duplicates="drop"), with_copy, tmp_path / "store")
    assert len(data.samples) == 41
    assert [f["count"] for f in data.audit["findings"] if f["kind"] == "dropped"] == [1]


def test_stop_names_both_rows(
    write_protocol: WriteProtocol, with_copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=r"\(row 2\) = .*\(row 8\)|\(row 8\) = .*\(row 2\)"):
        divided(write_protocol(duplicates="stop"), with_copy, tmp_path / "store")
