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


# What counts as a mark, at its limits. A bar of two pixels stands for a letter.


def bar(height: int, width: int = 2) -> npt.NDArray[np.uint8]:
    pixels = np.zeros((100, 120), dtype=np.uint8)
    pixels[40 : 40 + height, 50 : 50 + width] = 200
    return pixels


@pytest.mark.parametrize(
    ("height", "width", "marks"), [(3, 2, 0), (4, 2, 1), (24, 2, 1), (25, 2, 0), (10, 1, 0)]
)
def test_a_letter_is_4_to_24_pixels_high_and_at_least_2_wide(
    height: int, width: int, marks: int
) -> None:
    assert appearance(bar(height, width)).text_marks == marks


@pytest.mark.parametrize(("width", "marks"), [(24, 1), (25, 0)])
def test_a_letter_is_at_most_24_pixels_wide(width: int, marks: int) -> None:
    assert appearance(bar(4, width)).text_marks == marks


@pytest.mark.parametrize(("steps", "marks"), [(1, 1), (2, 0), (3, 1)])
@pytest.mark.parametrize("side", ["left", "right", "above", "below", "corner"])
def test_what_is_two_steps_around_a_letter_must_be_dark(side: str, steps: int, marks: int) -> None:
    places = {
        "left": (45, 50 - steps),
        "right": (45, 51 + steps),
        "above": (40 - steps, 51),
        "below": (49 + steps, 51),
        "corner": (40 - steps, 50 - steps),
    }
    pixels = bar(10)
    pixels[places[side]] = 40  # the least that is not dark, and no stroke
    assert appearance(pixels).text_marks == marks
    pixels[places[side]] = 39
    assert appearance(pixels).text_marks == 1


def cross(arm: int) -> npt.NDArray[np.uint8]:
    pixels = np.zeros((100, 120), dtype=np.uint8)
    pixels[50, 60 - arm : 60 + arm + 1] = 255
    pixels[50 - arm : 50 + arm + 1, 60] = 255
    return pixels


@pytest.mark.parametrize(("arm", "marks"), [(2, 0), (3, 1), (8, 1), (9, 0)])
def test_a_caliper_is_7_to_17_pixels_wide(arm: int, marks: int) -> None:
    assert appearance(cross(arm)).caliper_marks == marks


@pytest.mark.parametrize("turned", [False, True])
def test_two_strokes_that_miss_each_other_on_a_third_are_no_caliper(turned: bool) -> None:
    pixels = np.zeros((100, 120), dtype=np.uint8)
    pixels[50, 56:65] = 255
    pixels[46:50, 58] = pixels[51:55, 62] = 255
    looks = appearance(pixels.T if turned else pixels)
    assert looks.caliper_marks == 0


@pytest.mark.parametrize("corner", [(47, 57), (47, 63), (53, 57), (53, 63)])
def test_a_cross_with_a_filled_corner_is_no_caliper(corner: tuple[int, int]) -> None:
    pixels = cross(3)
    row, column = corner
    pixels[row, min(column, 60) : max(column, 60) + 1] = 255
    assert appearance(pixels).caliper_marks == 0


@pytest.mark.parametrize(("spread", "share"), [(40, 0.0), (41, 1.0)])
def test_channels_that_differ_by_more_than_40_are_colour(spread: int, share: float) -> None:
    pixels = np.full((8, 8, 3), 100, dtype=np.uint8)
    pixels[..., 1] += spread
    assert appearance(pixels).coloured_share == share


@pytest.mark.parametrize(("value", "marks"), [(60, 0), (90, 1)])
def test_a_stroke_is_brighter_than_what_is_around_by_more_than_60(value: int, marks: int) -> None:
    pixels = (bar(10) > 0).astype(np.uint8) * value
    assert appearance(pixels).text_marks == marks
