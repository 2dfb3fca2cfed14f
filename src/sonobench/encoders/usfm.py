"""USFM: BEiT-B/16 whose blocks share one table of relative positions."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord, Weights
from sonobench.encoders.checkpoint import Dropped
from sonobench.encoders.timm_models import set_size
from sonobench.images import Geometry

_UNSTATED = PretrainingRecord(
    "unknown", "its authors do not publish the composition of the pre-training data set by set"
)

_CARD = EncoderCard(
    name="usfm",
    # timm's mean and deviation for BEiT, 0.5, are not USFM's.
    preprocess=Preprocess(Geometry("squash", 224)),
    dimension=768,
    parameters=85_665_360,
    feature="mean of the patch tokens, then a fresh LayerNorm (the official classifier's)",
    family="usfm",
    architecture="timm beit_base_patch16_224 with one shared table of relative positions",
    citation="Jiao et al., USFM: a universal ultrasound foundation model generalized to tasks and "
    "organs towards label efficient image analysis, Medical Image Analysis 96 (2024) 103202",
    licence="CC BY-NC 4.0",
    terms="non-commercial use only",
    weights=Weights("USFM_latest.pth", origin="drive", where="1KRwXZgYterH895Z8EpXpR1L1eSMMJo4q"),
    pretraining={"fetal_planes_db": _UNSTATED, "african_planes": _UNSTATED},
    note="The file on Google Drive can change and has no published checksum. The classification "
    "command in its own documentation leaves the weights random (its issue 33).",
)


def _build(pooling: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(
        "beit_base_patch16_224",
        num_classes=0,
        global_pool=pooling,
        use_shared_rel_pos_bias=True,
        use_rel_pos_bias=False,
    )
    return network


def _with_fresh_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "fc_norm.weight": torch.ones(768), "fc_norm.bias": torch.zeros(768)}


def _rename(key: str) -> str | Dropped:
    if key == "mask_token":
        return Dropped("mask token of pre-training")
    if key == "rel_pos_bias.relative_position_index":
        return Dropped("positions, computed from the input size")
    return key


def _rename_without_norm(key: str) -> str | Dropped:
    if key in ("norm.weight", "norm.bias"):
        return Dropped("last norm, which the feature does not use")
    return _rename(key)


_SIZES = range(32, 1025, 16)
_CLASS_TOKEN = Architecture(
    replace(_CARD, feature="class token after the last norm"),
    partial(_build, "token"),
    _rename,
    set_size=set_size,
    sizes=_SIZES,
)

ARCHITECTURES = (
    Architecture(
        _CARD,
        partial(_build, "avg"),
        _rename_without_norm,
        prepare=_with_fresh_norm,
        set_size=set_size,
        sizes=_SIZES,
        alternatives={"token": _CLASS_TOKEN},
        signature={"rel_pos_bias.relative_position_bias_table": (732, 12)},
    ),
)
