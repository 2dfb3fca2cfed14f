"""Random changes of training images: in batches, on their device, the same for the same seed."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

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
    # On the CPU, so that the same views are drawn whatever the device.
    generator = torch.Generator().manual_seed(seed)
    maps = draw_views(len(images), settings, generator).to(images.device)
    grid = affine_grid(maps, [len(images), 1, size, size], align_corners=False)
    values = grid_sample(images.float().div_(255), grid, "bilinear", "zeros", align_corners=False)
    values = _change_intensities(values, settings, generator)
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


def _change_intensities(
    values: Tensor, settings: Augmentation, generator: torch.Generator
) -> Tensor:
    def factor(low: float, high: float) -> Tensor:
        drawn = torch.rand(len(values), generator=generator) * (high - low) + low
        return drawn.view(-1, 1, 1, 1).to(values.device)

    if settings.gamma:
        most = math.log(1 + settings.gamma)
        values = values.pow_(factor(-most, most).exp())
    if settings.contrast:
        mean = values.mean((1, 2, 3), keepdim=True)
        contrast = factor(1 - settings.contrast, 1 + settings.contrast)
        values = values.sub_(mean).mul_(contrast).add_(mean)
    if settings.brightness:
        values = values.mul_(factor(1 - settings.brightness, 1 + settings.brightness))
    if settings.gain:
        depth = torch.linspace(-0.5, 0.5, values.shape[2], device=values.device).view(1, 1, -1, 1)
        values = values.mul_(1 + factor(-settings.gain, settings.gain) * depth)
    if settings.speckle:
        # As large as the images, so drawn where they are; of all channels the same.
        on_device = torch.Generator(values.device).manual_seed(generator.initial_seed())
        noise = torch.randn(
            (len(values), 1, *values.shape[2:]), generator=on_device, device=values.device
        )
        values = values.mul_(1 + factor(0, settings.speckle) * noise)
    return values.clamp_(0, 1)
