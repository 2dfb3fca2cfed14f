"""What identifies code that turns images into features and that is not sonobench's own."""

import hashlib
from importlib import metadata

import numpy as np
import torch
from torch import nn

from sonobench.encoders.card import EncoderCard
from sonobench.encoders.encoder import Encoder

# What networks are built with; another version of one may compute something else.
_LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch")
_IMAGES = 2


def library_versions() -> dict[str, str]:
    """Versions of the libraries that networks are built with."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def features_sha256(network: nn.Module, card: EncoderCard) -> str:
    """SHA-256 of the features of fixed images, computed on the CPU with one thread.

    Whatever changes what a network computes changes it: pooling beside the backbone, a helper in
    another file, a library. The same on machines of one kind; another kind may round otherwise,
    and then counts as another encoder.

    Raises:
        EncoderError: the network does not keep to its card.
    """
    size = card.preprocess.geometry.size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_IMAGES, 1, size, size), dtype=np.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        features = Encoder(network, card).features(torch.from_numpy(images))
    finally:
        torch.set_num_threads(threads)
    return hashlib.sha256(features.numpy().tobytes()).hexdigest()
