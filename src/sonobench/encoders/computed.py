"""What identifies code that turns images into features and that is not sonobench's own.

The features of a fixed image are hashed. Whatever changes what a network computes changes them:
pooling beside the backbone, a helper in another file, a library. They are computed in float64 and
rounded to a millionth of the largest, as the same network must be known again elsewhere: orders of
summation, vector instructions (AVX2, AVX-512) and numbers of threads leave differences of some
1e-15, far below that step, where float32 leaves some 1e-7 and no rounding hides them for sure.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sonobench.encoders.card import EncoderCard
from sonobench.encoders.encoder import EncoderError, NormalisedNetwork

# What networks are built with; another version of one may compute something else.
_LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch")
_STEP = 1e-6


def library_versions() -> dict[str, str]:
    """Versions of the libraries that networks are built with.

    Without what says for which device one was compiled (`+cpu`, `+cu128`).
    """
    return {name: metadata.version(name).partition("+")[0] for name in _LIBRARIES}


def features_sha256(network: nn.Module, card: EncoderCard) -> str:
    """SHA-256 of the features of a fixed image, the same on every kind of machine.

    A network that does not run in float64, as it makes float32 tensors by itself, is known by its
    float32 features. Another kind of machine may round those otherwise, and take it for another
    encoder.

    Args:
        network: as of `Encoder`, on the CPU; left as it is but for evaluation mode.
        card: what it is.

    Raises:
        EncoderError: the network does not keep to its card, or fails.
    """
    size = card.preprocess.geometry.size
    image = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8)
    sealed = NormalisedNetwork(network, card).eval()
    # Code of other people may fail with anything. What is no matter of float64 fails again.
    with suppress(Exception), _in_float64(sealed):
        return _digest(*_rounded(_features(sealed, image)))
    try:
        return _digest(b"float32", _features(sealed, image))
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            f"{card.name}: its network failed on an image on the CPU ({error!r})"
        ) from error


def fill_with_fixed_numbers(network: nn.Module) -> None:
    """Give every parameter values that do not depend on how a machine draws random numbers.

    They are whole numbers times a power of two near 1/√(inputs), so that no layer's output
    vanishes.
    """
    rng = np.random.default_rng(0)
    for parameter in network.parameters():
        inputs = max(1, parameter.numel() // max(1, len(parameter) if parameter.ndim else 1))
        scale = 2.0 ** -round(8 + np.log2(inputs) / 2)
        values = scale * rng.integers(-256, 257, tuple(parameter.shape))
        parameter.data = torch.as_tensor(values).to(parameter.dtype)


@torch.inference_mode()
def _features(sealed: NormalisedNetwork, image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    features: npt.NDArray[Any] = sealed(torch.from_numpy(image)).numpy()
    return features


def _rounded(
    features: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Features in steps of the largest, and the logarithm of the largest, as whole numbers."""
    # Admission refuses what is not finite.
    finite = np.nan_to_num(features, nan=0.0, posinf=0.0, neginf=0.0)
    largest = np.abs(finite).max(initial=0.0) or 1.0
    steps = np.round(finite / largest / _STEP).astype("<i8")
    return steps, np.round(np.log([largest]) / _STEP).astype("<i8")


def _digest(*parts: npt.NDArray[Any] | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()


@contextmanager
def _in_float64(network: nn.Module) -> Iterator[None]:
    tensors = [t for t in chain(network.parameters(), network.buffers()) if t.is_floating_point()]
    own = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data
