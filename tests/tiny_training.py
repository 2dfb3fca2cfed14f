"""Fine-tuning in a second: a network of some hundred weights and a hospital of sixty images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from sonobench.adaptation import Adapted, CohortImages, finetune_fold
from sonobench.encoders import Encoder, EncoderCard, Preprocess
from sonobench.images import Geometry, Pack, decode_all
from sonobench.protocol import Augmentation, FullFinetune, Training

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
