"""A whole benchmark on tiny real hospitals: what a run leaves, resumes, refuses and survives."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hospitals import CLASSES, WriteProtocol, edit, macro_f1, refused, run_tiny, write_hospital

from sonobench.benchmark import report
from sonobench.datasets import DatasetError
from sonobench.encoders import EncoderError
from sonobench.engine import StoreError
from sonobench.jobs import plan_curve
from sonobench.protocol import ProtocolError, load_protocol, protocol_hash
from sonobench.report.numbers import number
from sonobench.report.scores import MAIN, Scores
from sonobench.tables import (
    PREDICTIONS,
    SAMPLES,
    SPLITS,
    TableError,
    read_classes,
    read_table,
)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a run that must not depend on when and where it was made."""
    files = [folder / "results.csv", folder / "comparisons.csv", folder / "samples.parquet"]
    files += [folder / "splits.parquet", folder / "audit.json"]
    files += sorted((folder / "predictions").iterdir())
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


# ── what a run leaves ────────────────────────────────────────────────────────────────────────────


def test_a_run_leaves_every_table_of_the_design(write_protocol: WriteProtocol, out: Path) -> None:
    run_tiny(write_protocol(), out)
    samples = read_table(out / "samples.parquet", SAMPLES)
    assert samples.groupby("dataset").size().to_dict() == {"home": 30, "abroad": 12}
    splits = read_table(out / "splits.parquet", SPLITS)
    assert splits.groupby("fold").size().tolist() == [42, 42]
    for name in ("pixel_stats__linear_probe", "none__majority_class"):
        predictions = read_table(out / "predictions" / f"{name}.parquet", PREDICTIONS)
        # Validation, test and external images, a fold: 14 or 15 patients' development images.
        assert set(predictions["role"]) == {"validation", "test", "external"}
        assert read_classes(out / "predictions" / f"{name}.parquet") == CLASSES
    for name in ("results.csv", "report.html", "audit.json", "manifest.json", "log.txt"):
        assert (out / name).stat().st_size > 0
    assert (out / "diagnostics" / "certificates" / "pixel_stats.json").is_file()
    assert len(list((out / "diagnostics" / "thumbnails").glob("*.webp"))) > 0


def test_the_resolved_protocol_carries_its_hash_and_runs_again(
    write_protocol: WriteProtocol, out: Path, tmp_path: Path, hospitals: Path
) -> None:
    run_tiny(write_protocol(), out)
    resolved = load_protocol(out / "protocol.yaml")
    assert f"# sha256: {protocol_hash(resolved)}" in (out / "protocol.yaml").read_text()
    run_tiny(out / "protocol.yaml", tmp_path / "again", data_root=hospitals)
    assert hashes(tmp_path / "again") == hashes(out)


def test_a_bright_bar_is_found_and_the_majority_class_is_not_enough(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run = run_tiny(write_protocol(), out)
    probed = macro_f1(run, encoder="pixel_stats", evaluation="in_domain")
    majority = macro_f1(run, adaptation="majority_class", evaluation="in_domain")
    assert probed > majority + 0.3
    # One of three equally frequent classes is right: precision 1/3, recall 1, F1 1/2, over three.
    assert majority == pytest.approx(0.5 / 3)


def test_an_open_label_space_is_never_easier_than_a_closed_one(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run = run_tiny(write_protocol(), out)
    where = {"encoder": "pixel_stats", "evaluation": "abroad", "metric": "accuracy"}
    assert macro_f1(run, **where) <= macro_f1(run, label_space="closed", **where)


def test_cross_validation_tests_every_home_image_once(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run_tiny(write_protocol(split={"scheme": "cross_validation", "folds": 3}), out)
    predictions = pd.read_parquet(out / "predictions" / "pixel_stats__linear_probe.parquet")
    tested = predictions.loc[predictions["role"] == "test", "image_id"]
    assert len(tested) == tested.nunique() == 30


def test_random_twins_run_once_a_seed(write_protocol: WriteProtocol, out: Path) -> None:
    run = run_tiny(write_protocol(encoders=["random:timm:test_vit"], seeds=[0, 1]), out)
    predictions = pd.read_parquet(
        out / "predictions" / "random_timm_test_vit__linear_probe.parquet"
    )
    assert set(predictions["seed"]) == {0, 1}
    twin = run.results[run.results["encoder"] == "random:timm:test_vit"]
    folds = twin[(twin["aggregate"] == "mean_of_folds") & (twin["subgroup"] == "all")]
    assert (folds.loc[folds["metric"] == "macro_f1", "seed_sd"] >= 0).all()


def test_one_encoder_under_two_labels_is_one_work_and_two_rows(
    write_protocol: WriteProtocol, out: Path
) -> None:
    twice = ["pixel_stats", {"name": "pixel_stats", "label": "again"}]
    run = run_tiny(write_protocol(encoders=twice), out)
    one, two = (
        macro_f1(run, encoder=label, evaluation="abroad") for label in ("pixel_stats", "again")
    )
    assert one == two
    assert len(list((out / "store" / "linear_probe").glob("*/*"))) == 1


def test_the_report_comes_from_the_folder_alone(
    write_protocol: WriteProtocol, out: Path, tmp_path: Path
) -> None:
    run_tiny(write_protocol(), out, store=tmp_path / "store")
    before = {name: (out / name).read_bytes() for name in ("results.csv", "report.html")}
    copy = tmp_path / "copy"
    out.rename(copy)
    for name in before:
        (copy / name).unlink()
    report(copy)
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_pictures_can_be_left_out(write_protocol: WriteProtocol, out: Path) -> None:
    run_tiny(write_protocol(), out, images=False)
    assert not (out / "diagnostics" / "thumbnails").exists()


# ── resuming ─────────────────────────────────────────────────────────────────────────────────────


def artefacts(store: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in store.glob("*/*/*/task.json")}


def test_a_second_run_computes_nothing_and_gives_the_same_bytes(
    write_protocol: WriteProtocol, out: Path
) -> None:
    protocol = write_protocol(encoders=["random:timm:test_vit"])
    run_tiny(protocol, out)
    first, made = hashes(out), artefacts(out / "store")
    run_tiny(protocol, out)
    assert hashes(out) == first
    assert artefacts(out / "store") == made


def test_runs_in_different_folders_give_the_same_bytes(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    protocol = write_protocol(encoders=["random:timm:test_vit"])
    for name in ("one", "two"):
        run_tiny(protocol, tmp_path / name)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_a_further_encoder_leaves_what_was_made_alone(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run_tiny(write_protocol(), out)
    made = artefacts(out / "store")
    further = write_protocol(encoders=["pixel_stats", "random:timm:test_vit"])
    run_tiny(further, out.with_name("further"), store=out / "store")
    assert artefacts(out / "store").items() >= made.items()


def test_another_probe_setting_keeps_the_embeddings(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run_tiny(write_protocol(), out)
    before = {f for f in artefacts(out / "store") if "embed" in f.parts}
    other = write_protocol(adaptations={"linear_probe": {"selection": "macro_f1"}})
    run_tiny(other, out.with_name("other"), store=out / "store")
    assert {f for f in artefacts(out / "store") if "embed" in f.parts} == before


def command(protocol: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-c",
        "import sys, sonobench; sonobench.run(sys.argv[1], sys.argv[2])",
        str(protocol),
        str(out),
    ]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    protocol = write_protocol(encoders=["random:timm:test_vit", "random:timm:test_convnext"])
    run_tiny(protocol, tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    for artefact in ("pack", "embed", "linear_probe"):
        process = subprocess.Popen(
            command(protocol, killed), stderr=subprocess.DEVNULL, start_new_session=True
        )
        # As soon as the first artefact of this kind is there, in the middle of the others.
        while not list((killed / "store" / artefact).glob("*/*/task.json")):
            if process.poll() is not None:
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run_tiny(protocol, killed)
    assert hashes(killed) == hashes(tmp_path / "undisturbed")


@pytest.mark.slow
def test_two_processes_on_one_run_do_not_harm_each_other(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    protocol = write_protocol(encoders=["random:timm:test_vit"])
    run_tiny(protocol, tmp_path / "alone")
    shared = tmp_path / "shared"
    processes = [subprocess.Popen(command(protocol, shared)) for _ in range(2)]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    assert hashes(shared) == hashes(tmp_path / "alone")


# ── bad input ────────────────────────────────────────────────────────────────────────────────────


def save(frame: pd.DataFrame, hospitals: Path, cohort: str = "home") -> None:
    frame.to_csv(hospitals / cohort / "manifest.csv", index=False)


def test_a_missing_column(write_protocol: WriteProtocol, hospitals: Path, out: Path) -> None:
    save(edit(hospitals).drop(columns="patient_id"), hospitals)
    refused(write_protocol(), out, DatasetError, r"manifest\.csv, row 1: .* missing: patient_id")


def test_an_unknown_label(write_protocol: WriteProtocol, hospitals: Path, out: Path) -> None:
    frame = edit(hospitals)
    frame.loc[3, "label"] = "fermur"
    save(frame, hospitals)
    refused(write_protocol(), out, DatasetError, r"manifest\.csv: .*'fermur' \(row 5; did you mean")


def test_a_class_of_the_external_cohort_that_is_unknown_at_home(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    frame = edit(hospitals, "abroad")
    frame.loc[0, "label"] = "ear"
    save(frame, hospitals, "abroad")
    refused(write_protocol(), out, DatasetError, r"dataset 'abroad' .*'ear' \(row 2\)")


def test_a_class_of_the_protocol_that_home_does_not_have(
    write_protocol: WriteProtocol, out: Path
) -> None:
    protocol = write_protocol(classes=[*CLASSES, "ear"])
    refused(protocol, out, DatasetError, r"no image of the classes ear; .*take them out")


def test_a_path_twice(write_protocol: WriteProtocol, hospitals: Path, out: Path) -> None:
    frame = edit(hospitals)
    frame.loc[4, "path"] = frame.loc[2, "path"]
    save(frame, hospitals)
    refused(write_protocol(), out, DatasetError, r"row 6: path .* stands in row 4 already")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", "no such file"),
        ("truncated", "cannot be decoded"),
        ("not an image", "not an image"),
    ],
)
def test_an_unreadable_image_stops_with_its_row_or_is_left_out(
    write_protocol: WriteProtocol, hospitals: Path, out: Path, damage: str, reason: str
) -> None:
    file = hospitals / "home" / edit(hospitals).loc[5, "path"]
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"text")
    refused(write_protocol(), out, DatasetError, rf"row 7: .*{file.name}: {reason}.*\n.*leave_out")
    run_tiny(write_protocol(unreadable="leave_out"), out)
    assert len(read_table(out / "samples.parquet", SAMPLES)) == 41
    left_out = json.loads((out / "audit.json").read_text())["left_out"]
    assert len(left_out) == 1
    assert "row 7" in left_out[0]


def test_an_empty_class_in_a_fold(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    frame = edit(hospitals)
    femur = frame["label"] == "femur"
    keep = ~femur | frame["patient_id"].isin(["p000", "p002"])
    save(frame[keep], hospitals)
    refused(write_protocol(), out, DatasetError, "no training image of class 'femur'")


def test_a_patient_in_train_and_test(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    frame = edit(hospitals)
    frame.loc[0, "split"] = "test"
    save(frame, hospitals)
    refused(write_protocol(), out, DatasetError, r"p000 \(row 2: test, row 3: train\)")


def test_fewer_patients_than_folds(write_protocol: WriteProtocol, out: Path) -> None:
    protocol = write_protocol(split={"folds": 8})
    refused(protocol, out, DatasetError, r"7 subjects to divide into 8 folds; set 'split\.folds'")


def test_an_unknown_protocol_key(write_protocol: WriteProtocol, out: Path) -> None:
    refused(write_protocol(sead=1), out, ProtocolError, "unknown key 'sead'; did you mean 'seeds'")


def test_a_path_out_of_the_manifests_folder(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    frame = edit(hospitals)
    frame.loc[0, "path"] = "../abroad/manifest.csv"
    save(frame, hospitals)
    refused(write_protocol(), out, DatasetError, "row 2: path .* points out of the folder")


def test_one_image_under_two_labels(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    paths = edit(hospitals)["path"]
    home = hospitals / "home"
    (home / paths[1]).write_bytes((home / paths[0]).read_bytes())
    refused(write_protocol(), out, DatasetError, r"carry two labels .*row 2\): .*row 3\)")


def test_an_encoder_without_weights_is_skipped_clearly_or_stops(
    write_protocol: WriteProtocol, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SONOBENCH_WEIGHTS", str(tmp_path))
    encoders = ["resnet50", "random:timm:test_vit"]
    run = run_tiny(write_protocol(encoders=encoders), out)
    assert "resnet50" not in set(run.results["encoder"])
    skipped = json.loads((out / "manifest.json").read_text())["skipped"]
    assert [entry["encoder"] for entry in skipped] == ["resnet50"]
    assert "resnet50.a1_in1k.safetensors" in skipped[0]["reason"]
    stop = write_protocol(encoders=encoders, missing_weights="stop")
    refused(stop, out.with_name("other"), EncoderError, "resnet50: weights are not here")


def test_a_full_disk_leaves_the_store_whole(
    write_protocol: WriteProtocol, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = write_protocol()
    sync, calls = os.fsync, 0

    def full_after_some(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", full_after_some)
    with pytest.raises((OSError, StoreError, DatasetError), match=r"No space left|no room"):
        run_tiny(protocol, out)
    monkeypatch.undo()
    monkeypatch.delenv("SONOBENCH_DATA", raising=False)
    run_tiny(protocol, out)
    assert (out / "results.csv").is_file()


def test_a_folder_with_another_benchmark_is_refused(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run_tiny(write_protocol(), out)
    other = write_protocol(name="other")
    refused(other, out, ProtocolError, "holds a run of protocol 'tiny'.*choose another folder")
    changed = write_protocol(evaluation={"bootstrap_draws": 300}, split={"folds": 3})
    differing = r"another protocol 'tiny', which differs in split.folds, evaluation.bootstrap_draws"
    before = hashes(out)
    refused(changed, out, ProtocolError, differing)
    assert hashes(out) == before


def test_a_run_that_ended_before_it_had_results_leaves_its_folder_to_another_protocol(
    write_protocol: WriteProtocol, out: Path
) -> None:
    with pytest.raises(DatasetError):
        run_tiny(write_protocol(classes=["abdomen", "brain"]), out)
    run_tiny(write_protocol(), out)


def test_a_run_whose_folder_another_protocol_has_taken_meanwhile_does_not_write_into_it(
    write_protocol: WriteProtocol, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = write_protocol()
    other = load_protocol(mine).model_copy(update={"seeds": (7,)})

    def deleted_and_taken(*arguments: Any) -> Any:
        (out / "protocol.yaml").write_text(other.to_yaml())
        return plan_curve(*arguments)

    monkeypatch.setattr("sonobench.benchmark.plan_curve", deleted_and_taken)
    refused(mine, out, ProtocolError, "another protocol 'tiny', which differs in seeds")
    assert not (out / "results.csv").exists()


def test_a_report_of_predictions_that_another_protocol_made_is_refused(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run_tiny(write_protocol(), out)
    file = out / "protocol.yaml"
    file.write_text(file.read_text().replace("confidence: 0.95", "confidence: 0.9"))
    with pytest.raises(TableError, match="not the protocol that the predictions beside it"):
        report(out)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_done(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(write_protocol(), tmp_path / "file" / "run", ProtocolError, "run cannot be written")


def test_a_cohort_of_one_class_has_no_auroc_and_the_report_says_so(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    write_hospital(hospitals / "alone", patients=6, classes=CLASSES[:1], published_split=False)
    alone = {"loader": "manifest", "name": "alone", "path": "alone/manifest.csv"}
    run = run_tiny(write_protocol(external=[alone]), out)
    defined = run.results.query("metric == 'macro_auroc'")["evaluation"]
    assert set(defined) == {"in_domain"}
    assert "AUROC" in (out / "report.html").read_text()
    scores = Scores.from_results(run.results)
    absent = scores.get(scores.models[0], "alone", MAIN, "macro_auroc")
    assert number(absent.estimate) == "–"
