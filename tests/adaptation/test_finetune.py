"""Fine-tuning of one fold: what moves, what is chosen, how it goes on, and how it can end."""

import importlib
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sonobench.adaptation import (
    Adapted,
    CohortImages,
    TrainingError,
    best_learning_rate,
    finetune_fold,
)
from sonobench.adaptation.blocks import checkpoint_blocks
from sonobench.adaptation.finetune import guessing_macro_f1
from sonobench.adaptation.training import Fold, Labelled, _class_weights, fabric_for
from sonobench.encoders import Encoder, EncoderCard, Preprocess
from sonobench.images import Geometry, Pack, decode_all
from sonobench.protocol import Augmentation, FullFinetune, HeadOnly, Lora, Training

CLASSES = ("abdomen", "brain", "femur")
SIDE = 16
GEOMETRY = Geometry("squash", SIDE)
SHORT = {
    "epochs": 3,
    "batch_size": 8,
    "micro_batch": 4,
    "warmup_epochs": 1,
    "learning_rate": 1e-2,
    "precision": "fp32",
}


class _Block(nn.Module):
    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = norm(width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = maps + self.dropout(self.norm(self.conv(maps)).relu())
        return out


class TinyNetwork(nn.Module):
    """A residual network of some hundred weights, with batch or with group statistics."""

    def __init__(self, batch_statistics: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if batch_statistics else partial(nn.GroupNorm, 1)
        self.stem = nn.Conv2d(3, 8, 5, stride=4)
        self.blocks = nn.Sequential(_Block(8, norm), _Block(8, norm))

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.blocks(self.stem(images)).mean((2, 3))
        return pooled


def tiny_encoder(batch_statistics: bool = True, network: type[nn.Module] = TinyNetwork) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = network(batch_statistics)
    return Encoder(made, EncoderCard("tiny", Preprocess(GEOMETRY), dimension=8))


class Hospital:
    """One image a patient and class, a bright bar whose place is the class; packs and tables."""

    def __init__(self, folder: Path, patients: int = 20) -> None:
        rng = np.random.default_rng(0)
        files, rows = [], []
        for patient in range(patients):
            role = ("train", "train", "train", "validation", "test")[patient % 5]
            for position, label in enumerate(CLASSES):
                pixels = rng.rayleigh(30, (40, 48))
                pixels[6 + 10 * position : 12 + 10 * position] += 150
                files.append(folder / f"{patient}_{label}.png")
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(files[-1])
                rows.append((files[-1].name, "home", f"p{patient}", label, role))
        columns = ["image_id", "dataset", "subject_id", "label", "role"]
        table = pd.DataFrame(rows, columns=columns)
        self.samples = table.drop(columns="role")
        self.splits = table[["image_id", "role"]].assign(fold=0)
        packs = {GEOMETRY: folder / "exact", GEOMETRY.for_training(): folder / "training"}
        for place in packs.values():
            place.mkdir()
        decode_all(files, None, packs)
        exact, training = (Pack(place, geometry) for geometry, place in packs.items())
        self.cohorts = {"home": CohortImages(exact, np.arange(len(files)), training)}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"))


def finetune(
    hospital: Hospital,
    scratch: Path,
    settings: Training,
    encoder: Callable[[], Encoder] = tiny_encoder,
    **others: Any,
) -> Adapted:
    return finetune_fold(
        encoder,
        hospital.cohorts,
        hospital.samples,
        hospital.splits,
        CLASSES,
        settings,
        **{
            "fold": 0,
            "seed": 0,
            "device": "cpu",
            "evaluation_batch": 16,
            "scratch": scratch,
            **others,
        },
    )


def full(**changes: Any) -> FullFinetune:
    return FullFinetune(**(SHORT | changes))


def logits(adapted: Adapted) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.stack(adapted.predictions["logits"].tolist())


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


# Augmentation and dropout are drawn for each micro-batch and device.
STILL = Augmentation(
    smallest_crop=1,
    aspect_ratio=1,
    horizontal_flip=0,
    rotation=0,
    brightness=0,
    contrast=0,
    gamma=0,
)


def encoder_without_dropout() -> Encoder:
    made = tiny_encoder(False)
    for module in made.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return made


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


class _WithThreads(nn.Module):
    """Looks whether a process that shares a training computes as the one that started it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training or torch.get_num_threads() == 3
        features: Tensor = self.network(images)
        return features


def encoder_with_threads() -> Encoder:
    made = encoder_without_dropout()
    return Encoder(_WithThreads(made.network), made.card)


@pytest.mark.slow
def test_two_devices_that_share_micro_batches_give_what_one_gives(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the name under which other processes can import it.
    monkeypatch.syspath_prepend(Path(__file__).parent)
    importable = importlib.import_module("test_finetune")
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
            importable.encoder_with_threads,
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
from test_finetune import Hospital, finetune, full
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
    script = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "images")]
    ended = subprocess.run([*script, str(tmp_path / "killed"), "48"], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "last.pt").is_file()
    told: list[int] = []
    again = finetune(hospital, tmp_path / "killed", full(), on_images=told.append)
    # What was done before is told at once, and not done again.
    assert told == [32, 8, 8, 8, 8, 8, 8, 8, 8]
    assert logits(again).tobytes() == logits(expected).tobytes()


def test_the_disk_holds_the_last_and_the_best_weights_only(
    hospital: Hospital, tmp_path: Path
) -> None:
    adapted = finetune(hospital, tmp_path, full(epochs=5))
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "last.pt", adapted.weights or Path()])


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
    assert best_learning_rate(trials) == 1e-3
    diverged = trial(np.nan, np.nan, best=False)
    assert best_learning_rate({1e-4: trial(0.3, 1.0), 1e-2: diverged}) == 1e-4


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


class _LimitedNetwork(TinyNetwork):
    """Raises what CUDA raises once the activations that are kept exceed a limit in bytes."""

    limit = 0

    def forward(self, images: Tensor) -> Tensor:
        kept = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes
            if kept > self.limit:
                raise torch.OutOfMemoryError(f"{kept} bytes kept, {self.limit} there")
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return super().forward(images)


def limited(limit: int, *, batch_statistics: bool) -> Callable[[], Encoder]:
    network = type("Limited", (_LimitedNetwork,), {"limit": limit})
    return partial(tiny_encoder, batch_statistics, network)


def kept_bytes(batch_statistics: bool, images: int, checkpointed: bool) -> int:
    """What a forward pass of the tiny network keeps, found by raising the limit."""
    for limit in range(1_000, 1_000_000, 500):
        network = limited(limit, batch_statistics=batch_statistics)().network
        network.train().requires_grad_(True)
        if checkpointed:
            checkpoint_blocks(network)
        try:
            network(torch.zeros(images, 3, SIDE, SIDE))
        except torch.OutOfMemoryError:
            continue
        return limit
    raise AssertionError


def test_out_of_memory_activations_are_computed_again_with_the_same_result(
    hospital: Hospital, tmp_path: Path
) -> None:
    enough = kept_bytes(True, 4, True)
    assert enough < kept_bytes(True, 4, False)
    for name in ("free", "limited"):
        (tmp_path / name).mkdir()
    expected = finetune(hospital, tmp_path / "free", full())
    found = finetune(hospital, tmp_path / "limited", full(), limited(enough, batch_statistics=True))
    assert found.diagnostics["checkpointed"].all()
    # Running statistics too have moved once a step only.
    np.testing.assert_allclose(logits(found), logits(expected), atol=1e-4)


def test_then_micro_batches_shrink_where_there_are_no_batch_statistics(
    hospital: Hospital, tmp_path: Path
) -> None:
    enough = kept_bytes(False, 1, True)
    adapted = finetune(hospital, tmp_path, full(), limited(enough, batch_statistics=False))
    assert adapted.diagnostics["micro_batch"].max() < 4
    assert len(adapted.predictions) == 24


class _SmallBatches(TinyNetwork):
    """Has no memory for more than two images that are trained on."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(images) > 2:
            raise torch.OutOfMemoryError
        return super().forward(images)


def test_also_where_they_are_frozen_as_they_are_then_of_no_batch(
    hospital: Hospital, tmp_path: Path
) -> None:
    small = partial(tiny_encoder, True, _SmallBatches)
    adapted = finetune(hospital, tmp_path, HeadOnly(**SHORT), small)
    assert set(adapted.diagnostics["micro_batch"]) == {2}


def test_with_batch_statistics_it_ends_with_a_micro_batch_that_fits(
    hospital: Hospital, tmp_path: Path
) -> None:
    enough = kept_bytes(True, 2, True)
    with pytest.raises(TrainingError, match="2 fits: set micro_batch to 2"):
        finetune(hospital, tmp_path, full(), limited(enough, batch_statistics=True))
