"""Any timm model by name, and the catalogue's encoders for natural images that are timm's own."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, cast, get_args

import torch
from torch import nn

from sonobench.encoders.architecture import ANY_SIZE, Architecture
from sonobench.encoders.card import (
    INCEPTION_MEAN,
    INCEPTION_STD,
    EncoderCard,
    Preprocess,
    PretrainingRecord,
    Weights,
)
from sonobench.encoders.checkpoint import Dropped, KeyMap
from sonobench.encoders.encoder import EncoderError
from sonobench.images import Geometry, Interpolation

_IMAGENET = PretrainingRecord("not_listed", "trained on ImageNet only")
_NATURAL = PretrainingRecord(
    "unknown", "LVD-142M are web images near curated natural-image sets; its list is not published"
)


def hub_file(model: str) -> Weights:
    """timm's file on the Hugging Face hub."""
    return Weights(
        file=f"{model}.safetensors", origin="hub", where=f"timm/{model}", path="model.safetensors"
    )


def set_size(network: nn.Module, size: int) -> None:
    """Fit a timm network to another input side, its position tables resized as timm does.

    Raises:
        EncoderError: it takes one size only.
    """
    model: Any = network
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(size, size))
        return
    config = model.pretrained_cfg
    native = config["input_size"][-1]
    if config.get("fixed_input_size") and size != native:
        raise EncoderError(f"timm:{config['architecture']}: takes images of {native} pixels only")


def architecture(model: str) -> Architecture:
    """`timm:MODEL`, from what timm knows of it.

    Raises:
        EncoderError: timm does not know the model, with the nearest names.
    """
    config = _config(model)
    interpolation = config.get("interpolation", "bicubic")
    if interpolation not in get_args(Interpolation):
        raise EncoderError(f"timm:{model}: unknown interpolation '{interpolation}' in timm's data")
    with torch.random.fork_rng(devices=[]):
        network = _build(model)
    weights = None
    if repository := config.get("hf_hub_id"):
        weights = replace(hub_file(model), where=repository)
    card = EncoderCard(
        name=f"timm:{model}",
        preprocess=Preprocess(
            Geometry("squash", config["input_size"][-1], interpolation),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        ),
        # Some models widen their features in a hidden layer of the head, which stays.
        dimension=cast(int, getattr(network, "head_hidden_size", None) or network.num_features),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        feature="timm's pooled output before the classifier",
        family="timm",
        architecture=f"timm {model}",
        licence=config.get("license") or "not stated",
        weights=weights,
    )
    return _architecture(model, card, _whole_patches(network))


def _whole_patches(network: nn.Module) -> range:
    """Input sides of which every pixel is seen: timm's patches leave out what remains of a side."""
    from timm.layers.patch_embed import PatchEmbed

    first = getattr(network, "patch_embed", None)
    if not isinstance(first, PatchEmbed) or first.dynamic_img_pad:
        return ANY_SIZE
    patch = int(first.patch_size[0])
    return range(patch * -(-ANY_SIZE.start // patch), ANY_SIZE.stop, patch)


def _architecture(
    model: str,
    card: EncoderCard,
    sizes: range = ANY_SIZE,
    signature: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Architecture:
    return Architecture(
        card,
        partial(_build, model),
        _key_map(model),
        set_size=set_size,
        sizes=sizes,
        signature=signature,
    )


def _build(model: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(model, num_classes=0)
    return network


def _key_map(model: str) -> KeyMap:
    # timm's own files have timm's own keys; only the classifier is left out.
    def rename(key: str) -> str | Dropped:
        return Dropped("classifier") if key.startswith(_classifier_prefixes(model)) else key

    return rename


@cache
def _classifier_prefixes(model: str) -> tuple[str, ...]:
    heads = _config(model)["classifier"] or ()
    return tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))


def _config(model: str) -> dict[str, Any]:
    import timm

    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model.split('.', maxsplit=1)[0][:8]}*")[:5])
        hint = f"; timm has {near}, …" if near else ""
        raise EncoderError(f"timm:{model}: timm {timm.__version__} has no such model{hint}")
    config = timm.get_pretrained_cfg(model)
    assert config is not None
    return dict(asdict(config))


# Sizes, means and deviations are those of timm's pretrained_cfg, but for DINOv2's size.
ARCHITECTURES = (
    _architecture(
        "resnet50.a1_in1k",
        EncoderCard(
            name="resnet50",
            preprocess=Preprocess(Geometry("squash", 224)),
            dimension=2048,
            parameters=23_508_032,
            feature="global average of the last map",
            family="timm",
            architecture="timm resnet50.a1_in1k",
            citation="He et al., Deep residual learning for image recognition, CVPR 2016 (arXiv "
            "1512.03385); weights: Wightman et al., ResNet strikes back (arXiv 2110.00476)",
            licence="Apache-2.0",
            weights=hub_file("resnet50.a1_in1k"),
            pretraining={"fetal_planes_db": _IMAGENET, "african_planes": _IMAGENET},
            note="timm:resnet50.tv_in1k and timm:resnet50.tv2_in1k are torchvision's weights.",
        ),
        signature={"layer4.2.conv3.weight": (2048, 512, 1, 1), "fc.weight": (1000, 2048)},
    ),
    _architecture(
        "tf_efficientnetv2_s.in21k_ft_in1k",
        EncoderCard(
            name="efficientnetv2_s",
            preprocess=Preprocess(Geometry("squash", 300), INCEPTION_MEAN, INCEPTION_STD),
            dimension=1280,
            parameters=20_177_488,
            feature="global average of the last map",
            family="timm",
            architecture="timm tf_efficientnetv2_s.in21k_ft_in1k",
            citation="Tan and Le, EfficientNetV2: smaller models and faster training, ICML 2021 "
            "(arXiv 2104.00298)",
            licence="Apache-2.0",
            weights=hub_file("tf_efficientnetv2_s.in21k_ft_in1k"),
            pretraining={"fetal_planes_db": _IMAGENET, "african_planes": _IMAGENET},
            note="timm:efficientnetv2_rw_s.ra2_in1k and timm:tf_efficientnetv2_m.in21k_ft_in1k are "
            "the nearest relatives; the size is not stated where 'EfficientNet-V2' is compared.",
        ),
        signature={"conv_head.weight": (1280, 256, 1, 1)},
    ),
    _architecture(
        "vit_base_patch14_dinov2.lvd142m",
        EncoderCard(
            name="dinov2",
            # Its weights carry positions for 518 pixels; its authors evaluate at 224.
            preprocess=Preprocess(Geometry("squash", 224)),
            dimension=768,
            parameters=86_579_712,
            feature="class token after the last norm",
            family="timm",
            architecture="timm vit_base_patch14_dinov2.lvd142m",
            citation="Oquab et al., DINOv2: learning robust visual features without supervision, "
            "TMLR 2024 (arXiv 2304.07193)",
            licence="Apache-2.0",
            weights=hub_file("vit_base_patch14_dinov2.lvd142m"),
            pretraining={"fetal_planes_db": _NATURAL, "african_planes": _NATURAL},
        ),
        sizes=range(28, 1037, 14),
        signature={"pos_embed": (1, 1370, 768), "blocks.0.ls1.gamma": (768,)},
    ),
)
