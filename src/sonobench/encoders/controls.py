"""Controls that every table carries: what an encoder must beat before its number means anything."""

import torch
from torch import Tensor, nn

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord
from sonobench.images import Geometry

_NOTHING = PretrainingRecord("not_listed", "not trained")
_BINS, _GRID = 32, 8


class _PixelStats(nn.Module):
    """Intensity histogram and coarse grid means: what can be read without seeing anatomy."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in 0 … 1 → (B, 96)."""
        grey = images.mean(1)
        bins = (grey * _BINS).long().clamp_(max=_BINS - 1).flatten(1)
        histogram = torch.zeros(len(images), _BINS, device=images.device)
        histogram.scatter_add_(1, bins, torch.ones_like(bins, dtype=histogram.dtype))
        grid = nn.functional.adaptive_avg_pool2d(grey, _GRID).flatten(1)
        return torch.cat([histogram / bins.shape[1], grid], 1)


ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="pixel_stats",
            preprocess=Preprocess(
                Geometry("squash", 224), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
            ),
            dimension=_BINS + _GRID * _GRID,
            parameters=0,
            feature=f"{_BINS}-bin intensity histogram and {_GRID}×{_GRID} grid means of the grey "
            "image",
            family="controls",
            architecture="none",
            citation="none",
            licence="Apache-2.0",
            pretraining={"fetal_planes_db": _NOTHING, "african_planes": _NOTHING},
            control=True,
        ),
        _PixelStats,
        None,
    ),
)
