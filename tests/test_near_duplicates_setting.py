"""What a protocol's `subjects.join_near_duplicates` does, and where a run and an audit tell it."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hospitals import WriteProtocol, run_tiny
from PIL import Image, ImageOps
from rich.console import Console
from typer.testing import CliRunner

import sonobench
from sonobench.cli.main import app
from sonobench.data_audit import audit_protocol
from sonobench.engine import Store
from sonobench.protocol import load_protocol, protocol_hash
from sonobench.report import summary

JOIN = {"join_near_duplicates": True}
JOINED = [["home/p000", "home/p002"], ["home/p003", "home/p004"]]
SETTING = "subjects.join_near_duplicates"


@pytest.fixture
def alike(hospitals: Path) -> Path:
    """p002, who is tested, has a mirrored image of p000's; p004 one of p003's in another size."""
    folder = hospitals / "home"
    path = pd.read_csv(folder / "manifest.csv")["path"]
    ImageOps.mirror(Image.open(folder / path[0])).save(folder / path[6])
    Image.open(folder / path[10]).resize((96, 80)).save(folder / path[13])
    return hospitals


def words(run: sonobench.Run) -> str:
    """What the terminal says of a run, on one line."""
    with (wide := Console(width=500)).capture() as said:
        wide.print(summary(run.folder, run.evaluation))
    return " ".join(said.get().split())


def json_of(run: sonobench.Run, name: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((run.folder / name).read_text())
    return content


def test_joined_patients_are_one_in_splits_and_in_intervals_and_are_told_everywhere(
    write_protocol: WriteProtocol, alike: Path, tmp_path: Path
) -> None:
    run = run_tiny(write_protocol(subjects=JOIN), tmp_path / "run")
    samples = pd.read_parquet(run.folder / "samples.parquet")
    splits = pd.read_parquet(run.folder / "splits.parquet").merge(samples, on="image_id")
    roles = splits.groupby(["subject_id", "patient_id"])["role"].agg(set)
    # p000 is published as train; the subject is tested.
    assert roles["home/p000"].to_dict() == {"home/p000": {"excluded"}, "home/p002": {"test"}}
    assert set(roles["home/p003"].index) == {"home/p003", "home/p004"}
    by_fold = splits[splits["subject_id"] == "home/p003"].groupby("fold")["role"].nunique()
    assert (by_fold == 1).all()
    # p002, p005 and p008 are tested, and p002 is joined with nobody of them.
    in_domain = run.results.query("evaluation == 'in_domain' and subgroup == 'all'")
    assert in_domain["n_patients"].unique().tolist() == [3]

    audit = json_of(run, "audit.json")
    assert audit["near_duplicates"]["joined_subjects"] == JOINED  # type: ignore[index]
    assert json_of(run, "manifest.json")["joined_subjects"] == JOINED
    told = (
        "home: 4 patient ids are joined into 2 subjects, as they share nearly identical images "
        f"({SETTING}): home/p000 = home/p002; home/p003 = home/p004"
    )
    assert told in words(run)
    page = (run.folder / "report.html").read_text()
    assert told in page
    assert "<li>home/p003 = home/p004</li>" in page
    assert "home/p000 = home/p002" in (run.folder / "log.txt").read_text()


def test_without_the_setting_a_run_says_which_one_would_join_them(
    write_protocol: WriteProtocol, alike: Path, tmp_path: Path
) -> None:
    run = run_tiny(write_protocol(), tmp_path / "run")
    told = "home: 2 pairs of nearly identical images of different patients; 1 are mirror images; 1"
    assert told in words(run)
    assert f"with {SETTING} set to true their patients count as one" in words(run)
    assert json_of(run, "manifest.json")["joined_subjects"] == []
    samples = pd.read_parquet(run.folder / "samples.parquet")
    assert (samples["subject_id"] == samples["patient_id"]).all()


def test_where_nothing_is_alike_nothing_is_said_and_nothing_differs_but_the_hash(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    one = run_tiny(write_protocol(), tmp_path / "one")
    two = run_tiny(write_protocol(subjects=JOIN), tmp_path / "two")
    assert SETTING not in words(one) + words(two)
    results = [(run.folder / "results.csv").read_bytes() for run in (one, two)]
    assert results[0] == results[1]
    hashes = [protocol_hash(load_protocol(run.folder / "protocol.yaml")) for run in (one, two)]
    assert hashes[0] != hashes[1]


def test_a_source_patient_who_is_nearly_seen_abroad_is_not_trained_on(
    write_protocol: WriteProtocol, hospitals: Path, tmp_path: Path
) -> None:
    home, abroad = (
        hospitals / name / pd.read_csv(hospitals / name / "manifest.csv")["path"][0]
        for name in ("home", "abroad")
    )
    Image.open(home).resize((96, 80)).save(abroad)
    store = Store(tmp_path / "store")
    audit = audit_protocol(load_protocol(write_protocol(subjects=JOIN)), hospitals, store)
    assert audit["near_duplicates"]["joined_subjects"] == [["abroad/p000", "home/p000"]]
    assert audit["cohorts"]["home"]["excluded_images"] == 3
    (found,) = [f for f in audit["findings"] if f["kind"] == "near_duplicates"]
    assert "in development" not in found["message"]
    assert "Their patients are joined" in found["message"]


@pytest.mark.parametrize("join", [False, True])
def test_the_audit_alone_does_what_the_run_would_do(
    write_protocol: WriteProtocol,
    alike: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    join: bool,
) -> None:
    monkeypatch.setattr("sonobench.cli.data._console", Console(width=500))
    protocol = write_protocol(subjects={"join_near_duplicates": join})
    command = ["data", "audit", str(protocol), "--out", str(tmp_path / "a")]
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    assert ("home/p003 = home/p004" in made.output) == join
    assert (f"with {SETTING} set to true" in made.output) != join
    alone = json.loads((tmp_path / "a" / "audit.json").read_text())
    run = run_tiny(protocol, tmp_path / "run")
    assert {"pseudonymised": False, **alone} == json_of(run, "audit.json")


def test_a_dry_run_says_whom_it_joins_and_before_images_are_decoded_that_it_is_not_known(
    write_protocol: WriteProtocol, alike: Path, tmp_path: Path
) -> None:
    command = ["run", str(write_protocol(subjects=JOIN)), "--out", str(tmp_path / "run")]
    made = CliRunner().invoke(app, [*command, "--dry-run"])
    assert made.exit_code == 0, made.output
    assert (
        f"{SETTING}: whom it joins, and so the folds, is known once the images are" in made.output
    )
    CliRunner().invoke(app, [*command, "--workers", "1"])
    made = CliRunner().invoke(app, [*command, "--dry-run"])
    assert "home: 4 patient ids are joined into 2 subjects" in made.output
    assert "is known once" not in made.output


def test_pseudonyms_are_told_in_place_of_patients(
    write_protocol: WriteProtocol, alike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOBENCH_PSEUDONYM_KEY", str(tmp_path / "key"))
    run = run_tiny(write_protocol(subjects=JOIN), tmp_path / "run", pseudonymise=True)
    joined = json_of(run, "manifest.json")["joined_subjects"]
    assert [len(ids) for ids in joined] == [2, 2]  # type: ignore[attr-defined]
    assert "p000" not in json.dumps(joined) + words(run)
