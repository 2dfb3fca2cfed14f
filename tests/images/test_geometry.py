from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, Resize

from sonobench.images import Geometry, decode

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
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("shape", [(37, 61), (91, 53), (48, 48)])
def test_a_file_of_any_mode_is_rendered_as_the_rgb_image_that_pil_makes_of_it(
    kind: str, mode: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    image = Image.fromarray(picture(*shape, colour=True)).convert(mode)
    if mode in ("LA", "RGBA"):
        # The official pipelines drop alpha; they do not blend.
        image.putalpha(Image.fromarray(picture(*shape, colour=False, seed=1)))
    image.save(tmp_path / "file.png")
    published = np.asarray(Image.open(tmp_path / "file.png").convert("RGB"))
    square = Geometry(kind, 32).render(decode(tmp_path / "file.png").pixels)  # type: ignore[arg-type]
    if square.ndim == 2:
        square = np.stack([square] * 3, axis=2)
    assert (square == as_published(published, kind, 32)).all()


def test_squashing_is_torchvisions_resize_with_antialiasing() -> None:
    pixels = picture(91, 53, colour=True)
    resize = Resize((32, 32), InterpolationMode.BICUBIC, antialias=True)
    assert (
        Geometry("squash", 32).render(pixels) == np.asarray(resize(Image.fromarray(pixels)))
    ).all()


@pytest.mark.parametrize("kind", KINDS)
def test_grey_and_its_three_equal_channels_give_the_same_square(kind: str) -> None:
    grey = picture(37, 61, colour=False)
    geometry = Geometry(kind, 48)  # type: ignore[arg-type]
    colour = geometry.render(np.stack([grey] * 3, axis=2))
    assert (colour == geometry.render(grey)[..., None]).all()


def test_an_extreme_strip_keeps_at_least_one_row() -> None:
    assert Geometry("longest_side_pad", 32).render(picture(1, 400, colour=False)).any()


@pytest.mark.parametrize("shape", [(2, 1000), (1000, 2)])
def test_of_a_very_long_image_one_line_is_left(shape: tuple[int, int]) -> None:
    square = Geometry("longest_side_pad", 50).render(np.full(shape, 200, dtype=np.uint8))
    line = square if shape[0] < shape[1] else square.T
    assert (line[0] == 200).all()
    assert not line[1:].any()
