"""A benchmark with fine-tuning on tiny real hospitals: what it leaves, and how it goes on."""

import json
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hospitals import WriteProtocol
from pydantic import ValidationError

import sonobench
from sonobench.benchmark import geometries
from sonobench.cli.tensorboard import write_tensorboard
from sonobench.datasets import load_cohort, make_splits
from sonobench.encoders import open_encoder, resolve
from sonobench.engine import Job, Task
from sonobench.jobs import _asked, _placed
from sonobench.members import find_encoders
from sonobench.protocol import (
    Dataset,
    EncoderEntry,
    Lora,
    ProtocolError,
    Split,
    load_protocol,
)
from sonobench.steps.finetuning import _searched_fold, fresh_copy
from sonobench.tables import PREDICTIONS, read_table

# timm's smallest network for tests.
NETWORK = "random:timm:test_efficientnet"
SHORT = {"epochs": 2, "batch_size": 4, "micro_batch": 4, "warmup_epochs": 0}

run_tiny = partial(sonobench.run, workers=1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_every_fold_is_trained_chosen_and_predicted_once(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run = run_tiny(write_protocol(encoders=[NETWORK], adaptations={"full_finetune": SHORT}), out)
    (file,) = (out / "predictions").glob("random_timm*__full_finetune.parquet")
    rows = read_table(file, PREDICTIONS)
    assert set(rows["role"]) == {"validation", "test", "external"}
    # Of 30 images at home 9 are tested; all 12 abroad.
    sizes = rows.groupby(["fold", "role"]).size().unstack()
    assert sizes[["external", "test"]].to_numpy().tolist() == [[12, 9], [12, 9]]
    assert np.isfinite(np.stack(rows["logits"].tolist())).all()
    history = pd.read_parquet(out / "diagnostics" / "finetune.parquet")
    assert history.groupby("fold")["best"].sum().tolist() == [1, 1]
    assert history.groupby("fold").size().tolist() == [2, 2]
    assert "full_finetune" in set(run.results["adaptation"])
    [spread] = json.loads((out / "manifest.json").read_text())["learning_rate_spread"]
    assert (spread["encoder"], spread["adaptation"]) == (NETWORK, "full_finetune")
    assert spread["lowest_rate"] == pytest.approx(0.75**12)
    assert spread["share_below_1_percent"] == 0


def test_a_second_run_trains_nothing(write_protocol: WriteProtocol, out: Path) -> None:
    protocol = write_protocol(encoders=[NETWORK], adaptations={"full_finetune": SHORT})
    run_tiny(protocol, out)
    files = sorted((out / "predictions").iterdir())
    before = [file.read_bytes() for file in files]
    trained = {file: file.stat().st_mtime_ns for file in (out / "store").glob("full_f*/*/*/*")}
    run_tiny(protocol, out)
    assert [file.read_bytes() for file in files] == before
    assert {file: file.stat().st_mtime_ns for file in trained} == trained


def test_a_model_that_diverges_has_no_numbers_and_says_why(
    write_protocol: WriteProtocol, out: Path
) -> None:
    wild = SHORT | {"learning_rate": 1e30, "gradient_clip": None}
    run = run_tiny(
        write_protocol(
            encoders=[NETWORK, {"name": NETWORK, "label": "fine", "adaptations": ["lora"]}],
            adaptations={"full_finetune": wild, "lora": SHORT, "linear_probe": None},
        ),
        out,
    )
    history = pd.read_parquet(out / "diagnostics" / "finetune.parquet")
    status = history.groupby(["encoder", "adaptation"])["status"].unique().map(list)
    assert status[NETWORK, "full_finetune"] == ["diverged"]
    assert history.query("status == 'diverged'")["status_reason"].str.len().min() > 0
    assert "full_finetune" not in set(run.results["adaptation"])
    # The others are not touched by it; an encoder gets what it asks for, or all.
    assert set(history.loc[history["encoder"] == "fine", "adaptation"]) == {"lora"}
    trained = json.loads((out / "manifest.json").read_text())["trained"]
    assert {"encoder": NETWORK, "adaptation": "full_finetune"} not in trained
    assert {"encoder": NETWORK, "adaptation": "lora"} in trained
    assert list(out.glob("predictions/*full_finetune*")) == []


def test_learning_rates_are_tried_on_the_first_fold_and_the_best_is_used_for_all(
    write_protocol: WriteProtocol, out: Path
) -> None:
    searched = SHORT | {"learning_rate_search": [1e-3, 1e30], "gradient_clip": None}
    run_tiny(write_protocol(encoders=[NETWORK], adaptations={"head_only": searched}), out)
    search = pd.read_parquet(out / "diagnostics" / "learning_rate_search.parquet")
    assert search["learning_rate"].tolist() == [1e-3, 1e30]
    assert search["chosen"].tolist() == [True, False]
    history = pd.read_parquet(out / "diagnostics" / "finetune.parquet")
    assert history["learning_rate"].max() <= 1e-3
    # What was tried has predicted validation images only.
    for file in (out / "store" / "head_only_trial").glob("*/*/predictions.parquet"):
        assert set(pd.read_parquet(file).get("role", [])) <= {"validation"}


@pytest.mark.parametrize(
    ("scheme", "searched"), [("official_test", [0, 0]), ("cross_validation", [0, 1])]
)
def test_no_patient_that_a_fold_tests_on_chooses_its_learning_rate(
    hospitals: Path, scheme: Literal["official_test", "cross_validation"], searched: list[int]
) -> None:
    samples = load_cohort(
        Dataset(loader="manifest", name="home", path="home/manifest.csv"), hospitals
    )
    samples = samples.samples.assign(subject_id=lambda table: table["patient_id"])
    splits = make_splits(samples, "home", Split(scheme=scheme, folds=2))
    assert [_searched_fold(splits, fold) for fold in (0, 1)] == searched


def test_source_images_alone_are_decoded_at_the_size_for_training(
    write_protocol: WriteProtocol, hospitals: Path
) -> None:
    protocol = load_protocol(write_protocol(encoders=[NETWORK], adaptations={"lora": SHORT}))
    members, _ = find_encoders(protocol, hospitals)
    needed = geometries(protocol, members)
    exact = members[0].geometry
    assert exact is not None
    assert exact.for_training() in needed["home"]
    assert exact.for_training() not in needed["abroad"]
    assert exact in needed["abroad"]


@pytest.mark.parametrize(("devices", "share", "gpus"), [(1, 0.5, 0.5), (1, 1, 1), (2, 0.5, 2)])
def test_a_fine_tuning_asks_for_a_share_or_for_all_of_its_devices(
    write_protocol: WriteProtocol, hospitals: Path, devices: int, share: float, gpus: float
) -> None:
    file = write_protocol(
        adaptations={"lora": SHORT | {"devices": devices, "precision": "fp32"}},
        resources={"finetuning": {"gpus": share}},
        numerics={"backend": "cuda", "threads_per_task": 3},
    )
    job = Job("fold", (Task("lora", 1, {}),), print)
    asked = _asked(job, load_protocol(file))
    assert asked.gpus == gpus
    assert asked.cpus == 3 * devices


def test_more_devices_than_images_of_a_micro_batch_are_refused() -> None:
    with pytest.raises(ValidationError, match="8 devices cannot share micro-batches of 4 images"):
        Lora(**SHORT, devices=8)


def test_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    (tmp_path / "diagnostics").mkdir()
    model = {"encoder": "timm:small", "adaptation": "lora", "seed": 0}
    figures = dict.fromkeys(
        ("learning_rate", "train_loss", "validation_nll", "validation_macro_f1"), 0.5
    )
    rows = [{**model, "fold": fold, "epoch": 0, **figures} for fold in (0, 1)]
    pd.DataFrame(rows).to_parquet(tmp_path / "diagnostics" / "finetune.parquet")
    written = write_tensorboard(tmp_path)
    assert written is not None
    assert len(list(written.rglob("events.*"))) == 2


def test_an_adaptation_that_the_protocol_does_not_run_is_refused(
    write_protocol: WriteProtocol, out: Path
) -> None:
    protocol = write_protocol(encoders=[{"name": NETWORK, "adaptations": ["lora"]}])
    with pytest.raises(ProtocolError, match="asks for 'lora', which is not among"):
        run_tiny(protocol, out)


@pytest.mark.parametrize(("gpus", "alike"), [(None, True), (1.0, False)])
def test_folds_of_a_model_share_devices_as_measured_unless_the_protocol_says_how(
    gpus: float | None, alike: bool, write_protocol: WriteProtocol
) -> None:
    file = write_protocol(adaptations={"lora": SHORT}, resources={"finetuning": {"gpus": gpus}})
    job = Job("fold", (Task("lora", 1, {}),), print, alike="lora tiny")
    assert _placed(job, load_protocol(file)).alike == ("lora tiny" if alike else "")


def test_an_encoder_is_as_it_was_before_training_each_time_it_is_opened() -> None:
    spec = resolve(EncoderEntry(name="random:timm:test_vit"), 0, Path())
    opened = open_encoder(spec, "cpu")[0].network.state_dict()
    trained = fresh_copy(spec, "cpu")
    with torch.no_grad():
        for parameter in trained.network.parameters():
            parameter.zero_()
    again = fresh_copy(spec, "cpu").network.state_dict()
    assert all(torch.equal(again[name], value) for name, value in opened.items())


@pytest.mark.gpu
def test_a_run_on_cuda_probes_as_one_on_the_cpu_and_trains_in_bf16(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    file = write_protocol(
        encoders=[NETWORK], adaptations={"linear_probe": {}, "full_finetune": SHORT}
    )
    # In several processes, which share the device.
    runs = {
        device: sonobench.run(file, tmp_path / device, device=device, workers=2)
        for device in ("cpu", "cuda")
    }
    probed = []
    for run in runs.values():
        assert run.failures == ()
        (file,) = (run.folder / "predictions").glob("random*__linear_probe.parquet")
        probed.append(np.stack(read_table(file, PREDICTIONS)["logits"].tolist()))
    np.testing.assert_allclose(*probed, atol=1e-2)
