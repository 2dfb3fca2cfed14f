"""Every encoder of the catalogue can be fine-tuned: depth groups, freezing, gradients."""

import os
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sonobench.adaptation.blocks import (
    checkpoint_blocks,
    has_batch_statistics,
    parameter_depths,
)
from sonobench.adaptation.classifier import make_classifier
from sonobench.adaptation.parameter_groups import parameter_groups
from sonobench.encoders import Encoder, EncoderError, catalogue, fetalclip, open_encoder, resolve
from sonobench.encoders.registry import architecture
from sonobench.protocol import EncoderEntry, FullFinetune, HeadOnly, Lora, Training

# Each with a side at which the whole architecture is at work, but quickly; None: its own.
ENCODERS: dict[str, int | None] = {
    "efficientnet_lite0": 64,
    "usfm": 64,
    "mofo": None,
    "ultrasam": 64,
    "fetalclip": 56,
    "mobilefetalclip": 64,
    "usf_mae": 64,
    "biomedclip": 64,
    "dinov3": 64,
    "resnet50": 64,
    "efficientnetv2_s": 64,
    "dinov2": 56,
}

# Blocks of transformers (with stem and last norm or projection as depths of their own where timm
# has them so) and stages of networks with batch statistics, as their papers count them.
DEPTHS = {
    "efficientnet_lite0": 8,  # stem, 7 stages and with the last the final convolution
    "usfm": 14,  # 12 blocks, fresh last norm
    "mofo": 41,  # 2 + 4 + 32 + 2 blocks
    "ultrasam": 13,  # 12 blocks, no last norm
    "fetalclip": 25,  # 24 blocks, the projection with the last
    "mobilefetalclip": 6,  # stem, 4 stages, final convolution
    "usf_mae": 13,  # 12 blocks, the last norm with the last
    "biomedclip": 13,
    "dinov3": 13,
    "resnet50": 5,  # stem, 4 stages
    "efficientnetv2_s": 7,  # stem, 6 stages
    "dinov2": 13,
    "open_clip:RN50": 5,
}


def test_the_suite_knows_every_encoder_of_the_catalogue() -> None:
    trainable = {name for name, made in catalogue().items() if made.card.parameters}
    assert ENCODERS.keys() >= trainable


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_rises_from_the_images_to_the_features(name: str) -> None:
    with torch.device("meta"):
        network = architecture(name).build()
    depths = parameter_depths(network)
    assert depths.keys() == {own for own, _ in network.named_parameters()}
    assert sorted(set(depths.values())) == list(range(DEPTHS[name]))
    first = next(name for name, value in network.named_parameters() if value.ndim == 4)
    assert depths[first] == 0


@cache
def _built(name: str) -> Encoder:
    with pytest.MonkeyPatch.context() as patch:
        # Twenty-two of its 24 blocks would be drawn for nothing.
        patch.setitem(fetalclip.CONFIG["vision_cfg"], "layers", 2)
        entry = EncoderEntry(name=f"random:{name}", size=ENCODERS[name])
        encoder, _ = open_encoder(resolve(entry, 0, Path()), "cpu")
    if not has_batch_statistics(encoder.network):
        _shorten(encoder.network)
    for module in encoder.network.modules():
        # Untrained branches that are switched off by a norm of zero pass no gradient.
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
    return encoder


def shortened(name: str) -> Encoder:
    """A random twin with two blocks of every row: the smallest in which all its parts work."""
    built = _built(name)
    return Encoder(deepcopy(built.network), built.card)


def _shorten(module: nn.Module) -> None:
    for child in module.children():
        composite = [inner for inner in child.children() if any(True for _ in inner.children())]
        alike = len({type(inner) for inner in composite}) == 1
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(composite) > 2 and alike:
            del child[2:]
        _shorten(child)


def train_an_epoch(encoder: Encoder, settings: Training) -> tuple[nn.Module, dict[str, bool]]:
    """A few steps; the classifier, and of each parameter whether it had a gradient."""
    classifier = make_classifier(encoder, 3, settings, seed=0).train()
    groups = parameter_groups(classifier, settings)
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    side = encoder.card.preprocess.geometry.size
    generator = torch.Generator().manual_seed(0)
    reached = dict.fromkeys((name for name, _ in classifier.named_parameters()), False)
    # A low-rank update begins with one factor at zero, through which the other is not reached.
    for _ in range(2 if isinstance(settings, Lora) else 1):
        images = torch.randint(0, 256, (2, 1, side, side), generator=generator, dtype=torch.uint8)
        cross_entropy(classifier(images), torch.tensor([0, 1])).backward()
        for name, parameter in classifier.named_parameters():
            gradient = parameter.grad
            reached[name] |= gradient is not None and bool((gradient != 0).any())
        optimizer.step()
        optimizer.zero_grad()
    return classifier, reached


@pytest.mark.parametrize("name", ENCODERS)
def test_full_fine_tuning_reaches_every_tensor(name: str) -> None:
    classifier, reached = train_an_epoch(shortened(name), FullFinetune())
    assert [name for name, there in reached.items() if not there] == []
    assert all(torch.isfinite(parameter).all() for parameter in classifier.parameters())


@pytest.mark.slow
def test_a_training_step_of_every_encoder_keeps_the_heap_whole_without_avx512() -> None:
    # Read when the libraries are loaded, so in a process of its own; glibc checks every block.
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MALLOC_CHECK_": "3"}
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0"}
    test = f"{__file__}::test_full_fine_tuning_reaches_every_tensor"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        env=os.environ | limits | checked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(ENCODERS)} passed" in result.stdout


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, Lora()) for name in ENCODERS), ("resnet50", HeadOnly()), ("usf_mae", HeadOnly())],
)
def test_a_frozen_encoder_stays_as_it_was(name: str, settings: Training) -> None:
    encoder = shortened(name)
    before = {key: value.clone() for key, value in encoder.network.state_dict().items()}
    classifier, reached = train_an_epoch(encoder, settings)
    moving = {key for key, value in classifier.named_parameters() if value.requires_grad}
    assert {key for key, there in reached.items() if there} == moving
    added = ["lora_"] if isinstance(settings, Lora) else []
    assert all(key.startswith("head.") or any(part in key for part in added) for key in moving)
    assert len(moving) > 2 or not added
    # peft puts a wrapper's name into the names of what it wraps.
    after = {
        key.replace(".base_layer", ""): value
        for key, value in encoder.network.state_dict().items()
        if "lora_" not in key
    }
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", ["fetalclip", "usfm", "mofo", "efficientnet_lite0"])
def test_activations_that_are_computed_again_give_the_same_gradients(name: str) -> None:
    found = []
    for checkpointed in (False, True):
        encoder = shortened(name)
        if checkpointed:
            checkpoint_blocks(encoder.network)
        classifier = make_classifier(encoder, 3, FullFinetune(), seed=0).train()
        side = encoder.card.preprocess.geometry.size
        images = torch.randint(
            0, 256, (2, 1, side, side), generator=torch.Generator().manual_seed(0)
        ).to(torch.uint8)
        torch.manual_seed(0)
        classifier(images).square().sum().backward()
        found.append([parameter.grad for parameter in classifier.parameters()])
    for one, two in zip(*found, strict=True):
        assert one is not None
        assert two is not None
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["usfm", "fetalclip", "ultrasam", "mofo", "resnet50"])
def test_biases_norms_tokens_and_positions_do_not_decay(name: str) -> None:
    encoder = shortened(name)
    classifier = make_classifier(encoder, 3, FullFinetune(), seed=0)
    groups = parameter_groups(classifier, FullFinetune(weight_decay=0.3))
    decay = {id(value): group["weight_decay"] for group in groups for value in group["params"]}
    maps = (nn.Linear, nn.Conv2d)
    matrices = {
        id(module.weight) for module in classifier.modules() if isinstance(module, maps)
    } | {
        id(value)
        for key, value in classifier.named_parameters()
        if key.endswith((".in_proj_weight", "network.proj"))
    }
    for _, value in classifier.named_parameters():
        assert decay[id(value)] == (0.3 if id(value) in matrices else 0.0)


def scales(name: str, settings: FullFinetune) -> dict[str, float]:
    classifier = make_classifier(shortened(name), 3, settings, seed=0)
    by_id = {
        id(value): group["scale"]
        for group in parameter_groups(classifier, settings)
        for value in group["params"]
    }
    return {key: by_id[id(value)] for key, value in classifier.named_parameters()}


def test_the_learning_rate_falls_by_block_in_a_transformer() -> None:
    # Patches, 2 blocks; the last norm and the head learn as fast as the last block.
    found = scales("usf_mae", FullFinetune(layer_decay=0.5))
    assert found["head.weight"] == 1
    network = "encoder.network."
    assert found[f"{network}blocks.1.attn.qkv.weight"] == 1
    assert found[f"{network}blocks.0.attn.qkv.weight"] == 0.5
    assert found[f"{network}patch_embed.proj.weight"] == 0.25
    assert found[f"{network}pos_embed"] == 0.25


def test_the_learning_rate_falls_by_stage_in_a_network_with_batch_statistics() -> None:
    found = scales("resnet50", FullFinetune(stage_decay=0.5))
    network = "encoder.network."
    expected = {"layer4.2": 1, "layer4.0": 1, "layer3.0": 0.5, "layer1.0": 0.125}
    assert {key: found[f"{network}{key}.conv1.weight"] for key in expected} == expected
    assert found[f"{network}conv1.weight"] == 0.0625


def test_what_has_no_weights_is_refused() -> None:
    encoder, _ = open_encoder(resolve(EncoderEntry(name="pixel_stats"), 0, Path()), "cpu")
    with pytest.raises(EncoderError, match="pixel_stats: has no parameters"):
        make_classifier(encoder, 3, FullFinetune(), seed=0)
