"""Images of a pack to features, in micro-batches, in memory that does not grow with the dataset."""

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from sonobench.encoders.encoder import Encoder, EncoderError
from sonobench.images import Pack

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def embed(
    encoder: Encoder,
    pack: Pack,
    positions: npt.NDArray[np.int64],
    *,
    micro_batch: int,
    on_progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Features (N, D) of the images at `positions`.

    Raises:
        EncoderError: a feature is not finite (names the encoder and the image's position).
    """
    keep_large_blocks()
    features = np.empty((len(positions), encoder.card.dimension), dtype=np.float32)
    for start, images in _batches(pack, positions, micro_batch):
        batch = encoder.features(images).numpy()
        finite = np.isfinite(batch).all(1)
        if not finite.all():
            bad = positions[start + int(np.flatnonzero(~finite)[0])]
            raise EncoderError(f"{encoder.card.name}: features of image {bad} are not finite")
        features[start : start + len(batch)] = batch
        if on_progress:
            on_progress(len(batch))
    return features


def _batches(
    pack: Pack, positions: npt.NDArray[np.int64], size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    # The next batch is read from the memory map while the network works on this one.
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for start in range(0, len(positions), size):
            ready = coming or reader.submit(pack.batch, positions[start : start + size])
            following = positions[start + size : start + 2 * size]
            coming = reader.submit(pack.batch, following) if len(following) else None
            yield start, torch.from_numpy(ready.result())


@cache
def keep_large_blocks() -> None:
    """Let glibc keep freed memory for the next layer's activations.

    It would give every block of some MiB back to the system and fault it in again: a CPU forward
    pass of a convolutional network took twice as long. Other C libraries have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
