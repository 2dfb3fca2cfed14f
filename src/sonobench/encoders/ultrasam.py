"""UltraSAM: the image encoder of SAM ViT-B, as its ultrasound detector trained it."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord, Weights
from sonobench.encoders.checkpoint import Dropped
from sonobench.images import Geometry

_PREFIX = "backbone."
# Official part of a name → ours, in this order.
_NAMES = (
    ("patch_embed.projection.", "patch_embed.proj."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
    (".ln1.", ".norm1."),
    (".ln2.", ".norm2."),
    ("layers.", "blocks."),
)
# A global attention block holds a bias of heads × tokens² floats an image: 805 MB at 1024 pixels.
_TOKENS_AT_ONCE = 4096
_PATCH = 16
_NOT_LISTED = PretrainingRecord("not_listed", "its authors name all 43 sets; this is none of them")
_LISTED = PretrainingRecord("listed", "one of the 43 sets that its authors name")


class _UltraSam(nn.Module):
    """The last block's output, averaged over positions."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.encoder: Any = timm.create_model(
            "samvit_base_patch16", num_classes=0, norm_layer=partial(nn.LayerNorm, eps=1e-6)
        )
        # The feature is read before the neck; the head only averages.
        self.encoder.neck = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, 768)."""
        tokens = (images.shape[-1] // _PATCH) ** 2
        parts = torch.split(images, max(1, _TOKENS_AT_ONCE // tokens))
        return torch.cat([self.encoder(part) for part in parts])


def _set_size(network: nn.Module, size: int) -> None:
    assert isinstance(network, _UltraSam)
    encoder = network.encoder
    side = size // _PATCH
    # As the official code resizes it: bicubic, not antialiased. The relative positions are
    # interpolated linearly in the attention itself.
    table = encoder.pos_embed.permute(0, 3, 1, 2)
    resized = interpolate(table, (side, side), mode="bicubic", align_corners=False)
    encoder.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1).contiguous())


def _rename(key: str) -> str | Dropped:
    if not key.startswith(_PREFIX):
        return Dropped("detector around the encoder")
    key = key.removeprefix(_PREFIX)
    if key.startswith(("channel_reduction.", "neck.")):
        return Dropped("neck, which comes after the feature")
    for official, ours in _NAMES:
        key = key.replace(official, ours)
    return f"encoder.{key}"


ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="ultrasam",
            preprocess=Preprocess(Geometry("longest_side_pad", 1024)),
            dimension=768,
            parameters=88_883_456,
            feature="mean of the last block's output, before the neck (the official classifier's)",
            family="ultrasam",
            architecture="timm samvit_base_patch16 with LayerNorm eps 1e-6",
            citation="Meyer et al., UltraSam: a foundation model for ultrasound using large "
            "open-access segmentation datasets (arXiv 2411.16222)",
            licence="CC BY-NC-SA 4.0",
            terms="non-commercial use only, changes under the same licence",
            weights=Weights(
                "UltraSam.pth",
                origin="url",
                where="https://s3.unistra.fr/camma_public/github/ultrasam/UltraSam.pth",
                sha256="d7c223dd03f56b0b77cd246aa3edfae651e99f0ee2dde2e8c50eda7b21fa8a0c",
            ),
            pretraining={
                "fetal_planes_db": _NOT_LISTED,
                "african_planes": _NOT_LISTED,
                "hc18": _LISTED,
                "fh_ps_aop": _LISTED,
                "fass": _LISTED,
                "acouslic": _LISTED,
            },
            note="Trained at 1024 pixels, which cost some twenty times a 224 pixel pass; size 512 "
            "is a fast option, with position tables resized as the official code does.",
        ),
        _UltraSam,
        _rename,
        set_size=_set_size,
        sizes=range(64, 1025, _PATCH),
        signature={"backbone.patch_embed.projection.weight": (768, 3, _PATCH, _PATCH)},
    ),
)
