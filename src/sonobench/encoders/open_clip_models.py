"""Image towers of open_clip: any of its models by name.

open_clip takes seconds to import, so it is imported where one of its towers is wanted.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from sonobench.encoders import timm_models
from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import CLIP_MEAN, CLIP_STD, EncoderCard, Preprocess, Weights
from sonobench.encoders.checkpoint import Dropped
from sonobench.encoders.encoder import EncoderError
from sonobench.images import Geometry
from sonobench.protocol.section import unknown_key

_TEXT_PREFIXES = ("text.", "transformer.", "token_embedding.", "ln_final.")
_TEXT_KEYS = ("positional_embedding", "text_projection")
_LOSS_KEYS = ("logit_scale", "logit_bias")
_CONSTANTS = ("input_resolution", "context_length", "vocab_size")


def image_tower(config: dict[str, Any]) -> nn.Module:
    """The image tower of an open_clip model, randomly initialised; its text tower is not built.

    Args:
        config: as in open_clip's configuration files; `embed_dim` and `vision_cfg` are used.
    """
    from open_clip.model import _build_vision_tower

    # The public classes build both towers; many a text tower needs another library and a network.
    network: nn.Module = _build_vision_tower(
        config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False)
    )
    return network


def set_size(network: nn.Module, size: int) -> None:
    """Fit an image tower to another input side, its position table resized as open_clip does."""
    from open_clip.transformer import VisionTransformer
    from timm.layers.pos_embed import resample_abs_pos_embed

    if not isinstance(network, VisionTransformer):
        timm_models.set_size(network.get_submodule("trunk"), size)
        return
    patch = network.patch_size[0]
    table = resample_abs_pos_embed(
        network.positional_embedding[None],
        [size // patch, size // patch],
        old_size=list(network.grid_size),
        num_prefix_tokens=1,
    )
    network.positional_embedding = nn.Parameter(table[0])
    network.image_size, network.grid_size = (size, size), (size // patch, size // patch)


def image_tower_key(key: str) -> str | Dropped:
    """open_clip's key → the image tower's."""
    if key.startswith("visual."):
        return key.removeprefix("visual.")
    if key.startswith(_TEXT_PREFIXES) or key in _TEXT_KEYS:
        return Dropped("text tower")
    if key in _LOSS_KEYS:
        return Dropped("scale of the contrastive loss")
    if key in _CONSTANTS:
        return Dropped("constant of the architecture")
    return key


def architecture(name: str) -> Architecture:
    """`open_clip:MODEL` or, with its weights, `open_clip:MODEL:TAG`, as open_clip lists them.

    Raises:
        EncoderError: open_clip has no such model or tag, with the nearest names; or the model's
            images are not square.
    """
    import open_clip

    model, _, tag = name.partition(":")
    if model not in open_clip.list_models():
        message = unknown_key(model, open_clip.list_models()).split("; ")
        near = message[1].split("? ")[0] + "?" if len(message) > 1 and "? " in message[1] else ""
        raise EncoderError(
            f"open_clip:{name}: open_clip {open_clip.__version__} has no model '{model}'. {near}"
        )
    config = open_clip.get_model_config(model)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        raise EncoderError(
            f"open_clip:{name}: no weights '{tag}' for {model}; open_clip lists: {', '.join(tags)}"
        )
    published = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    # Which activation belongs to the weights is a matter of the weights.
    config["quick_gelu"] = published.get("quick_gelu", config.get("quick_gelu", False))
    size = config["vision_cfg"]["image_size"]
    if not isinstance(size, int):
        raise EncoderError(f"open_clip:{name}: takes images of {size}, expected square ones")
    with torch.random.fork_rng(devices=[]):
        network = image_tower(config)
    card = EncoderCard(
        name=f"open_clip:{name}",
        preprocess=Preprocess(
            Geometry("squash", size, published.get("interpolation", "bicubic")),
            mean=published.get("mean", CLIP_MEAN),
            std=published.get("std", CLIP_STD),
        ),
        dimension=config["embed_dim"],
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        feature="image tower's output after the projection, not normalised",
        family="open_clip",
        architecture=f"open_clip {model}",
        weights=_weights(name, published["hf_hub"]) if tag else None,
        note="" if tag else f"weights that open_clip lists: {', '.join(tags) or 'none'}",
    )
    return Architecture(
        card, partial(image_tower, config), image_tower_key, sizes=range(size, size + 1)
    )


def _weights(name: str, hub: str) -> Weights:
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME

    repository, _, file = hub.rpartition("/")
    path = file or HF_SAFE_WEIGHTS_NAME
    suffix = path.rpartition(".")[2]
    return Weights(f"{name.replace(':', '.')}.{suffix}", origin="hub", where=repository, path=path)
