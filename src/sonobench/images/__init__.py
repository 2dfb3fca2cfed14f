"""From file to tensor: decoding, geometry, packs. Knows files and pixels, nothing of patients.

`augment` and `transfer`, which alone need torch, are modules of their own.
"""

from sonobench.images.appearance import HASH_BITS, Appearance, appearance
from sonobench.images.decode import SUFFIXES, CannotDecode, Decoded, UnreadableImage, decode
from sonobench.images.dicom import is_dicom
from sonobench.images.geometry import Geometry, GeometryKind, Interpolation
from sonobench.images.pack import Pack, PackWriter, decode_all, read_index

__all__ = [
    "HASH_BITS",
    "SUFFIXES",
    "Appearance",
    "CannotDecode",
    "Decoded",
    "Geometry",
    "GeometryKind",
    "Interpolation",
    "Pack",
    "PackWriter",
    "UnreadableImage",
    "appearance",
    "decode",
    "decode_all",
    "is_dicom",
    "read_index",
]
