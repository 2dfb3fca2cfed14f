"""Images of a pack to features, in micro-batches, in memory that does not grow with the dataset."""

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from sonobench.encoders.encoder import Encoder, EncoderError
from sonobench.images import Pack

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

# Images a forward pass. An accelerator is kept busy by more than a core is; beyond this size of
# image fewer do, and their activations would not fit.
_CPU_BATCH = 32
_CUDA_BATCH, _CUDA_SIDE = 128, 256
# Batches that are read before the network wants them.
_READ_AHEAD = 2


def default_batch(size: int, device: str) -> int:
    """Images a forward pass, of `size` pixels a side, that keep a device busy."""
    if device == "cpu":
        return _CPU_BATCH
    return max(1, min(_CUDA_BATCH, _CUDA_BATCH * _CUDA_SIDE**2 // size**2))


@torch.inference_mode()
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
    # They stay on the device to the end: fetching each batch's would let it idle meanwhile.
    features = torch.empty((len(positions), encoder.card.dimension), device=encoder.device)
    pinned = encoder.device.type == "cuda"
    for start, images in _batches(pack, positions, micro_batch, pinned=pinned):
        features[start : start + len(images)] = encoder.features_on_device(images)
        if on_progress:
            on_progress(len(images))
    found: npt.NDArray[np.float32] = features.cpu().numpy()
    finite = np.isfinite(found).all(1)
    if not finite.all():
        bad = positions[int(np.flatnonzero(~finite)[0])]
        raise EncoderError(f"{encoder.card.name}: features of image {bad} are not finite")
    return found


def _batches(
    pack: Pack, positions: npt.NDArray[np.int64], size: int, *, pinned: bool
) -> Iterator[tuple[int, torch.Tensor]]:
    """Batches of images and where each begins; read while the network works on those before."""

    def read(start: int) -> torch.Tensor:
        images = torch.from_numpy(pack.batch(positions[start : start + size]))
        # From pinned memory the copy to the device does not wait for what the device still does.
        return images.pin_memory() if pinned else images

    coming = deque[tuple[int, "Future[torch.Tensor]"]]()
    with ThreadPoolExecutor(1) as reader:
        for start in range(0, len(positions), size):
            coming.append((start, reader.submit(read, start)))
            if len(coming) > _READ_AHEAD:
                first, ready = coming.popleft()
                yield first, ready.result()
        while coming:
            first, ready = coming.popleft()
            yield first, ready.result()


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
