"""What a protocol's `duplicates` does with identical images, and what is left of it in the run."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hospitals import WriteProtocol

from sonobench.data_audit import audit_protocol
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


def test_dropped_copies_are_counted_and_are_not_missing(
    write_protocol: WriteProtocol, with_copy: Path, tmp_path: Path
) -> None:
    data = divided(write_protocol(duplicates="drop"), with_copy, tmp_path / "store")
    assert len(data.samples) == 41
    kinds = {f["kind"]: f for f in data.audit["findings"]}
    assert (kinds["dropped"]["count"], kinds["dropped"]["cohort"]) == (1, "home")
    assert "partial_copy" not in kinds
    assert data.audit["known_counts"]["home"]["here"] == 30
    assert {name: len(place) for name, place in data.positions.items()} == {
        "home": 29,
        "abroad": 12,
    }


def test_dropping_keeps_the_test_image_and_trains_on_nobody_who_is_tested(
    write_protocol: WriteProtocol, with_copy: Path, tmp_path: Path
) -> None:
    data = divided(write_protocol(duplicates="drop"), with_copy, tmp_path / "store")
    joined = data.splits.merge(data.samples, on="image_id")
    roles = joined[joined["fold"] == 0].groupby("patient_id")["role"]
    # Patient 0 is published as train and shares an image with patient 2, who is tested.
    assert sorted(roles.get_group("home/p000")) == ["excluded"] * 2
    assert sorted(roles.get_group("home/p002")) == ["test"] * 3


def test_an_image_that_is_also_abroad_is_dropped_from_development(
    write_protocol: WriteProtocol, hospitals: Path, tmp_path: Path
) -> None:
    home, abroad = (pd.read_csv(hospitals / n / "manifest.csv") for n in ("home", "abroad"))
    shutil.copy(hospitals / "home" / home["path"][0], hospitals / "abroad" / abroad["path"][0])
    data = divided(write_protocol(duplicates="drop"), hospitals, tmp_path / "store")
    assert data.samples["dataset"].value_counts().to_dict() == {"home": 29, "abroad": 12}
    # And a tested image stays at home.
    shutil.copy(hospitals / "home" / home["path"][6], hospitals / "abroad" / abroad["path"][0])
    data = divided(write_protocol(duplicates="drop"), hospitals, tmp_path / "store")
    assert data.samples["dataset"].value_counts().to_dict() == {"home": 30, "abroad": 11}


def test_stop_names_both_rows(
    write_protocol: WriteProtocol, with_copy: Path, tmp_path: Path
) -> None:
    protocol = write_protocol(duplicates="stop")
    with pytest.raises(DatasetError, match=r"\(row 2\) = .*\(row 8\)|\(row 8\) = .*\(row 2\)"):
        divided(protocol, with_copy, tmp_path / "store")


@pytest.mark.parametrize("duplicates", ["merge_subjects", "drop"])
def test_one_image_under_two_labels_is_an_error_of_the_audit_whatever_is_dropped(
    write_protocol: WriteProtocol, hospitals: Path, tmp_path: Path, duplicates: str
) -> None:
    paths = pd.read_csv(hospitals / "home" / "manifest.csv")["path"]
    # Rows 2 and 3: an abdomen and a brain of one patient.
    shutil.copy(hospitals / "home" / paths[0], hospitals / "home" / paths[1])
    protocol = write_protocol(duplicates=duplicates)
    with pytest.raises(DatasetError, match="1 images carry two labels"):
        divided(protocol, hospitals, tmp_path / "store")
    alone = audit_protocol(load_protocol(protocol), hospitals, Store(tmp_path / "store"))
    errors = [f["kind"] for f in alone["findings"] if f["severity"] == "error"]
    assert errors == ["label_conflict"]


@pytest.mark.parametrize("duplicates", ["merge_subjects", "drop", "stop"])
def test_the_audit_alone_does_what_the_run_would_do(
    write_protocol: WriteProtocol, with_copy: Path, tmp_path: Path, duplicates: str
) -> None:
    protocol = write_protocol(duplicates=duplicates)
    alone = audit_protocol(load_protocol(protocol), with_copy, Store(tmp_path / "store"))
    errors = [f["message"] for f in alone["findings"] if f["severity"] == "error"]
    if duplicates == "stop":
        assert [error.split(";")[0] for error in errors] == ["1 images occur more than once"]
    else:
        assert alone == divided(protocol, with_copy, tmp_path / "store").audit
