"""DINOv3 ViT-B/16, from timm's file on the hub or from the vendor's own."""

import re

import torch
from torch import Tensor, nn

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord
from sonobench.encoders.checkpoint import Dropped
from sonobench.encoders.timm_models import hub_file, set_size
from sonobench.images import Geometry

_WEB = PretrainingRecord("unknown", "LVD-1689M are web images whose list is not published")
_HUB_MODEL = "vit_base_patch16_dinov3.lvd1689m"
_DEPTH, _WIDTH = 12, 768


def _build() -> nn.Module:
    # timm pools patch tokens by default; the official feature is the class token.
    import timm

    network: nn.Module = timm.create_model(
        "vit_base_patch16_dinov3_qkvb", num_classes=0, global_pool="token"
    )
    return network


def _prepare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query and value biases apart; the key's is masked, so it is none.

    The vendor's file has the three as one. timm's hub file has none, since in this model they are
    all zero.
    """
    if "storage_tokens" not in tensors:
        biases = [f"blocks.{i}.attn.{b}" for i in range(_DEPTH) for b in ("q_bias", "v_bias")]
        return {**dict.fromkeys(biases, torch.zeros(_WIDTH)), **tensors}
    split = {}
    for key, tensor in tensors.items():
        if key.endswith(".qkv.bias") and tensor.shape == (3 * _WIDTH,):
            query, _, value = tensor.chunk(3)
            split[key.replace("qkv.bias", "q_bias")] = query
            split[key.replace("qkv.bias", "v_bias")] = value
        else:
            split[key] = tensor
    return split


def _rename(key: str) -> str | Dropped:
    if key == "mask_token":
        return Dropped("mask token of pre-training")
    if key == "rope_embed.periods":
        return Dropped("rotary periods, computed from the architecture")
    if key.endswith(".qkv.bias_mask"):
        return Dropped("mask of the key bias, which is none here")
    if key == "storage_tokens":
        return "reg_token"
    return re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", key)


ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="dinov3",
            preprocess=Preprocess(Geometry("squash", 256)),
            dimension=_WIDTH,
            parameters=85_659_648,
            feature="class token after the last norm",
            family="dinov3",
            architecture="timm vit_base_patch16_dinov3_qkvb",
            citation="Siméoni et al., DINOv3 (arXiv 2508.10104)",
            licence="DINOv3 licence",
            terms="the DINOv3 licence (https://ai.meta.com/resources/models-and-libraries/"
            "dinov3-license/)",
            weights=hub_file(_HUB_MODEL),
            pretraining={"fetal_planes_db": _WEB, "african_planes": _WEB},
            note="The vendor's own file (dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth, behind a "
            "form) is read as well, as 'checkpoint'.",
        ),
        _build,
        _rename,
        prepare=_prepare,
        set_size=set_size,
        sizes=range(32, 2049, 16),
        signature={"storage_tokens": (1, 4, _WIDTH), "rope_embed.periods": (16,)},
    ),
)
