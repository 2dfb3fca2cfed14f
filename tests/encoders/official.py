"""State dicts in the key names and shapes of the official files, reproducibly filled.

The fill is the one under which the official implementations gave the feature vectors of
`golden/features.json`: normal values from a generator seeded by the key, scaled by kind.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
from torch import nn

from sonobench.encoders import fetalclip
from sonobench.encoders.checkpoint_file import read_checkpoint
from sonobench.encoders.registry import architecture
from sonobench.encoders.weights import find_weights

GOLDEN = Path(__file__).parent / "golden"
Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]


def _generator(key: str) -> np.random.Generator:
    digest = hashlib.sha256(f"0:{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _fill(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    v = _generator(key).standard_normal(shape, dtype=np.float32)
    last = key.rpartition(".")[2]
    if "pos" in key:
        v = np.float32(0.5) * v
    elif len(shape) >= 2:
        v = np.float32(0.03) * v
    elif last == "running_var":
        v = 1 + np.float32(0.05) * np.abs(v)
    elif last in ("weight", "gamma", "gamma_1", "gamma_2"):
        v = 1 + np.float32(0.02) * v
    else:
        v = np.float32(0.02) * v
    return torch.from_numpy(np.asarray(v, dtype=np.float32))


def normalised_input(size: int) -> torch.Tensor:
    """(1, 3, size, size), as it was given to the official networks."""
    image = _generator(f"input:{size}").standard_normal((1, 3, size, size), dtype=np.float32)
    return torch.from_numpy(image)


def golden_feature(entry: str) -> torch.Tensor:
    """What the official network answered to it."""
    return torch.tensor(json.loads((GOLDEN / "features.json").read_text())[entry]["values"])


Renames = Mapping[str, str | Callable[[re.Match[str]], str]]


def shapes(build: Callable[[], nn.Module], names: Renames | None = None) -> Shapes:
    """Keys and shapes of a network's state, its keys rewritten by regular expressions."""
    with torch.device("meta"):
        state = build().state_dict()
    result = {}
    for key, tensor in state.items():
        name = key
        for ours, official in (names or {}).items():
            name = re.sub(ours, official, name)
        result[name] = tuple(tensor.shape)
    return result


def _usfm() -> Shapes:
    return shapes(architecture("usfm", "token").build)


def _mofo() -> Shapes:
    encoder = json.loads((GOLDEN / "mofo_shapes.json").read_text())
    return {f"_backbone_encoder.{key}": tuple(shape) for key, shape in encoder.items()} | {
        "_backbone_decoder.up.weight": (64, 64),
        "text_to_vision.weight": (512, 512),
        "organ_embedding": (9, 512),
    }


def _ultrasam() -> Shapes:
    names = {
        r"^encoder\.": "backbone.",
        r"patch_embed\.proj\.": "patch_embed.projection.",
        r"\.blocks\.": ".layers.",
        r"\.norm([12])\.": r".ln\1.",
        r"\.mlp\.fc1\.": ".ffn.layers.0.0.",
        r"\.mlp\.fc2\.": ".ffn.layers.1.",
    }
    return shapes(architecture("ultrasam").build, names) | {
        "backbone.channel_reduction.0.weight": (256, 768, 1, 1),
        "backbone.channel_reduction.1.weight": (256,),
        "backbone.channel_reduction.1.bias": (256,),
        "backbone.channel_reduction.2.weight": (256, 256, 3, 3),
        "backbone.channel_reduction.3.weight": (256,),
        "backbone.channel_reduction.3.bias": (256,),
        "decoder.layers.0.self_attn.q_proj.weight": (256, 256),
        "bbox_head.cls_branches.0.weight": (1, 256),
    }


def _fetalclip() -> Shapes:
    return shapes(lambda: open_clip.CLIP(**fetalclip.CONFIG))


def _mobilefetalclip() -> Shapes:
    # As timm's table of renamed layers reads, backwards; the blocks, downsamplings and the one
    # position encoding stand in a row.
    names: Renames = {
        r"^stages\.(\d)\.blocks\.": lambda m: f"network.{(0, 2, 4, 7)[int(m[1])]}.",
        r"^stages\.(\d)\.downsample\.proj\.": lambda m: f"network.{(0, 1, 3, 5)[int(m[1])]}.proj.",
        r"^stages\.3\.pos_emb\.pos_enc\.": "network.6.pe.",
        r"\.se\.fc1\.": ".se.reduce.",
        r"\.se\.fc2\.": ".se.expand.",
        r"^final_conv\.": "conv_exp.",
        r"^stem\.": "patch_embed.",
        "conv_kxk": "rbr_conv",
        "conv_scale": "rbr_scale",
        "identity": "rbr_skip",
        "large_conv": "lkb_origin",
        r"\.mlp\.": ".convffn.",
        r"(layer_scale_\d)\.gamma": r"\1",
        r"(layer_scale)\.gamma": r"\1",
        r"^": "image_encoder.model.",
    }
    made = shapes(architecture("mobilefetalclip").build, names)
    del made["image_encoder.model.head.fc.bias"]
    out, width = made.pop("image_encoder.model.head.fc.weight")
    made["image_encoder.model.head.proj"] = (width, out)
    return made | {"text_encoder.embedding.weight": (100, 512), "logit_scale": ()}


def _usf_mae() -> Shapes:
    return shapes(architecture("usf_mae").build) | {
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, 197, 512),
        "decoder_embed.weight": (512, 768),
        "decoder_blocks.0.norm1.weight": (512,),
    }


def _biomedclip() -> Shapes:
    return shapes(architecture("biomedclip").build, {"^": "visual."}) | {
        "text.transformer.embeddings.word_embeddings.weight": (100, 768),
        "text.proj.0.weight": (640, 768),
        "logit_scale": (),
    }


def _dinov3() -> Shapes:
    names = {r"\.gamma_([12])$": r".ls\1.gamma", "^reg_token$": "storage_tokens"}
    made = shapes(architecture("dinov3").build, names)
    for block in range(12):
        attention = f"blocks.{block}.attn"
        del made[f"{attention}.q_bias"], made[f"{attention}.v_bias"]
        made[f"{attention}.qkv.bias"] = (3 * 768,)
    return made | {"mask_token": (1, 768)}


def _lite0() -> Shapes:
    file = find_weights(architecture("efficientnet_lite0").card)
    return {key: tuple(tensor.shape) for key, tensor in read_checkpoint(file).items()}


def _timm(model: str) -> Callable[[], Shapes]:
    return lambda: shapes(lambda: timm.create_model(model))


_SHAPES: dict[str, Callable[[], Shapes]] = {
    "usfm": _usfm,
    "mofo": _mofo,
    "ultrasam": _ultrasam,
    "fetalclip": _fetalclip,
    "mobilefetalclip": _mobilefetalclip,
    "usf_mae": _usf_mae,
    "biomedclip": _biomedclip,
    "dinov3": _dinov3,
    "resnet50": _timm("resnet50.a1_in1k"),
    "efficientnetv2_s": _timm("tf_efficientnetv2_s.in21k_ft_in1k"),
    "dinov2": _timm("vit_base_patch14_dinov2.lvd142m"),
    "efficientnet_lite0": _lite0,
}
ENCODERS = tuple(_SHAPES)


def _computed(name: str) -> Tensors:
    """Tensors of an official file that its architecture computes."""
    if name == "usfm":
        return {
            "mask_token": torch.zeros(1, 1, 768),
            "rel_pos_bias.relative_position_index": torch.zeros(197, 197, dtype=torch.int64),
        }
    if name == "dinov3":
        # The mask is not a number until the model sets it, and may be stored so.
        mask = torch.full((3 * 768,), torch.nan)
        masks = {f"blocks.{block}.attn.qkv.bias_mask": mask for block in range(12)}
        return {"rope_embed.periods": torch.ones(16)} | masks
    return {}


def official_tensors(name: str) -> Tensors:
    """An encoder's official state dict, filled."""
    return {k: _fill(k, shape) for k, shape in _SHAPES[name]().items()} | _computed(name)


def blank_tensors(name: str) -> Tensors:
    """The same without content and without memory, for what keys and shapes alone decide."""
    blank = {k: torch.zeros(()).expand(shape) for k, shape in _SHAPES[name]().items()}
    return blank | _computed(name)
