"""What an image looks like, in five numbers: for finding near duplicates and burned-in graphics."""

from dataclasses import dataclass

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy import ndimage

HASH_BITS = 256
_HASH_SIDE = 16
# Grey values above the surroundings (15×15 pixels) from which something counts as a stroke, and
# what a pixel of a dark surrounding has at most.
_CONTRAST, _DARK = 60, 40
# Difference between channels from which a pixel is coloured; JPEG's own errors stay below.
_COLOURED = 40
# Side of letters, and of the crosses that calipers end in, in pixels.
_LETTER, _CROSS = (4, 24), (7, 17)


@dataclass(frozen=True)
class Appearance:
    """Of one image.

    Attributes:
        perceptual_hash: 256 bits as hexadecimal text; alike images differ in few.
        mean_intensity: of all pixels, 0 to 255.
        text_marks: bright shapes of a letter's size on a dark ground.
        caliper_marks: bright upright crosses, as calipers end in.
        coloured_share: of the pixels, those that are clearly not grey.
    """

    perceptual_hash: str = ""
    mean_intensity: float = 0.0
    text_marks: int = 0
    caliper_marks: int = 0
    coloured_share: float = 0.0


def appearance(pixels: npt.NDArray[np.uint8]) -> Appearance:
    """Measure an image.

    The hash is imagehash's `phash`: the signs of the lowest 16×16 frequencies against their
    median. The search for marks is a simple one: letters over tissue, dotted lines and slanted
    crosses escape it, and some bright spots of speckle are taken for a mark.

    Args:
        pixels: uint8, (H, W) or (H, W, 3).
    """
    image = Image.fromarray(pixels)
    grey = image.convert("L")
    text, calipers = _marks(grey)
    return Appearance(
        perceptual_hash=str(imagehash.phash(image, _HASH_SIDE)),
        mean_intensity=float(np.asarray(grey).mean()),
        text_marks=text,
        caliper_marks=calipers,
        coloured_share=_coloured_share(pixels),
    )


def _coloured_share(pixels: npt.NDArray[np.uint8]) -> float:
    if pixels.ndim == 2:
        return 0.0
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    return float((spread > _COLOURED).mean())


def _marks(grey: Image.Image) -> tuple[int, int]:
    """Letters on dark ground, and upright crosses, among the bright connected strokes."""
    values = np.asarray(grey).astype(np.int16)
    around = np.asarray(grey.filter(ImageFilter.BoxBlur(7)))
    strokes, count = ndimage.label(values > around + _CONTRAST, np.ones((3, 3)))
    if not count:
        return 0, 0
    places = ndimage.find_objects(strokes)
    edges = np.array([[r.start, r.stop, c.start, c.stop] for r, c in places])
    height, width = edges[:, 1] - edges[:, 0], edges[:, 3] - edges[:, 2]
    letter = (height >= _LETTER[0]) & (width >= 2) & (np.maximum(height, width) <= _LETTER[1])
    letter &= _dark_corners(values, edges)
    area = np.bincount(strokes.ravel())[1:]
    cross = (np.abs(height - width) <= 1) & (height >= _CROSS[0]) & (height <= _CROSS[1])
    cross &= 2 * area <= height * width
    text = sum(_rim(values, *places[number]).max() < _DARK for number in np.flatnonzero(letter))
    calipers = sum(
        _is_cross(strokes[places[number]] == number + 1) for number in np.flatnonzero(cross)
    )
    return int(text), calipers


def _dark_corners(
    values: npt.NDArray[np.int16], edges: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether the four corners of the rim are dark: what most shapes in tissue fail at once."""
    rows = np.clip(edges[:, :2] + (-2, 1), 0, values.shape[0] - 1)
    columns = np.clip(edges[:, 2:] + (-2, 1), 0, values.shape[1] - 1)
    corners = values[rows[:, :, None], columns[:, None, :]]
    return np.asarray((corners < _DARK).all(axis=(1, 2)))


def _rim(values: npt.NDArray[np.int16], rows: slice, across: slice) -> npt.NDArray[np.int16]:
    """Pixels two steps around a box."""
    box = values[max(0, rows.start - 2) : rows.stop + 2, max(0, across.start - 2) : across.stop + 2]
    return np.concatenate([box[0], box[-1], box[:, 0], box[:, -1]])


def _is_cross(shape: npt.NDArray[np.bool_]) -> bool:
    """Whether a stroke has a full middle row, a full middle column and empty corners."""
    height, width = shape.shape
    middle = slice(height // 2 - 1, height // 2 + 2)
    across = slice(width // 2 - 1, width // 2 + 2)
    if shape[middle].mean(axis=1).max() < 0.85 or shape[:, across].mean(axis=0).max() < 0.85:
        return False
    corner = max(1, height // 4)
    ends = (slice(None, corner), slice(-corner, None))
    return not any(shape[row, column].any() for row in ends for column in ends)
