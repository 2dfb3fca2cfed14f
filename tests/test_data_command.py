"""`sonobench data`, as a user calls it, with stand-ins of the archives served from loopback."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from standins import Server, african_files, facts, served, spanish_files, tarred, zipped
from typer.testing import CliRunner

from sonobench.cli import app
from sonobench.datasets import ARCHIVES, Archive, african_planes, fetal_planes_db
from sonobench.protocol import FETAL_PLANES

SPANISH, AFRICAN = spanish_files(), african_files()


def call(*arguments: object, answers: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=answers)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Server]]:
    """Both archives as if these small ones were the published ones."""
    servers = {
        "fetal_planes_db": Server("FETAL_PLANES_ZENODO.zip", zipped(SPANISH)),
        "african_planes": Server("Zenodo_dataset.tar.xz", tarred(AFRICAN)),
    }
    with served(servers["fetal_planes_db"]) as spain, served(servers["african_planes"]) as africa:
        made: dict[str, Archive] = {
            "fetal_planes_db": facts("fetal_planes_db", SPANISH, 15, f"{spain.address}/record"),
            "african_planes": facts("african_planes", AFRICAN, 8, f"{africa.address}/record"),
        }
        for name, module in (
            ("fetal_planes_db", fetal_planes_db),
            ("african_planes", african_planes),
        ):
            monkeypatch.setitem(ARCHIVES, name, made[name])
            monkeypatch.setattr(module, "ARCHIVE", made[name])
        yield servers


PROTOCOL = {
    "name": "fetched",
    "source": {"loader": "fetal_planes_db"},
    "external": [{"loader": "african_planes"}],
    "classes": list(FETAL_PLANES),
    "split": {"folds": 2},
    "encoders": ["pixel_stats"],
    "numerics": {"backend": "cpu"},
    "evaluation": {"bootstrap_draws": 100},
}


def test_fetch_check_unpack_audit_run(published: dict[str, Server], tmp_path: Path) -> None:
    root = ("--data-root", tmp_path / "data")
    published["fetal_planes_db"].breaks_after = 60_000
    for name in ("fetal_planes_db", "african_planes"):
        code, shown = call("data", "fetch", name, *root, "--yes")
        assert code == 0, shown
        assert "CC BY 4.0" in shown
    assert len(published["fetal_planes_db"].asked) > 1
    assert sorted(p.name for p in (tmp_path / "data").iterdir() if p.name[0] != ".") == [
        "FETAL_PLANES_DB",
        "Zenodo_dataset",
        "downloads",
    ]
    assert [p for p in (tmp_path / "data" / "downloads").iterdir() if p.suffix != ".lock"] == []

    code, shown = call("data", "list", *root)
    assert code == 0
    # 15 patients with an image of each of six classes; four of eight patients' planes.
    assert "90 of 15 patients" in shown
    assert "32 of 8 patients" in shown

    protocol = tmp_path / "protocol.yaml"
    protocol.write_text(yaml.safe_dump(PROTOCOL))
    out = ("--out", tmp_path / "run")
    code, shown = call("data", "audit", protocol, *out, *root)
    assert code == 0, shown
    assert "exact_duplicates" in shown
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert audit["known_counts"]["african_planes"] == {"published_images": 32, "here": 32}
    assert audit["cohorts"]["african_planes"]["duplicate_sets"] == 1

    code, shown = call("run", protocol, *out, *root, "--workers", 1)
    assert code == 0, shown
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_download_is_asked_for_and_can_be_declined(
    published: dict[str, Server], tmp_path: Path
) -> None:
    fetch = ("data", "fetch", "african_planes", "--data-root", tmp_path)
    code, shown = call(*fetch, answers="n\n")
    assert code == 1
    assert "Download" in shown
    assert published["african_planes"].asked == []


def test_nothing_is_left_of_a_damaged_download(
    published: dict[str, Server], tmp_path: Path
) -> None:
    published["african_planes"].published_md5 = "0" * 32
    code, shown = call("data", "fetch", "african_planes", "--data-root", tmp_path, "--yes")
    assert code == 2
    assert "damaged on its way" in shown
    assert not (tmp_path / "Zenodo_dataset").exists()


@pytest.mark.usefixtures("published")
def test_an_archive_that_was_brought_is_checked_and_unpacked(tmp_path: Path) -> None:
    brought = tmp_path / "Zenodo_dataset.tar.xz"
    brought.write_bytes(tarred(AFRICAN)[:-2000])
    arguments = ("data", "import", "african_planes", brought, "--data-root", tmp_path / "data")
    code, shown = call(*arguments, "--yes")
    assert code == 2
    assert "cannot be unpacked" in shown
    assert not (tmp_path / "data" / "Zenodo_dataset").exists()
    brought.write_bytes(tarred(AFRICAN))
    code, shown = call(*arguments, answers="y\n")
    assert code == 0, shown
    assert (tmp_path / "data" / "Zenodo_dataset" / "SOURCE.txt").is_file()
    assert brought.is_file()
    code, shown = call(*arguments, "--yes")
    assert code == 2
    assert "is there already" in shown


@pytest.mark.usefixtures("published")
def test_a_part_of_a_dataset_is_used_when_asked_for_and_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    brought = tmp_path / "a.zip"
    brought.write_bytes(zipped(SPANISH))
    call("data", "import", "fetal_planes_db", brought, "--data-root", data, "--yes")
    for name in sorted((data / "FETAL_PLANES_DB" / "Images").iterdir())[-6:]:
        name.unlink()
    _, shown = call("data", "list", "--data-root", data)
    assert "6 images are missing" in shown
    protocol = tmp_path / "protocol.yaml"
    arguments = ("data", "audit", protocol, "--out", tmp_path / "run", "--data-root", data)
    partial = {**PROTOCOL, "external": [], "source": {"loader": "fetal_planes_db", "partial": True}}
    protocol.write_text(yaml.safe_dump(partial))
    code, shown = call(*arguments)
    assert code == 0, shown
    assert "84 of 90 published images are here" in shown


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    code, shown = call("data", "fetch", "spain", "--data-root", tmp_path)
    assert code == 2
    assert "no dataset 'spain' to fetch; there are fetal_planes_db, african_planes" in shown


# ── own images ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for patient in range(1, 5):
        for label in ("brain", "femur"):
            file = tmp_path / "scans" / label / f"case{patient}_{label}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(file)
    return tmp_path / "scans"


def test_a_manifest_is_proposed_confirmed_and_checked(scans: Path) -> None:
    code, shown = call("data", "init", scans, answers="y\n")
    assert code == 0, shown
    assert "8 images, 4 patients, 2 classes: brain, femur" in shown
    code, shown = call("data", "check", scans / "manifest.csv")
    assert code == 0, shown
    assert "8 images of 4 patients" in shown
    assert "nothing is wrong with it" in shown


def test_one_image_under_two_patients_is_a_doubt(scans: Path) -> None:
    (scans / "femur" / "case2_femur.png").write_bytes(
        (scans / "femur" / "case1_femur.png").read_bytes()
    )
    call("data", "init", scans, "--patient-pattern", "case([0-9]+)")
    code, shown = call("data", "check", scans / "manifest.csv")
    assert code == 0
    assert (
        "one image under two patients: femur/case1_femur.png (row 6, patient 1) = "
        "femur/case2_femur.png (row 7, patient 2)"
    ) in shown
    assert "nothing is wrong with it, but look at 1 doubts" in shown


def test_another_pattern_is_asked_for_until_it_finds_the_patients(scans: Path) -> None:
    code, shown = call("data", "init", scans, answers="n\nq(.)\n(case.)\ny\n")
    assert code == 0, shown
    assert "finds no patient in 8 of 8 paths" in shown
    assert ",brain,case1\n" in (scans / "manifest.csv").read_text()


def test_a_script_gives_the_pattern(scans: Path) -> None:
    code, shown = call("data", "init", scans, "--patient-pattern", "case([0-9]+)")
    assert code == 0, shown
    assert "brain/case1_brain.png,brain,1\n" in (scans / "manifest.csv").read_text()


def test_a_manifest_that_is_there_is_kept_and_nothing_is_asked(scans: Path) -> None:
    (scans / "manifest.csv").write_text("mine")
    code, shown = call("data", "init", scans, answers="y\n")
    assert code == 2
    assert "is there already; choose another name (--out)" in shown
    assert "Which part of a path is the patient?" not in shown
    assert (scans / "manifest.csv").read_text() == "mine"


def test_a_manifest_comes_of_a_table(scans: Path) -> None:
    lines = [f"{p.relative_to(scans)};{p.parent.name};7" for p in sorted(scans.rglob("*.png"))]
    (scans / "list.csv").write_text("\n".join(["file;plane;pat", *lines]))
    code, shown = call("data", "init", scans / "list.csv", "--column", "patient_id=pat")
    assert code == 0, shown
    assert (scans / "manifest.csv").read_text().startswith("path,label,patient_id\nbrain/case1_")


def test_problems_are_listed_with_rows_and_status_2(scans: Path) -> None:
    call("data", "init", scans, "--patient-pattern", "case([0-9]+)")
    (scans / "brain" / "case1_brain.png").write_bytes(b"broken")
    (scans / "femur" / "case2_femur.png").unlink()
    code, shown = call("data", "check", scans / "manifest.csv")
    assert code == 2
    assert "row 2: brain/case1_brain.png: not an image" in shown
    assert "row 7: femur/case2_femur.png: no such file" in shown
    assert "2 problems in" in shown


@pytest.fixture
def own(scans: Path, tmp_path: Path) -> Path:
    """A protocol of the scans, which have their manifest."""
    call("data", "init", scans, "--patient-pattern", "case([0-9]+)")
    protocol = tmp_path / "protocol.yaml"
    source = {"loader": "manifest", "name": "own", "path": "scans/manifest.csv"}
    sections = {"classes": ["brain", "femur"], "external": [], "source": source}
    split = {"scheme": "cross_validation", "folds": 2}
    protocol.write_text(yaml.safe_dump({**PROTOCOL, **sections, "split": split}))
    return protocol


def test_an_audit_with_an_error_gives_status_1(own: Path, scans: Path, tmp_path: Path) -> None:
    (scans / "femur" / "case2_femur.png").write_bytes(
        (scans / "brain" / "case2_brain.png").read_bytes()
    )
    code, shown = call("data", "audit", own, "--out", tmp_path / "run")
    assert code == 1
    assert "label_conflict" in shown


@pytest.mark.parametrize(("unreadable", "status"), [("stop", 1), ("leave_out", 0)])
def test_an_unreadable_image_is_an_error_where_a_run_stops_at_it(
    own: Path, scans: Path, tmp_path: Path, unreadable: str, status: int
) -> None:
    (scans / "femur" / "case2_femur.png").write_bytes(b"broken")
    own.write_text(f"{own.read_text()}\nunreadable: {unreadable}\n")
    code, _ = call("data", "audit", own, "--out", tmp_path / "run")
    assert code == status


def test_an_audit_does_not_put_names_back_into_a_run_with_pseudonyms(
    own: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "audit.json").write_text('{"pseudonymised": true}')
    code, shown = call("data", "audit", own, "--out", tmp_path / "run")
    assert code == 2
    assert "holds a run with pseudonyms" in shown
    assert (tmp_path / "run" / "audit.json").read_text() == '{"pseudonymised": true}'


def test_an_audit_does_not_write_over_that_of_another_protocol(own: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    other = {**yaml.safe_load(own.read_text()), "name": "another"}
    (tmp_path / "run" / "protocol.yaml").write_text(yaml.safe_dump(other))
    code, shown = call("data", "audit", own, "--out", tmp_path / "run")
    assert code == 2
    assert "holds a run of protocol 'another'" in shown
    assert not (tmp_path / "run" / "audit.json").exists()


@pytest.mark.parametrize("label", ["brain [axial]", "[/x]"])
def test_brackets_in_names_are_shown_as_they_are(label: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,label,patient_id"]
    for patient in range(4):
        for position, name in enumerate((label, "femur")):
            file = tmp_path / f"{patient}_{position}.png"
            Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(file)
            # One image has both labels, which the audit tells by their names.
            lines.append(f"{file.name},{name},{patient}")
    copy = (tmp_path / "0_0.png").read_bytes()
    (tmp_path / "0_1.png").write_bytes(copy)
    (tmp_path / "list.csv").write_text("\n".join(lines))
    code, shown = call("data", "init", tmp_path / "list.csv")
    assert code == 0, shown
    assert label in shown
    protocol = tmp_path / "protocol.yaml"
    source = {"loader": "manifest", "name": "own", "path": "manifest.csv"}
    sections = {"classes": [label, "femur"], "external": [], "source": source}
    split = {"scheme": "cross_validation", "folds": 2}
    protocol.write_text(yaml.safe_dump({**PROTOCOL, **sections, "split": split}))
    code, shown = call("data", "audit", protocol, "--out", tmp_path / "run")
    assert code == 1
    assert label[label.index("[") :] in shown


def test_files_that_are_passed_over_are_counted(scans: Path) -> None:
    (scans / "brain" / "notes.txt").write_text("no image")
    _, shown = call("data", "init", scans, answers="y\n")
    assert "passed over 1 files that are no images: brain/notes.txt" in shown


def test_columns_of_a_table_that_are_left_out_are_told(scans: Path) -> None:
    lines = [f"{p.relative_to(scans)},{p.parent.name},7,1" for p in sorted(scans.rglob("*.png"))]
    (scans / "list.csv").write_text("\n".join(["file,plane,patient,weeks", *lines]))
    _, shown = call("data", "init", scans / "list.csv")
    assert (
        "columns of the table that are left out: weeks; a manifest can have site, device," in shown
    )
    assert "--column split=NAME" in shown


def test_a_column_of_0_and_1_becomes_the_split_and_is_told(scans: Path) -> None:
    lines = [
        f"{p.relative_to(scans)},{p.parent.name},{p.name[:5]},{int('case4' not in p.name)}"
        for p in sorted(scans.rglob("*.png"))
    ]
    (scans / "list.csv").write_text("\n".join(["file,plane,patient,Train ", *lines]))
    code, shown = call("data", "init", scans / "list.csv")
    assert code == 0, shown
    assert "the split is that of the column Train: 0 is test, 1 is train" in shown
    rows = (scans / "manifest.csv").read_text().splitlines()
    assert rows[1] == "brain/case1_brain.png,brain,case1,train"
    assert rows[4] == "brain/case4_brain.png,brain,case4,test"
    assert call("data", "check", scans / "manifest.csv")[0] == 0
