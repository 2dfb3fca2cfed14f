"""Random changes of training images: in batches, on their device, the same for the same seed."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from sonobench.images.transfer import to_device
from sonobench.protocol import Augmentation


def augment(images: Tensor, size: int, settings: Augmentation, seed: int) -> Tensor:
    """Random views (B, C, size, size) uint8 of images (B, C, S, S) uint8, S > size as a rule.

    Crop, flip and rotation are one resampling, bilinear; S of 8/7 of the size keeps crops from
    being enlarged. What a rotation brings in from outside is black, as around a scan. One and the
    same intensity change is for all channels.

    Args:
        images: on the device where the work is to be done.
        size: of the views.
        settings: what is drawn from which range.
        seed: what is drawn.
    """
    # On the CPU, so that the same views are drawn whatever the device; and copied there at once.
    generator = torch.Generator().manual_seed(seed)
    maps = draw_views(len(images), settings, generator)
    names, factors = _draw_factors(len(images), settings, generator)
    drawn = to_device(torch.cat([maps.flatten(1), factors], 1), images.device)
    grid = affine_grid(
        drawn[:, :6].view(-1, 2, 3), [len(images), 1, size, size], align_corners=False
    )
    values = grid_sample(images.float().div_(255), grid, "bilinear", "zeros", align_corners=False)
    by_name = dict(zip(names, drawn[:, 6:].T.reshape(-1, len(images), 1, 1, 1), strict=True))
    _change_intensities(values, by_name, seed)
    return values.mul_(255).round_().to(torch.uint8)


def draw_views(count: int, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Crops of random area, shape and place, flipped and rotated: (B, 2, 3).

    Each maps a position in the view to one in the image, both from -1 to 1 (`affine_grid`'s).
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    area = uniform(settings.smallest_crop, 1)
    stretch = uniform(-1, 1).mul(math.log(settings.aspect_ratio)).exp().sqrt()
    # Half sides of the crop; it never leaves the image.
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    flip = 1 - 2 * (torch.rand(count, generator=generator) < settings.horizontal_flip).float()
    angle = uniform(-1, 1) * math.radians(settings.rotation)
    cosine, sine = angle.cos(), angle.sin()
    # Output position → flipped → scaled to the crop → turned about its centre → moved there.
    rows = [
        torch.stack([cosine * width * flip, -sine * height, x], 1),
        torch.stack([sine * width * flip, cosine * height, y], 1),
    ]
    return torch.stack(rows, 1)


def _draw_factors(
    count: int, settings: Augmentation, generator: torch.Generator
) -> tuple[list[str], Tensor]:
    """What the intensities of each image are changed by, for the changes that there are: (B, F)."""
    contrast, brightness = settings.contrast, settings.brightness
    ranges = {
        "gamma": (-math.log(1 + settings.gamma), math.log(1 + settings.gamma)),
        "contrast": (1 - contrast, 1 + contrast),
        "brightness": (1 - brightness, 1 + brightness),
        "gain": (-settings.gain, settings.gain),
        "speckle": (0.0, settings.speckle),
    }
    names = [name for name in ranges if getattr(settings, name)]
    drawn = [torch.empty(count, 0)]
    for name in names:
        low, high = ranges[name]
        factor = torch.rand(count, 1, generator=generator) * (high - low) + low
        drawn.append(factor.exp() if name == "gamma" else factor)
    return names, torch.cat(drawn, 1)


def _change_intensities(values: Tensor, factors: dict[str, Tensor], seed: int) -> None:
    """Change (B, C, H, W) in 0 … 1 in place, by factors (B, 1, 1, 1)."""
    if "gamma" in factors:
        values.pow_(factors["gamma"])
    if "contrast" in factors:
        mean = values.mean((1, 2, 3), keepdim=True)
        values.sub_(mean).mul_(factors["contrast"]).add_(mean)
    if "brightness" in factors:
        values.mul_(factors["brightness"])
    if "gain" in factors:
        depth = torch.linspace(-0.5, 0.5, values.shape[2], device=values.device).view(1, 1, -1, 1)
        values.mul_(1 + factors["gain"] * depth)
    if "speckle" in factors:
        # As large as the images, so drawn where they are; of all channels the same.
        on_device = torch.Generator(values.device).manual_seed(seed)
        noise = torch.randn(
            (len(values), 1, *values.shape[2:]), generator=on_device, device=values.device
        )
        values.mul_(1 + factors["speckle"] * noise)
    values.clamp_(0, 1)
