"""Embedding from a pack against the bare forward pass of the same network on resident tensors.

The bare pass is the limit: the same network in inference mode, on normalised float tensors that
are in memory already, in batches of the same size, into features that stay tensors.
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sonobench.encoders import embed, open_encoder, resolve
from sonobench.images import Geometry, Pack, decode_all
from sonobench.protocol import EncoderEntry

_BATCH = 32


def main(*, small: bool = False) -> dict[str, object]:
    """Ratio of throughputs, median of interleaved repetitions, and growth of memory."""
    # One thread, as a task has by default.
    torch.set_num_threads(1)
    images, repetitions = (64, 3) if small else (192, 5)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, _ = open_encoder(resolve(EncoderEntry(name="efficientnet_lite0"), 0, Path()), device)
    geometry = encoder.card.preprocess.geometry
    with tempfile.TemporaryDirectory() as folder:
        pack = _pack(Path(folder), images, geometry)
        positions = np.arange(images)
        generator = torch.Generator().manual_seed(0)
        resident = torch.randn(images, 3, geometry.size, geometry.size, generator=generator)
        resident = resident.to(device)

        def ours() -> None:
            embed(encoder, pack, positions, micro_batch=_BATCH)

        def bare() -> None:
            with torch.inference_mode():
                for batch in torch.split(resident, _BATCH):
                    encoder.network(batch)
                if device == "cuda":
                    torch.cuda.synchronize()

        ours()
        bare()
        ratios, rates = [], []
        for _ in range(repetitions):
            taken = [_seconds(bare), _seconds(ours)]
            ratios.append(taken[0] / taken[1])
            rates.append(images / taken[1])
        before = _peak_mib()
        embed(encoder, pack, np.tile(positions, 1 if small else 4), micro_batch=_BATCH)
        grown = _peak_mib() - before
    return {
        "images": images,
        "network": "efficientnet_lite0",
        "images_a_second": round(statistics.median(rates), 1),
        "share_of_bare_forward_pass": round(statistics.median(ratios), 3),
        "share_lowest": round(min(ratios), 3),
        "share_highest": round(max(ratios), 3),
        "peak_memory_grown_over_four_times_the_images_mib": round(grown, 1),
    }


def _pack(folder: Path, images: int, geometry: Geometry) -> Pack:
    rng = np.random.default_rng(0)
    files = [folder / f"{n}.png" for n in range(images)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (300, 400), dtype=np.uint8)).save(file)
    decode_all(files, None, {geometry: folder})
    return Pack(folder, geometry)


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
