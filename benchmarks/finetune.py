"""Fine-tuning from a pack against its limit and against the common recipe, in one run.

The limit: the same steps of the same network and optimiser on normalised float tensors that are on
the device already. The common recipe: a PNG file an image, decoded and augmented on the CPU by
torchvision in a DataLoader with two workers, float32. Both in the same process and with the same
threads; each gets the settings of memory that ours has.

Every contestant is timed over the same number of steps of the optimiser, in turns, after a warm-up.

Without a GPU all of them are held to one core, loader workers included: folds are trained side by
side, one a core, so a core that loads images for one fold is taken from another.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from sonobench.adaptation.batches import Labelled
from sonobench.adaptation.classifier import Classifier, make_classifier
from sonobench.adaptation.devices import fabric_for
from sonobench.adaptation.parameter_groups import parameter_groups
from sonobench.adaptation.training import Fold, train
from sonobench.encoders import (
    Encoder,
    EncoderSpec,
    default_batch,
    keep_large_blocks,
    lacks,
    memory_format,
    open_encoder,
    resolve,
)
from sonobench.images import Geometry, Pack, decode_all
from sonobench.protocol import EncoderEntry, FullFinetune
from sonobench.steps.finetuning import fresh_copy

_CLASSES = 6
_WORKERS = 2
_SIZE = (660, 960)  # of a PNG, height and width: about that of the published images
# Of random weights: speed does not depend on them, and none needs to be there. With the number of
# times that an epoch has each image: long enough for its beginning and its validation not to count
# for much.
_NETWORKS = {
    "efficientnet_lite0": ("random:efficientnet_lite0", 4),
    "resnet50": ("random:resnet50", 2),
    "vit_base": ("random:usf_mae", 1),
}


class _Files(Dataset[tuple[Tensor, int]]):
    """PNG files, augmented as is common."""

    def __init__(self, files: list[Path], size: int, encoder: Encoder) -> None:
        self._files = files
        preprocess = encoder.card.preprocess
        self._change = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.7, 1), ratio=(0.87, 1.15), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomRotation(15),
                v2.ColorJitter(brightness=0.2, contrast=0.2),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(preprocess.mean, preprocess.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self._files[index]).convert("RGB")
        return self._change(image), index % _CLASSES


def main(*, small: bool = False) -> dict[str, object]:
    """Steps a second of each contestant and their ratios, for every network."""
    torch.set_num_threads(1)
    keep_large_blocks()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = os.sched_getaffinity(0)
    if device == "cpu":
        os.sched_setaffinity(0, {min(cores)})
    names = list(_NETWORKS)[:1] if small else list(_NETWORKS)
    with tempfile.TemporaryDirectory() as folder:
        images = 64 if device == "cpu" else 512
        files = write_images(Path(folder), 16 if small else images)
        found = {name: _measure(name, files, Path(folder), device, small=small) for name in names}
    os.sched_setaffinity(0, cores)
    return {
        "processors": 1 if device == "cpu" else len(cores),
        "image_size": f"{_SIZE[1]}×{_SIZE[0]} PNG",
        "common_recipe": f"PNG, torchvision transforms, DataLoader of {_WORKERS} workers, fp32",
        "networks": found,
    }


def _measure(
    name: str, files: list[Path], folder: Path, device: str, *, small: bool
) -> dict[str, object]:
    encoder_name, times = _NETWORKS[name]
    spec = resolve(EncoderEntry(name=encoder_name, size=64 if small else None), 0, Path())
    geometry = spec.card.preprocess.geometry
    epochs = 1 if small else 4 if device == "cuda" else times
    settings = settings_for(device, geometry.size, len(files))
    batch = settings.batch_size
    packs = packs_of(files, geometry, folder / name)
    steps = epochs * len(files) // batch
    ours, limit = ours_and_limit(spec, *packs, settings, device, steps)
    common_settings = settings.model_copy(update={"precision": "fp32"})
    common_fabric = fabric_for(common_settings, device)
    make = partial(_make, spec, device, settings)
    loader = DataLoader(
        _Files(files, geometry.size, open_encoder(spec, device)[0]),
        batch,
        shuffle=True,
        num_workers=_WORKERS,
        drop_last=True,
        persistent_workers=True,
        pin_memory=device == "cuda",
    )
    common = partial(_from_files, make, common_fabric, common_settings, loader, epochs)
    rates: dict[str, list[float]] = {"ours": [], "limit": [], "common": []}
    contestants: dict[str, Callable[[], float]] = {"ours": ours, "limit": limit, "common": common}
    for turn in range(1 if small else 4):
        for who, call in contestants.items():
            rate = call()
            print(f"{name}, {who}: {rate:.3g} images a second", file=sys.stderr, flush=True)
            # The first turn warms memory and kernels.
            if turn or small:
                rates[who].append(rate)
    ratios = {
        who: [mine / other for mine, other in zip(rates["ours"], rates[who], strict=True)]
        for who in ("limit", "common")
    }
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        ours()
    return {
        "batch": batch,
        "precision": settings.precision,
        "images_a_second": round(statistics.median(rates["ours"]), 2),
        "steps_a_second": round(statistics.median(rates["ours"]) / batch, 3),
        "share_of_limit": round(statistics.median(ratios["limit"]), 3),
        "share_of_limit_each": [round(ratio, 3) for ratio in ratios["limit"]],
        "times_common_recipe": round(statistics.median(ratios["common"]), 2),
        "times_common_recipe_each": [round(ratio, 2) for ratio in ratios["common"]],
        "peak_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20)
        if device == "cuda"
        else None,
    }


def settings_for(device: str, size: int, images: int) -> FullFinetune:
    """One epoch, in as large batches as a device is given here for images of a size."""
    batch = min(32 if device == "cpu" else max(1, default_batch(size, device) // 2), images)
    return FullFinetune(
        epochs=1,
        batch_size=batch,
        micro_batch=batch,
        precision="bf16" if device == "cuda" and not lacks(device, "bf16") else "fp32",
        warmup_epochs=0,
    )


def ours_and_limit(
    spec: EncoderSpec, exact: Pack, training: Pack, settings: FullFinetune, device: str, steps: int
) -> tuple[Callable[[], float], Callable[[], float]]:
    """What trains for some steps, from packs and on resident images: images a second."""
    make = partial(_make, spec, device, settings)
    positions = np.arange(steps * settings.batch_size) % len(training)
    labels = positions % _CLASSES
    fold = Fold(
        Labelled(training, positions, labels),
        Labelled(exact, positions[:1], labels[:1]),
        _CLASSES,
        seed=0,
    )

    def ours() -> float:
        with tempfile.TemporaryDirectory() as scratch:
            trained = train(
                make,
                fold,
                settings,
                device,
                settings.batch_size,
                Path(scratch),
                lambda _: None,
                lambda _: None,
            )
        return float(trained.history[0]["images_per_second"])

    fabric = fabric_for(settings, device)
    return ours, partial(_resident, make, fabric, settings, settings.batch_size, steps)


def _make(spec: EncoderSpec, device: str, settings: FullFinetune) -> Classifier:
    return make_classifier(fresh_copy(spec, device), _CLASSES, settings, seed=0)


def _resident(
    make: Callable[[], Classifier], fabric: Fabric, settings: FullFinetune, batch: int, steps: int
) -> float:
    classifier = make()
    side = classifier.encoder.card.preprocess.geometry.size
    images = torch.randn(batch, 3, side, side, device=fabric.device)
    images = images.to(memory_format=memory_format(classifier, fabric.device))
    labels = torch.arange(batch, device=fabric.device) % _CLASSES
    return _train_bare(classifier, fabric, settings, ((images, labels) for _ in range(steps)))


def _from_files(
    make: Callable[[], Classifier],
    fabric: Fabric,
    settings: FullFinetune,
    loader: "DataLoader[tuple[Tensor, int]]",
    epochs: int,
) -> float:
    batches = (batch for _ in range(epochs) for batch in loader)
    on_device = (tuple(part.to(fabric.device, non_blocking=True) for part in b) for b in batches)
    return _train_bare(make(), fabric, settings, on_device)


def _train_bare(
    classifier: Classifier, fabric: Fabric, settings: FullFinetune, batches: Iterator[Any]
) -> float:
    """Images a second of plain steps on normalised images."""
    # The network behind its normalisation, which these images have had already.
    network: nn.Module = nn.Sequential(classifier.encoder.network, classifier.head)
    layout = memory_format(network, fabric.device)
    network.to(fabric.device).to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(parameter_groups(classifier, settings), lr=1e-4, fused=True)
    count, start = 0, time.perf_counter()
    for images, labels in batches:
        with fabric.autocast() if settings.precision == "bf16" else nullcontext():
            loss = cross_entropy(network(images).float(), labels, label_smoothing=0.1)
        fabric.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        count += len(images)
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def packs_of(files: list[Path], geometry: Geometry, folder: Path) -> tuple[Pack, Pack]:
    """Packs of an encoder's geometry, and of that for training."""
    exact, training = folder / "exact", folder / "training"
    for place in (exact, training):
        place.mkdir(parents=True)
    decode_all(files, None, {geometry: exact, geometry.for_training(): training})
    return Pack(exact, geometry), Pack(training, geometry.for_training())


def write_images(folder: Path, count: int) -> list[Path]:
    """Speckled grey images, which PNG packs about as little as real ones."""
    rng = np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(count)]
    for file in files:
        blobs = rng.random((_SIZE[0] // 60, _SIZE[1] // 60)) * 120
        pixels = np.kron(blobs, np.ones((60, 60))) * rng.rayleigh(0.8, _SIZE)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return files
