"""Fine-tuning of one fold: what moves, what is chosen, how it goes on, and how it can end."""

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_training
import torch
from tiny_training import (
    CLASSES,
    SHORT,
    STILL,
    Hospital,
    TinyNetwork,
    encoder_with_threads,
    encoder_without_dropout,
    finetune,
    full,
    logits,
    tiny_encoder,
)
from torch import Tensor, nn

from sonobench.adaptation import TrainingError, best_learning_rate, training
from sonobench.adaptation.batches import Labelled
from sonobench.adaptation.devices import fabric_for
from sonobench.adaptation.finetune import guessing_macro_f1
from sonobench.adaptation.training import Fold, _class_weights
from sonobench.protocol import FullFinetune, HeadOnly, Lora, Training

# ── what is learnt ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("settings", [FullFinetune, Lora, HeadOnly])
def test_a_bright_bar_is_learnt(
    hospital: Hospital, tmp_path: Path, settings: type[Training]
) -> None:
    # A frozen random network gives a head less to work with.
    epochs, least = (10, 0.9) if settings is FullFinetune else (30, 0.6)
    chosen = settings(**(SHORT | {"epochs": epochs, "learning_rate": 3e-2}))
    rows = finetune(hospital, tmp_path, chosen).predictions.query("role == 'test'")
    right = rows["logits"].map(np.argmax) == rows["label"].map(CLASSES.index)
    assert right.mean() > least


def test_validation_and_test_images_are_predicted_and_training_images_are_not(
    hospital: Hospital, tmp_path: Path
) -> None:
    adapted = finetune(hospital, tmp_path, full())
    assert adapted.predictions.groupby("role").size().to_dict() == {"test": 12, "validation": 12}


def test_a_trial_predicts_validation_images_only(hospital: Hospital, tmp_path: Path) -> None:
    adapted = finetune(hospital, tmp_path, full(), roles=("validation",))
    assert set(adapted.predictions["role"]) == {"validation"}


def test_the_kept_weights_are_those_of_the_best_epoch(hospital: Hospital, tmp_path: Path) -> None:
    adapted = finetune(hospital, tmp_path, full(epochs=6))
    best = adapted.diagnostics.query("best").iloc[0]
    rows = adapted.predictions.query("role == 'validation'")
    scores = torch.tensor(np.stack(rows["logits"].tolist())).double()
    labels = torch.tensor([CLASSES.index(label) for label in rows["label"]])
    nll = float(nn.functional.cross_entropy(scores, labels))
    assert nll == pytest.approx(best["validation_nll"], rel=1e-6)
    assert best["validation_macro_f1"] == adapted.diagnostics["validation_macro_f1"].max()


@pytest.mark.parametrize("warmup_epochs", [0, 0.3, 1, 3])
def test_the_learning_rate_never_exceeds_its_highest(
    hospital: Hospital, tmp_path: Path, warmup_epochs: float
) -> None:
    # Four steps an epoch; an odd share of an epoch ends between two steps.
    used: list[float] = []
    settings = full(epochs=1, warmup_epochs=warmup_epochs)
    with pytest.MonkeyPatch.context() as patch:
        step = torch.optim.AdamW.step

        def watched(optimizer: torch.optim.AdamW, *arguments: Any) -> Any:
            used.append(max(group["lr"] for group in optimizer.param_groups))
            return step(optimizer, *arguments)

        patch.setattr(torch.optim.AdamW, "step", watched)
        finetune(hospital, tmp_path, settings)
    assert len(used) == 4
    assert max(used) <= settings.learning_rate * (1 + 1e-9)


def test_a_class_without_training_images_has_no_weight(hospital: Hospital) -> None:
    labels = np.array([0, 0, 0, 1])
    part = Labelled(hospital.cohorts["home"].pack, np.arange(4), labels)
    weights = _class_weights(Fold(part, part, 3, 0), full(class_weighting="balanced"))
    # scikit-learn's "balanced": n / (classes that are there × images of the class).
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1), 0])


def test_training_ends_when_patience_does(hospital: Hospital, tmp_path: Path) -> None:
    # At a learning rate of nothing no epoch is better than the first.
    idle = full(epochs=9, patience=2, learning_rate=1e-30, selection="macro_f1")
    diagnostics = finetune(hospital, tmp_path, idle, partial(tiny_encoder, False)).diagnostics
    assert len(diagnostics) == 3


def test_gradients_that_are_accumulated_are_those_of_the_whole_batch(
    hospital: Hospital, tmp_path: Path
) -> None:
    found = []
    for micro_batch in (2, 8):
        (scratch := tmp_path / str(micro_batch)).mkdir()
        settings = full(micro_batch=micro_batch, augmentation=STILL, class_weighting="balanced")
        found.append(logits(finetune(hospital, scratch, settings, encoder_without_dropout)))
    # AdamW makes a step of the size of the learning rate out of a rounding error.
    np.testing.assert_allclose(*found, atol=1e-3)


@pytest.mark.slow
def test_two_devices_that_share_micro_batches_give_what_one_gives(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Also within a Slurm job, whose one task starts the processes itself.
    for name in ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "fold")
    for name in ("alone", "shared"):
        (tmp_path / name).mkdir()
    still = full(augmentation=STILL, epochs=2)
    alone = finetune(hospital, tmp_path / "alone", still, encoder_without_dropout)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shared = finetune(
            hospital,
            tmp_path / "shared",
            still.model_copy(update={"devices": 2}),
            encoder_with_threads,
        )
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(logits(shared), logits(alone), atol=1e-3)


def test_no_test_image_influences_training(hospital: Hospital, tmp_path: Path) -> None:
    other = Hospital.__new__(Hospital)
    other.__dict__.update(hospital.__dict__)
    tested = hospital.splits["role"] == "test"
    other.splits = hospital.splits.assign(role=hospital.splits["role"].mask(tested, "excluded"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    whole = finetune(hospital, tmp_path / "one", full()).predictions
    without = finetune(other, tmp_path / "two", full()).predictions
    assert whole.query("role == 'validation'")["logits"].map(list).tolist() == (
        without["logits"].map(list).tolist()
    )


# ── going on ─────────────────────────────────────────────────────────────────────────────────────

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sonobench.adaptation import training
from tiny_training import Hospital, finetune, full
training._SAVE_EVERY = 0.0
folder, scratch, stop_at, settings = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), full()
seen = 0
def count(images):
    global seen
    seen += images
    if seen > stop_at:
        os.kill(os.getpid(), signal.SIGKILL)
finetune(Hospital(folder), scratch, settings, on_images=count)
"""


def test_killed_in_the_middle_of_an_epoch_it_goes_on_to_the_same_bytes(
    hospital: Hospital, tmp_path: Path
) -> None:
    for name in ("undisturbed", "killed", "images"):
        (tmp_path / name).mkdir()
    expected = finetune(hospital, tmp_path / "undisturbed", full())
    # 36 training images make 4 steps of 8 an epoch: this is in the second epoch.
    script = [
        sys.executable,
        "-c",
        KILLED,
        str(Path(tiny_training.__file__).parent),
        str(tmp_path / "images"),
    ]
    ended = subprocess.run([*script, str(tmp_path / "killed"), "48"], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "epochs.pt").is_file()
    told: list[int] = []
    again = finetune(hospital, tmp_path / "killed", full(), on_images=told.append)
    # What was done before is told at once, and not done again.
    assert told == [32, 8, 8, 8, 8, 8, 8, 8, 8]
    assert logits(again).tobytes() == logits(expected).tobytes()


@pytest.mark.parametrize(("every", "left"), [(0.0, ["epochs.pt"]), (3600.0, [])])
def test_epochs_are_saved_at_intervals_in_one_file(
    every: float,
    left: list[str],
    hospital: Hospital,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "_SAVE_EVERY", every)
    finetune(hospital, tmp_path, full(epochs=5))
    assert [file.name for file in tmp_path.iterdir()] == left


def test_the_callers_random_state_is_left_alone(hospital: Hospital, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    finetune(hospital, tmp_path, full(epochs=1))
    assert torch.equal(torch.rand(1), expected)


# ── how it can end ───────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_finite_ends_it_without_predictions(
    hospital: Hospital, tmp_path: Path
) -> None:
    wild = full(learning_rate=1e30, gradient_clip=None, warmup_epochs=0)
    adapted = finetune(hospital, tmp_path, wild, partial(tiny_encoder, False))
    assert adapted.predictions.empty
    assert set(adapted.diagnostics["status"]) == {"diverged"}
    assert "the loss is" in adapted.diagnostics["status_reason"].iloc[0]
    assert not adapted.diagnostics["best"].any()


class _Overflowing(TinyNetwork):
    """Its features of bright images are infinite once it is not in training."""

    tested = False

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features * torch.inf if self.tested and not self.training else features


def test_logits_of_test_images_that_are_not_finite_are_no_numbers(
    hospital: Hospital, tmp_path: Path
) -> None:
    network = type("Overflowing", (_Overflowing,), {})
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        network.tested = text == "predicting"

    encoder = partial(tiny_encoder, True, network)
    adapted = finetune(hospital, tmp_path, full(epochs=1), encoder, on_note=note)
    assert notes[-1] == "predicting"
    assert adapted.predictions.empty
    assert set(adapted.diagnostics["status"]) == {"diverged"}
    assert not adapted.diagnostics["best"].any()


def test_bf16_is_refused_where_a_device_only_emulates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # As CUDA devices before Ampere answer.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    with pytest.raises(TrainingError, match="this cuda device has no bf16"):
        fabric_for(full(precision="bf16"), "cuda")


def test_a_score_that_guessing_reaches_is_marked(hospital: Hospital, tmp_path: Path) -> None:
    idle = full(epochs=1, learning_rate=1e-30)
    adapted = finetune(hospital, tmp_path, idle)
    assert set(adapted.diagnostics["status"]) == {"at_chance"}
    assert len(adapted.predictions) == 24


def test_guessing_is_the_most_frequent_class_or_one_in_k() -> None:
    # Of three equal classes a constant gets F1 1/2 once: 1/6; drawing gets 1/3.
    assert guessing_macro_f1(np.array([0, 1, 2]), 3) == pytest.approx(1 / 3)
    # Nine of ten: F1 18/19 once, over two classes 9/19; drawing gets 1/2.
    assert guessing_macro_f1(np.array([0] * 9 + [1]), 2) == pytest.approx(0.5)


def trial(macro_f1: float, nll: float, *, best: bool = True) -> pd.DataFrame:
    figures = {"validation_macro_f1": [macro_f1], "validation_nll": [nll], "best": [best]}
    return pd.DataFrame(figures)


def test_the_best_learning_rate_is_that_of_the_best_epoch() -> None:
    trials = {1e-4: trial(0.8, 0.5), 3e-4: trial(0.9, 0.6), 1e-3: trial(0.9, 0.4)}
    assert best_learning_rate(trials, full()) == 1e-3
    diverged = trial(np.nan, np.nan, best=False)
    assert best_learning_rate({1e-4: trial(0.3, 1.0), 1e-2: diverged}, full()) == 1e-4


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (full(selection="macro_f1"), 3e-4),
        (full(selection="nll"), 1e-4),
        # FetalCLIP's probe is chosen by its loss.
        (HeadOnly(), 1e-4),
        (Lora(), 3e-4),
    ],
)
def test_learning_rates_are_compared_by_what_epochs_are_chosen_by(
    settings: Training, expected: float
) -> None:
    trials = {1e-4: trial(0.8, 0.3), 3e-4: trial(0.9, 0.6), 1e-3: trial(0.8, 0.3)}
    assert best_learning_rate(trials, settings) == expected
