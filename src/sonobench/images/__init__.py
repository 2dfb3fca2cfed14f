"""From file to tensor: decoding, geometry, packs. Knows files and pixels, nothing of patients."""

from sonobench.images.appearance import HASH_BITS, Appearance, appearance
from sonobench.images.augment import augment
from sonobench.images.decode import Decoded, UnreadableImage, decode
from sonobench.images.geometry import Geometry, GeometryKind, Interpolation
from sonobench.images.pack import Pack, PackWriter, decode_all, read_index

__all__ = [
    "HASH_BITS",
    "Appearance",
    "Decoded",
    "Geometry",
    "GeometryKind",
    "Interpolation",
    "Pack",
    "PackWriter",
    "UnreadableImage",
    "appearance",
    "augment",
    "decode",
    "decode_all",
    "read_index",
]
