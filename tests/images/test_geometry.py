import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sonobench.images import Geometry

KINDS = ["squash", "pad_square", "longest_side_pad"]


def picture(height: int, width: int, colour: bool, seed: int = 0) -> npt.NDArray[np.uint8]:
    shape = (height, width, 3) if colour else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def as_published(pixels: npt.NDArray[np.uint8], kind: str, size: int) -> npt.NDArray[np.uint8]:
    """The description of each pipeline, in PIL alone."""
    image = Image.fromarray(pixels)
    if kind == "squash":
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    if kind == "pad_square":
        side = max(image.size)
        square = Image.new(image.mode, (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    scale = size / max(image.size)
    within = (int(image.width * scale + 0.5), int(image.height * scale + 0.5))
    small = image.resize(within, Image.Resampling.BICUBIC)
    border = (0, 0, size - small.width, size - small.height)
    return np.asarray(ImageOps.expand(small, border))


@pytest.mark.parametrize("kind", KINDS)
@given(height=st.integers(20, 90), width=st.integers(20, 90), colour=st.booleans())
def test_a_square_is_exactly_the_published_description(
    kind: str, height: int, width: int, colour: bool
) -> None:
    pixels = picture(height, width, colour)
    square = Geometry(kind, 32).render(pixels)  # type: ignore[arg-type]
    assert (square == as_published(pixels, kind, 32)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_grey_and_its_three_equal_channels_give_the_same_square(kind: str) -> None:
    grey = picture(37, 61, colour=False)
    geometry = Geometry(kind, 48)  # type: ignore[arg-type]
    colour = geometry.render(np.stack([grey] * 3, axis=2))
    assert (colour == geometry.render(grey)[..., None]).all()


def test_an_extreme_strip_keeps_at_least_one_row() -> None:
    assert Geometry("longest_side_pad", 32).render(picture(1, 400, colour=False)).any()
