"""How an image of any size becomes a square of the encoder's size: data, and its rendering."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

GeometryKind = Literal["squash", "pad_square", "longest_side_pad"]
Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]


@dataclass(frozen=True)
class Geometry:
    """Kind and size of the square; interpolation is PIL's, which antialiases.

    squash: both sides to `size`, aspect ratio lost (USFM, MOFO, DINOv3, the CNN baselines).
    pad_square: centred zero padding to a square, then resized (FetalCLIP).
    longest_side_pad: longer side to `size`, zeros at the right and the bottom (UltraSAM).
    """

    kind: GeometryKind
    size: int
    interpolation: Interpolation = "bicubic"

    def __str__(self) -> str:
        return f"{self.kind}-{self.size}-{self.interpolation}"

    def for_training(self) -> "Geometry":
        """The same at 8/7 of the size, so that random crops of it need not be enlarged."""
        return replace(self, size=round(self.size * 8 / 7))

    def render(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Square of (size, size) or (size, size, 3), as many channels as `pixels` has."""
        if self.kind == "squash":
            return self._resize(pixels, self.size, self.size)
        height, width = pixels.shape[:2]
        if self.kind == "pad_square":
            side = max(height, width)
            top, left = (side - height) // 2, (side - width) // 2
            return self._resize(_on_zeros(pixels, side, top, left), self.size, self.size)
        scale = self.size / max(height, width)
        resized = self._resize(
            pixels, max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
        )
        return _on_zeros(resized, self.size, 0, 0)

    def _resize(
        self, pixels: npt.NDArray[np.uint8], width: int, height: int
    ) -> npt.NDArray[np.uint8]:
        method = Image.Resampling[self.interpolation.upper()]
        return np.asarray(Image.fromarray(pixels).resize((width, height), method))


def _on_zeros(
    pixels: npt.NDArray[np.uint8], side: int, top: int, left: int
) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    square = np.zeros((side, side, *pixels.shape[2:]), dtype=np.uint8)
    square[top : top + height, left : left + width] = pixels
    return square
