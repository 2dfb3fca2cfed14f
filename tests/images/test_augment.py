"""Random views of training images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from sonobench.images import Geometry
from sonobench.images.augment import augment, draw_views
from sonobench.protocol import Augmentation

# Nothing is changed but the size.
NOTHING = Augmentation(
    smallest_crop=1,
    aspect_ratio=1,
    horizontal_flip=0,
    rotation=0,
    brightness=0,
    contrast=0,
    gamma=0,
)


def images(count: int = 4, channels: int = 1, side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def changed(**what: float) -> Augmentation:
    return NOTHING.model_copy(update=what)


def test_views_are_uint8_of_the_asked_size_and_as_many_channels() -> None:
    for channels in (1, 3):
        views = augment(images(channels=channels), 56, Augmentation(), seed=0)
        assert views.dtype == torch.uint8
        assert views.shape == (4, channels, 56, 56)


def test_a_seed_gives_the_same_views_and_another_one_others() -> None:
    everything = Augmentation(speckle=0.2, gain=0.3)
    one, again, other = (augment(images(), 56, everything, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_without_any_change_a_view_is_the_image() -> None:
    assert torch.equal(augment(images(), 64, NOTHING, 0), images())


def test_without_any_change_a_smaller_view_is_the_image_resampled() -> None:
    expected = interpolate(images().float(), (56, 56), mode="bilinear", align_corners=False)
    view = augment(images(), 56, NOTHING, 0).float()
    # Rounded to whole grey levels.
    assert (view - expected).abs().max() <= 0.51


def test_a_flip_is_left_to_right() -> None:
    view = augment(images(), 64, changed(horizontal_flip=1), 0)
    assert torch.equal(view, images().flip(3))


def test_every_image_of_a_batch_has_its_own_view() -> None:
    same = images(1).repeat(4, 1, 1, 1)
    views = augment(same, 56, Augmentation(), 0)
    assert len({view.numpy().tobytes() for view in views}) == 4


def test_a_change_of_intensity_is_the_same_in_all_channels() -> None:
    grey = images(channels=1)
    everything = Augmentation(speckle=0.2, gain=0.3)
    three = augment(grey.repeat(1, 3, 1, 1), 56, everything, 5)
    one = augment(grey, 56, everything, 5)
    assert torch.equal(three, one.repeat(1, 3, 1, 1))


def test_what_a_rotation_brings_in_is_black() -> None:
    white = torch.full((8, 1, 64, 64), 255, dtype=torch.uint8)
    views = augment(white, 64, changed(rotation=45), 0)
    assert (views[:, 0, 32, 32] == 255).all()
    assert (views[:, 0, 0, 0] == 0).any()


@given(seed=st.integers(0, 2**31), smallest=st.floats(0.05, 1), ratio=st.floats(1, 2))
@settings(max_examples=30)
def test_a_crop_lies_within_the_image_and_is_as_large_as_allowed(
    seed: int, smallest: float, ratio: float
) -> None:
    chosen = Augmentation(smallest_crop=smallest, aspect_ratio=ratio, rotation=0)
    maps = draw_views(16, chosen, torch.Generator().manual_seed(seed))
    width, height = maps[:, 0, 0].abs(), maps[:, 1, 1].abs()
    assert (maps[:, 0, 2].abs() + width <= 1 + 1e-6).all()
    assert (maps[:, 1, 2].abs() + height <= 1 + 1e-6).all()
    # A side that the image ends shortens the crop by at most the stretch, √ratio.
    assert (width * height >= smallest / np.sqrt(ratio) - 1e-6).all()


@pytest.mark.parametrize(
    ("what", "low", "high"),
    [("brightness", 0.8, 1.2), ("gain", 0.9, 1.1)],
)
def test_a_factor_stays_within_its_range(what: str, low: float, high: float) -> None:
    grey = torch.full((64, 1, 8, 8), 100, dtype=torch.uint8)
    views = augment(grey, 8, changed(**{what: 0.2}), 0).float() / 100
    # Half a grey level of rounding.
    assert views.min() >= low - 0.005
    assert views.max() <= high + 0.005
    assert views.std() > 0.02


def test_gain_changes_with_depth_alone() -> None:
    grey = torch.full((4, 1, 32, 32), 100, dtype=torch.uint8)
    views = augment(grey, 32, changed(gain=0.5), 0)
    assert (views == views[..., :1]).all()
    assert (views[:, 0, 0, 0] != views[:, 0, -1, 0]).all()


def test_speckle_grows_with_the_signal() -> None:
    steps = torch.tensor([50, 150], dtype=torch.uint8).repeat_interleave(32).repeat(16, 1, 64, 1)
    noise = augment(steps, 64, changed(speckle=0.3), 0).float()
    ratio = noise[..., 40:].std((1, 2, 3)) / noise[..., :24].std((1, 2, 3))
    # Three times the signal, three times the deviation.
    assert ratio.median() == pytest.approx(3, rel=0.1)


def test_the_training_geometry_is_larger_by_an_eighth_of_it() -> None:
    # 224 · 8/7 = 256, 300 · 8/7 = 342.86.
    assert Geometry("squash", 224).for_training() == Geometry("squash", 256)
    assert Geometry("pad_square", 300).for_training().size == 343
