"""CSWin Transformer: attention in a cross of horizontal and vertical stripes.

Dong et al., CSWin Transformer: a general vision transformer backbone with cross-shaped windows,
CVPR 2022 (arXiv 2107.00652). Maps are (B, H, W, C) throughout.
"""

from torch import Tensor, cat, nn
from torch.nn.functional import scaled_dot_product_attention


class StripeAttention(nn.Module):
    """Self-attention within stripes, with locally-enhanced positional encoding (section 3.2).

    Args:
        dim: channels.
        heads: that share them.
        stripe: height and width of a stripe; both divide the map's.
    """

    def __init__(self, dim: int, heads: int, stripe: tuple[int, int]) -> None:
        super().__init__()
        self.heads = heads
        self.stripe = stripe
        # Named as in published checkpoints: the depthwise convolution of the values.
        self.get_v = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, H, W, C) each → (B, H, W, C)."""
        batch, height, width, channels = value.shape
        rows, columns = self.stripe
        down, across = height // rows, width // columns

        def stripes(maps: Tensor) -> Tensor:
            cut = maps.reshape(batch, down, rows, across, columns, channels)
            return cut.transpose(2, 3).reshape(-1, rows, columns, channels)

        def by_head(maps: Tensor) -> Tensor:
            heads = stripes(maps).reshape(-1, rows * columns, self.heads, channels // self.heads)
            return heads.transpose(1, 2)

        attended = scaled_dot_product_attention(by_head(query), by_head(key), by_head(value))
        # Equation 7: attention plus the convolved values, each stripe by itself.
        position = self.get_v(stripes(value).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out = attended.transpose(1, 2).reshape(-1, rows, columns, channels) + position
        joined = out.reshape(batch, down, across, rows, columns, channels).transpose(2, 3)
        whole: Tensor = joined.reshape(batch, height, width, channels)
        return whole


class _Mlp(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(maps)))
        return out


class CrossBlock(nn.Module):
    """Cross-shaped attention and a perceptron, each with its norm before it (equation 8).

    Half of the heads look along vertical, half along horizontal stripes. Where a stripe is as wide
    as the map, both would be the whole map: then all heads look at it together.

    Args:
        dim, heads: of the block.
        side: of the square map.
        stripe: width of a stripe.
        mlp_ratio: hidden over outer width of the perceptron.
    """

    def __init__(self, dim: int, heads: int, side: int, stripe: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        shapes = [(side, side)] if stripe == side else [(side, stripe), (stripe, side)]
        branches = len(shapes)
        self.attns = nn.ModuleList(
            StripeAttention(dim // branches, heads // branches, shape) for shape in shapes
        )
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim, mlp_ratio)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        parts = self.qkv(self.norm1(maps)).chunk(3, dim=-1)
        shares = zip(*(part.chunk(len(self.attns), dim=-1) for part in parts), strict=True)
        attended = [attn(*share) for attn, share in zip(self.attns, shares, strict=True)]
        maps = maps + self.proj(cat(attended, dim=-1))
        out: Tensor = maps + self.mlp(self.norm2(maps))
        return out


class Merge(nn.Module):
    """Convolution that halves the map, then a norm over channels (section 3.3)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H/2, W/2, out_dim)."""
        out: Tensor = self.norm(self.conv(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return out


def stage(
    dim: int, heads: int, depth: int, side: int, stripe: int, mlp_ratio: int = 4
) -> nn.Sequential:
    """Blocks at one resolution."""
    return nn.Sequential(*(CrossBlock(dim, heads, side, stripe, mlp_ratio) for _ in range(depth)))
