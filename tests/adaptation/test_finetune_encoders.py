"""Every encoder of the catalogue can be fine-tuned: depth groups, freezing, gradients."""

import os
import subprocess
import sys
from copy import deepcopy
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sonobench.adaptation.blocks import checkpoint_blocks, has_batch_statistics
from sonobench.adaptation.classifier import Classifier, make_classifier
from sonobench.adaptation.parameter_groups import parameter_groups, rate_figures
from sonobench.encoders import (
    Encoder,
    EncoderCard,
    EncoderError,
    NormalisedNetwork,
    Preprocess,
    catalogue,
    fetalclip,
    open_encoder,
    resolve,
)
from sonobench.encoders.registry import architecture
from sonobench.images import Geometry
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

# Levels of learning rate below the head's: what is before the blocks, and blocks as their papers
# count them. The last norm and a projection are of the last block's level, or of the head's.
LEVELS = {
    "efficientnet_lite0": 17,  # stem, 1 + 2 + 2 + 3 + 3 + 4 + 1 blocks
    "usfm": 13,
    "mofo": 41,  # 2 + 4 + 32 + 2 blocks
    "ultrasam": 13,
    "fetalclip": 25,
    "mobilefetalclip": 21,  # stem, 2 + 6 + 10 + 2 blocks
    "usf_mae": 13,
    "biomedclip": 13,
    "dinov3": 13,
    "resnet50": 17,  # stem, 3 + 4 + 6 + 3 blocks
    "efficientnetv2_s": 41,  # stem, 2 + 4 + 4 + 6 + 9 + 15 blocks
    "dinov2": 13,
    "open_clip:RN50": 17,
}
# The module that is called last among the blocks.
LAST_BLOCKS = {
    "efficientnet_lite0": "blocks.6.0",
    "usfm": "blocks.11",
    "mofo": "stage4.1",
    "ultrasam": "encoder.blocks.11",
    "fetalclip": "transformer.resblocks.23",
    "mobilefetalclip": "stages.3.blocks.1",
    "usf_mae": "blocks.11",
    "biomedclip": "trunk.blocks.11",
    "dinov3": "blocks.11",
    "resnet50": "layer4.2",
    "efficientnetv2_s": "blocks.5.14",
    "dinov2": "blocks.11",
    "open_clip:RN50": "layer4.2",
}


def test_the_suite_knows_every_encoder_of_the_catalogue() -> None:
    trainable = {name for name, made in catalogue().items() if made.card.parameters}
    assert ENCODERS.keys() >= trainable
    assert LEVELS.keys() >= trainable


@cache
def whole(name: str) -> Classifier:
    """All of an encoder and a head, without values."""
    with torch.device("meta"):
        made = architecture(name)
        return Classifier(NormalisedNetwork(made.build(), made.card), 3, frozen=False)


def scales(classifier: Classifier, settings: FullFinetune) -> dict[str, float]:
    """Factor on the learning rate of every parameter that an optimiser gets, by name."""
    groups = parameter_groups(classifier, settings)
    given = [(id(value), group["lr_scale"]) for group in groups for value in group["params"]]
    assert len(dict(given)) == len(given), "a parameter is in two groups"
    names = {id(value): name for name, value in classifier.named_parameters()}
    return {names[key].removeprefix("encoder.network."): scale for key, scale in given}


@pytest.mark.parametrize("name", LEVELS)
def test_learning_rates_fall_from_the_head_to_the_same_lowest_at_every_depth(name: str) -> None:
    classifier = whole(name)
    found = scales(classifier, FullFinetune())
    assert len(found) == sum(1 for _ in classifier.parameters())
    levels = sorted(set(found.values()))
    assert len(levels) == LEVELS[name] + 1
    # BEiT's 0.75 over a transformer's 12 blocks.
    assert levels[0] == pytest.approx(0.75**12, rel=1e-12)
    assert levels[-1] == 1
    ratios = [low / high for low, high in pairwise(levels)]
    assert ratios == pytest.approx([0.75 ** (12 / LEVELS[name])] * LEVELS[name], rel=1e-9)
    # The images come first, the head is one level above the last block.
    first = next(key for key, value in classifier.named_parameters() if value.ndim == 4)
    assert found[first.removeprefix("encoder.network.")] == levels[0]
    last = {scale for key, scale in found.items() if key.startswith(f"{LAST_BLOCKS[name]}.")}
    assert last == {levels[-2]}
    assert found["head.weight"] == found["head.bias"] == 1


@pytest.mark.parametrize("name", LEVELS)
def test_layers_after_the_last_block_learn_as_fast_as_it_or_as_the_head(name: str) -> None:
    classifier = whole(name)
    found = scales(classifier, FullFinetune())
    names = [key.removeprefix("encoder.network.") for key, _ in classifier.named_parameters()]
    last = max(position for position, key in enumerate(names) if key.startswith(LAST_BLOCKS[name]))
    after = {found[key] for key in names[last + 1 :]}
    assert after <= {found[names[last]], 1.0}


def test_a_factor_of_the_protocol_holds_from_each_level_to_the_one_below() -> None:
    found = scales(whole("usf_mae"), FullFinetune(layer_decay=0.5))
    expected = {
        "head.weight": 1,
        "norm.weight": 0.5,
        "blocks.11.attn.qkv.weight": 0.5,
        "blocks.10.attn.qkv.weight": 0.25,
        "patch_embed.proj.weight": 0.5**13,
        "pos_embed": 0.5**13,
    }
    assert {key: found[key] for key in expected} == expected


def test_layers_after_timms_blocks_learn_as_a_head_of_timm_would() -> None:
    found = scales(whole("usfm"), FullFinetune(layer_decay=0.5))
    assert found["fc_norm.weight"] == 1
    found = scales(whole("mobilefetalclip"), FullFinetune(layer_decay=0.5))
    assert found["head.fc.weight"] == 1


def test_a_network_without_levels_learns_as_fast_as_its_head() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    card = EncoderCard("flat", Preprocess(Geometry("squash", 16)), dimension=4)
    classifier = Classifier(NormalisedNetwork(network, card), 3, frozen=False)
    assert set(scales(classifier, FullFinetune()).values()) == {1.0}


@pytest.mark.parametrize(("name", "least"), [("mofo", 0.4), ("fetalclip", 0.3)])
def test_the_share_of_parameters_that_hardly_learn_is_counted(name: str, least: float) -> None:
    classifier = whole(name)
    assert rate_figures(parameter_groups(classifier, FullFinetune())) == {
        "lowest_rate": pytest.approx(0.75**12),
        "share_below_1_percent": 0.0,
    }
    # 0.75 a level, whatever the depth: 16 levels below the head it is 1 %.
    fixed = FullFinetune(layer_decay=0.75)
    figures = rate_figures(parameter_groups(classifier, fixed))
    assert figures["lowest_rate"] == 0.75 ** LEVELS[name]
    found = scales(classifier, fixed)
    sizes = {
        key.removeprefix("encoder.network."): value.numel()
        for key, value in classifier.named_parameters()
    }
    slow = sum(size for key, size in sizes.items() if found[key] <= 0.75**17)
    assert figures["share_below_1_percent"] == slow / sum(sizes.values()) > least


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


@pytest.mark.parametrize("name", ENCODERS)
def test_biases_norms_tokens_and_positions_do_not_decay(name: str) -> None:
    classifier = whole(name)
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


def test_what_has_no_weights_is_refused() -> None:
    encoder, _ = open_encoder(resolve(EncoderEntry(name="pixel_stats"), 0, Path()), "cpu")
    with pytest.raises(EncoderError, match="pixel_stats: has no parameters"):
        make_classifier(encoder, 3, FullFinetune(), seed=0)
