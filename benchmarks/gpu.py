"""Every encoder of the catalogue on an accelerator against its own bare network, and a small run.

Embedding, in each precision that the device has: images a second through `embed`, from a pack, with
the batch that the device gets by default, against the same network on normalised images that lie on
the device, in batches of the same size. Full fine-tuning: against the same steps on resident images
(`benchmarks.finetune`). Weights are random: speed does not depend on them.

The small run: both synthetic hospitals, an encoder in five folds, from an empty store; what each
fold took is beside what its steps took.

Without CUDA everything is made small, to see that it works; its figures then mean nothing.
"""

import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import sonobench
from benchmarks.finetune import ours_and_limit, packs_of, settings_for, write_images
from sonobench.encoders import (
    Encoder,
    EncoderSpec,
    catalogue,
    default_batch,
    embed,
    lacks,
    open_encoder,
    resolve,
    tf32,
)
from sonobench.images import Pack
from sonobench.protocol import EncoderEntry, Precision

_PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
_SECONDS = 0.4  # of embedding a repetition, about
_BUDGET = 240.0  # seconds after which no further encoder is begun
_REPETITIONS = 3


def main(*, small: bool = False) -> dict[str, object]:
    """Rates of every encoder and what a small run took."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = small or device == "cpu"
    small_run = _small_run(device, small=small)
    print(small_run, file=sys.stderr, flush=True)
    began = time.perf_counter()
    encoders = dict[str, object]()
    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), 8 if small else 256)
        for name in catalogue():
            if name == "pixel_stats":
                continue
            if time.perf_counter() - began > _BUDGET:
                encoders[name] = "not measured: no time was left"
                continue
            entry = EncoderEntry(name=f"random:{name}", size=_small_size(name) if small else None)
            spec = resolve(entry, 0, Path())
            geometry = spec.card.preprocess.geometry
            exact, training = packs_of(files, geometry, Path(folder) / name)
            try:
                opened, _ = open_encoder(spec, device)
                encoders[name] = {
                    precision: _embedding(
                        Encoder(opened.network, opened.card, device, precision),
                        exact,
                        small=small,
                    )
                    for precision in _PRECISIONS
                    if not lacks(device, precision)
                } | {"finetuning": _finetuning(spec, exact, training, device, small=small)}
            except (RuntimeError, ValueError) as error:
                # What fails is a finding too, and the others are worth their minutes.
                encoders[name] = f"failed: {error}"
            print(f"{name}: {encoders[name]}", file=sys.stderr, flush=True)
    return {"figures_mean_something": not small, "encoders": encoders, "small_run": small_run}


def _small_size(name: str) -> int | None:
    """A side at which the whole architecture is at work, but quickly."""
    return {"mofo": None, "fetalclip": 56, "dinov2": 56}.get(name, 64)


def _embedding(encoder: Encoder, pack: Pack, *, small: bool) -> dict[str, float]:
    size = encoder.card.preprocess.geometry.size
    batch = 4 if small else default_batch(size, encoder.device.type)
    resident = torch.randn(batch, 3, size, size, device=encoder.device)
    ours = partial(_through_embed, encoder, pack, batch)
    bare = partial(_bare, encoder, resident)
    # Warm, and long enough to be measured.
    ours(2)
    bare(2)
    count = 2 if small else max(4, round(_SECONDS / max(bare(4) / 4, 1e-6)))
    taken = [(bare(count), ours(count)) for _ in range(1 if small else _REPETITIONS)]
    return {
        "images_a_second": round(count * batch / statistics.median(b for _, b in taken), 1),
        "share_of_bare_network": round(statistics.median(a / b for a, b in taken), 3),
    }


def _through_embed(encoder: Encoder, pack: Pack, batch: int, count: int) -> float:
    positions = np.arange(count * batch) % len(pack)
    return _seconds(lambda: embed(encoder, pack, positions, micro_batch=batch))


@torch.inference_mode()
def _bare(encoder: Encoder, resident: torch.Tensor, count: int) -> float:
    bf16 = encoder.precision == "bf16"

    def passes() -> None:
        autocast = torch.autocast(resident.device.type, torch.bfloat16, bf16)
        with tf32(encoder.precision == "tf32"), autocast:
            for _ in range(count):
                encoder.network(resident)
        if resident.device.type == "cuda":
            torch.cuda.synchronize()

    return _seconds(passes)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _finetuning(
    spec: EncoderSpec, exact: Pack, training: Pack, device: str, *, small: bool
) -> dict[str, object]:
    settings = settings_for(device, spec.card.preprocess.geometry.size, len(training))
    steps = 2 if small else 24
    ours, limit = ours_and_limit(spec, exact, training, settings, device, steps)
    turns = [(ours(), limit()) for _ in range(2 if small else 4)]
    # The first warms memory and kernels.
    rates, limits = zip(*turns[1:], strict=True)
    shares = [mine / other for mine, other in zip(rates, limits, strict=True)]
    return {
        "batch": settings.batch_size,
        "precision": settings.precision,
        "images_a_second": round(statistics.median(rates), 1),
        "share_of_resident_steps": round(statistics.median(shares), 3),
    }


def _small_run(device: str, *, small: bool) -> dict[str, object]:
    """The demo's hospitals, one encoder probed and fine-tuned."""
    overrides = ["evaluation.bootstrap_draws=1000"]
    if small:
        overrides += ["split.folds=2", "adaptations.full_finetune.epochs=1"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        seconds = _seconds(
            lambda: sonobench.run("demo", out, device=device, overrides=overrides, images=False)
        )
        epochs = pd.read_parquet(out / "diagnostics" / "finetune.parquet")
        log = (out / "log.txt").read_text()
        stages = json.loads((out / "manifest.json").read_text())["seconds"]
    rates = epochs.groupby("fold")["images_per_second"].median()
    folds = re.findall(r"full finetune .* · fold (\d+): done, ([\d,]+) images in (.+)", log)
    return {
        "seconds": round(seconds, 1),
        "seconds_of_stages": stages,
        "cores": os.cpu_count(),
        "folds": [
            {
                "images": (images := int(count.replace(",", ""))),
                "took": took,
                "its_steps_took": f"{images / rates[int(fold) - 1]:.1f} s",
            }
            for fold, count, took in folds
        ],
    }
