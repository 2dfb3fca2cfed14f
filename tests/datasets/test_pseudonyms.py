"""Pseudonyms: nothing of a patient is in what a run leaves."""

import html
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hospitals import WriteProtocol
from standins import spanish_files

import sonobench
from sonobench.datasets import DatasetError, load_cohort, pseudonym_key, pseudonymised
from sonobench.encoders import EncoderError
from sonobench.protocol import Dataset

# In every name, operator and id of the hospital, and by chance in nothing else.
MARK = "QuxPatient"


@pytest.fixture(autouse=True)
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "secret" / "pseudonym.key"
    monkeypatch.setenv("SONOBENCH_PSEUDONYM_KEY", str(file))
    return file


@pytest.fixture
def named(hospitals: Path) -> Path:
    """Home with telling ids, also in file names, and a telling column."""
    file = hospitals / "home" / "manifest.csv"
    frame = pd.read_csv(file, dtype=str)
    for place, path in enumerate(frame["path"]):
        frame.loc[place, "path"] = f"images/{MARK}{frame['patient_id'][place]}_{place}.png"
        (hospitals / "home" / path).rename(hospitals / "home" / frame["path"][place])
    frame["patient_id"] = MARK + frame["patient_id"]
    frame["operator"] = f"{MARK}Jones"
    frame.loc[:5, "operator"] = ""
    frame["surname"] = f"{MARK}Smith"
    frame.to_csv(file, index=False)
    return hospitals


def leaks(folder: Path) -> list[str]:
    return [
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if MARK.encode() in str(file.relative_to(folder)).encode()
        or (file.is_file() and MARK.encode() in file.read_bytes())
    ]


def test_nothing_that_a_run_writes_has_an_original_id(
    write_protocol: WriteProtocol, named: Path, tmp_path: Path
) -> None:
    broken = sorted((named / "home" / "images").iterdir())[0]
    broken.write_bytes(b"no image")
    sorted((named / "home" / "images").iterdir())[1].unlink()
    protocol = write_protocol(unreadable="leave_out", encoders=["pixel_stats"])
    out = tmp_path / "run"
    sonobench.run(protocol, out, workers=1, pseudonymise=True)
    assert leaks(out) == []
    # Nor is told where the images lay, or what their table is called.
    for name in ("log.txt", "audit.json", "report.html"):
        text = html.unescape((out / name).read_text())
        assert str(named) not in text, name
        assert "'home', row 2: " in text, name
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["command"], manifest["data_root"]) == (None, None)
    assert str(named) not in (out / "manifest.json").read_text()
    # Some files are compressed: the tables are looked at as tables, too.
    tables = [pd.read_parquet(file) for file in out.rglob("*.parquet")]
    assert tables
    assert not any(MARK in table.to_csv() for table in tables)
    # And such a run is not gone on with under the patients' own ids, also if it was interrupted.
    (out / "manifest.json").unlink()
    with pytest.raises(DatasetError, match="go on with --pseudonymise"):
        sonobench.run(protocol, out, workers=1)


def test_an_audit_under_original_ids_does_not_stay_in_a_run_with_pseudonyms(
    write_protocol: WriteProtocol, named: Path, tmp_path: Path
) -> None:
    protocol, out = write_protocol(encoders=["no such encoder"]), tmp_path / "run"
    out.mkdir()
    (out / "audit.json").write_text(f'{{"findings": ["{MARK}"]}}')
    with pytest.raises(EncoderError):
        sonobench.run(protocol, out, workers=1, pseudonymise=True)
    assert leaks(out) == []
    (out / "audit.json").unlink(missing_ok=True)
    # Nor does the log of a run that was stopped, or why its jobs failed.
    (out / "log.txt").write_text(MARK)
    (out / "store" / "failures").mkdir(parents=True, exist_ok=True)
    (out / "store" / "failures" / "index~0").write_text(MARK)
    with pytest.raises(EncoderError):
        sonobench.run(protocol, out, workers=1, pseudonymise=True)
    assert leaks(out) == []
    # A whole run under original ids is left as it is.
    (out / "audit.json").write_text("{}")
    (out / "samples.parquet").touch()
    with pytest.raises(DatasetError, match="holds a run under the patients' own ids"):
        sonobench.run(protocol, out, workers=1, pseudonymise=True)


def test_what_looks_for_ids_finds_them_where_they_are(named: Path) -> None:
    assert "home/manifest.csv" in leaks(named)
    assert len(leaks(named)) == 31  # the manifest and its images


def test_a_row_of_the_manifest_can_still_be_found(named: Path) -> None:
    cohort = load_cohort(Dataset(loader="manifest", name="home", path="home/manifest.csv"), named)
    hidden = pseudonymised(cohort, bytes(32))
    assert hidden.samples["row"].tolist() == cohort.samples["row"].tolist()
    assert hidden.files() == cohort.files()
    groups = [s.groupby("patient_id").groups.values() for s in (hidden.samples, cohort.samples)]
    assert sorted(map(list, groups[0])) == sorted(map(list, groups[1]))
    assert "surname" not in hidden.samples
    groups = [s.groupby("operator").groups.values() for s in (hidden.samples, cohort.samples)]
    assert sorted(map(list, groups[0])) == sorted(map(list, groups[1]))
    assert hidden.samples["operator"].isna().sum() == 6


def test_a_published_datasets_brain_planes_stay_a_subgroup(tmp_path: Path) -> None:
    for name, data in spanish_files(1).items():
        file = tmp_path / "FETAL_PLANES_DB" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.replace(b"Not A Brain", b"Trans-thalamic"))
    cohort = load_cohort(Dataset(loader="fetal_planes_db", partial=True), tmp_path)
    hidden = pseudonymised(cohort, bytes(32)).samples
    assert set(hidden["brain_plane"]) == {"Trans-thalamic"}
    assert "Op. 1" not in set(hidden["operator"])


def test_the_key_is_made_once_and_for_its_owner_only(key_file: Path) -> None:
    key = pseudonym_key()
    assert pseudonym_key() == key
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key_file.unlink()
    assert pseudonym_key() != key


def test_processes_that_make_the_key_at_once_have_the_same(key_file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: pseudonym_key(), range(40)))
    assert len(keys) == 1
    # Nothing else is left beside it.
    assert list(key_file.parent.iterdir()) == [key_file]


def test_a_key_of_another_process_is_not_written_over(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_was_faster(aside: str, file: Path) -> None:
        file.write_text("ab" * 32)
        raise FileExistsError

    monkeypatch.setattr("os.link", other_was_faster)
    assert pseudonym_key() == bytes.fromhex("ab" * 32)


def test_a_file_that_holds_no_key_is_refused(key_file: Path) -> None:
    key_file.parent.mkdir()
    key_file.write_text("short")
    with pytest.raises(DatasetError, match=r"no key for pseudonyms|expected a key of 64"):
        pseudonym_key()


def test_the_same_key_gives_the_same_pseudonyms_and_another_key_others(named: Path) -> None:
    cohort = load_cohort(Dataset(loader="manifest", name="home", path="home/manifest.csv"), named)
    one, again = (pseudonymised(cohort, bytes(32)).samples for _ in range(2))
    other = pseudonymised(cohort, bytes(31) + b"x").samples
    pd.testing.assert_frame_equal(one, again)
    for column in ("patient_id", "image_id", "path"):
        assert not set(one[column]) & set(other[column])


def test_embeddings_by_image_id_do_not_go_with_pseudonyms(
    write_protocol: WriteProtocol, named: Path, tmp_path: Path
) -> None:
    (named / "mine.parquet").touch()
    protocol = write_protocol(encoders=[{"embeddings": "mine.parquet", "label": "mine"}])
    with pytest.raises(DatasetError, match=r"mine: embeddings .* found by image_id"):
        sonobench.run(protocol, tmp_path / "run", workers=1, pseudonymise=True)


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.PNG", ".PNG"), ("a.dcm", ".dcm"), (f"1.{MARK}", ""), ("1.2.840", "")]
)
def test_only_the_suffix_of_an_image_is_left_of_its_name(
    name: str, suffix: str, named: Path
) -> None:
    cohort = load_cohort(Dataset(loader="manifest", name="home", path="home/manifest.csv"), named)
    (named / "home" / name).touch()
    other = replace(cohort, samples=cohort.samples[:1].assign(path=name, image_id=f"home/{name}"))
    hidden = pseudonymised(other, bytes(32)).samples["path"].iloc[0]
    assert (hidden[16:], len(hidden)) == (suffix, 16 + len(suffix))
