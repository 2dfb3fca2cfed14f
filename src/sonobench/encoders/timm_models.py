"""Any timm model by name, and the natural-image baselines of the catalogue that are timm's own."""

from dataclasses import asdict, replace
from typing import Any, cast, get_args

import timm
import torch
from torch import nn

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
_WEB = PretrainingRecord("unknown", "LVD-1689M are web images whose list is not published")


# Catalogue name → timm's model. Sizes, means and deviations are those of timm's pretrained_cfg.
_MODELS = {
    "resnet50": "resnet50.a1_in1k",
    "efficientnetv2_s": "tf_efficientnetv2_s.in21k_ft_in1k",
    "dinov3": "vit_base_patch16_dinov3.lvd1689m",
}
# timm pools this model's patch tokens by default; the official feature is the class token.
_POOLING: dict[str, Any] = {"vit_base_patch16_dinov3.lvd1689m": {"global_pool": "token"}}


def _hub(model: str) -> Weights:
    return Weights(
        file=f"{model}.safetensors", origin="hub", where=f"timm/{model}", path="model.safetensors"
    )


CARDS = (
    EncoderCard(
        name="resnet50",
        preprocess=Preprocess(Geometry("squash", 224)),
        dimension=2048,
        feature="global average of the last map",
        family="timm",
        architecture="timm resnet50.a1_in1k",
        citation="He et al., CVPR 2016 (arXiv 1512.03385); weights: Wightman et al., ResNet "
        "strikes back (arXiv 2110.00476)",
        licence="Apache-2.0",
        weights=_hub("resnet50.a1_in1k"),
        pretraining={"fetal_planes_db": _IMAGENET, "african_planes": _IMAGENET},
    ),
    EncoderCard(
        name="efficientnetv2_s",
        preprocess=Preprocess(Geometry("squash", 300), INCEPTION_MEAN, INCEPTION_STD),
        dimension=1280,
        feature="global average of the last map",
        family="timm",
        architecture="timm tf_efficientnetv2_s.in21k_ft_in1k",
        citation="Tan and Le, EfficientNetV2, ICML 2021 (arXiv 2104.00298)",
        licence="Apache-2.0",
        weights=_hub("tf_efficientnetv2_s.in21k_ft_in1k"),
        pretraining={"fetal_planes_db": _IMAGENET, "african_planes": _IMAGENET},
    ),
    EncoderCard(
        name="dinov3",
        preprocess=Preprocess(Geometry("squash", 256)),
        dimension=768,
        feature="class token after the last norm",
        family="timm",
        architecture="timm vit_base_patch16_dinov3.lvd1689m",
        citation="Siméoni et al., DINOv3 (arXiv 2508.10104)",
        licence="DINOv3 licence",
        weights=_hub("vit_base_patch16_dinov3.lvd1689m"),
        pretraining={"fetal_planes_db": _WEB, "african_planes": _WEB},
    ),
)


def model_of(name: str) -> str:
    """timm's model name for a catalogue name or `timm:MODEL`."""
    return _MODELS.get(name, name.removeprefix("timm:"))


def card_of(model: str) -> EncoderCard:
    """Card of `timm:MODEL`, from what timm knows of it.

    Raises:
        EncoderError: timm does not know the model, with the nearest names.
    """
    config = _config(model)
    interpolation = config.get("interpolation", "bicubic")
    if interpolation not in get_args(Interpolation):
        raise EncoderError(f"timm:{model}: unknown interpolation '{interpolation}' in timm's data")
    with torch.random.fork_rng(devices=[]):
        dimension = _dimension(build(model))
    weights = None
    if repository := config.get("hf_hub_id"):
        weights = replace(_hub(model), where=repository)
    return EncoderCard(
        name=f"timm:{model}",
        preprocess=Preprocess(
            Geometry("squash", config["input_size"][-1], interpolation),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        ),
        dimension=dimension,
        feature="timm's pooled output before the classifier",
        family="timm",
        architecture=f"timm {model}",
        licence=config.get("license") or "not stated",
        weights=weights,
    )


def build(model: str) -> nn.Module:
    """The network, randomly initialised, pooled, without its classifier."""
    options: dict[str, Any] = _POOLING.get(model, {})
    network: nn.Module = timm.create_model(model, num_classes=0, **options)
    return network


def key_map(model: str) -> KeyMap:
    """timm's own files have timm's own keys; only the classifier is left out."""
    heads = _config(model)["classifier"] or ()
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))

    def rename(key: str) -> str | Dropped:
        return Dropped("classifier") if key.startswith(prefixes) else key

    return rename


def _config(model: str) -> dict[str, Any]:
    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model.split('.', maxsplit=1)[0][:8]}*")[:5])
        hint = f"; timm has {near}, …" if near else ""
        raise EncoderError(f"timm:{model}: timm {timm.__version__} has no such model{hint}")
    config = timm.get_pretrained_cfg(model)
    assert config is not None
    return dict(asdict(config))


def _dimension(network: nn.Module) -> int:
    # Some models widen their features in a hidden layer of the head, which stays.
    return cast(int, getattr(network, "head_hidden_size", None) or network.num_features)
