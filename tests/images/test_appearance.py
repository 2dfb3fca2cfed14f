import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from sonobench.images import HASH_BITS, appearance

RNG = np.random.default_rng(0)


def tissue() -> Image.Image:
    """Speckle in the lower half, a dark margin above."""
    pixels = np.zeros((240, 320))
    pixels[80:] = np.clip(RNG.rayleigh(25, (160, 320)), 0, 120)
    return Image.fromarray(pixels.astype(np.uint8))


def measured(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image)


def test_plain_tissue_has_no_marks() -> None:
    looks = appearance(measured(tissue()))
    assert (looks.text_marks, looks.caliper_marks, looks.coloured_share) == (0, 0, 0.0)


def test_text_on_a_dark_margin_is_seen() -> None:
    image = tissue()
    ImageDraw.Draw(image).text((10, 10), "MI 1.2  Gn 5", fill=200, font=ImageFont.load_default(14))
    assert appearance(measured(image)).text_marks >= 3


def test_crosses_of_calipers_are_counted() -> None:
    image = tissue()
    draw = ImageDraw.Draw(image)
    for x, y in ((100, 150), (200, 180)):
        draw.line((x - 4, y, x + 4, y), fill=255)
        draw.line((x, y - 4, x, y + 4), fill=255)
    assert appearance(measured(image)).caliper_marks == 2


def test_coloured_pixels_are_a_share() -> None:
    pixels = np.stack([measured(tissue())] * 3, axis=2)
    pixels[:24] = (255, 200, 0)
    assert appearance(pixels).coloured_share == pytest.approx(0.1)


def test_the_mean_is_of_all_pixels() -> None:
    pixels = np.zeros((10, 10), dtype=np.uint8)
    pixels[:5] = 100
    assert appearance(pixels).mean_intensity == 50


def test_a_hash_has_all_its_bits_as_text() -> None:
    assert len(appearance(measured(tissue())).perceptual_hash) == HASH_BITS / 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (3, 2, 3)])
def test_the_smallest_images_are_measured(shape: tuple[int, ...]) -> None:
    assert appearance(np.full(shape, 200, dtype=np.uint8)).mean_intensity == 200
