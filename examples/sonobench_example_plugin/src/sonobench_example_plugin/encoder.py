"""An encoder without weights: how strong edges are, by direction, on a coarse grid."""

import torch
from torch import Tensor, nn

from sonobench.encoders import Architecture, EncoderCard, Preprocess
from sonobench.images import Geometry

_DIRECTIONS, _GRID = 8, 4


class _Edges(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in 0 … 1 → (B, 128)."""
        grey = images.mean(1, keepdim=True)
        down = nn.functional.pad(grey[:, :, 1:] - grey[:, :, :-1], (0, 0, 0, 1))
        right = nn.functional.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
        strength, direction = torch.hypot(down, right), torch.atan2(down, right)
        sector = ((direction / torch.pi + 1) / 2 * _DIRECTIONS).long() % _DIRECTIONS
        maps = [strength * (sector == number) for number in range(_DIRECTIONS)]
        return nn.functional.adaptive_avg_pool2d(torch.cat(maps, 1), _GRID).flatten(1)


EXAMPLE_EDGES = Architecture(
    EncoderCard(
        name="example_edges",
        preprocess=Preprocess(Geometry("squash", 128), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        dimension=_DIRECTIONS * _GRID**2,
        parameters=0,
        feature="edge strength in eight directions, 4×4 grid means",
        family="example",
        architecture="none",
        citation="none",
        licence="Apache-2.0",
    ),
    build=_Edges,
    key_map=None,
)
