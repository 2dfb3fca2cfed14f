"""From a protocol's encoder entry to a card, its weights and, when it is needed, the encoder."""

import importlib
import logging
import sys
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sonobench.encoders import (
    biomedclip,
    controls,
    dinov3,
    efficientnet_lite0,
    fetalclip,
    mobilefetalclip,
    mofo,
    open_clip_models,
    timm_models,
    ultrasam,
    usf_mae,
    usfm,
)
from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard
from sonobench.encoders.checkpoint import (
    CheckpointError,
    KeyTable,
    file_sha256,
    load_strictly,
    state_sha256,
)
from sonobench.encoders.checkpoint_file import read_checkpoint
from sonobench.encoders.computed import (
    features_sha256,
    fill_with_fixed_numbers,
    library_versions,
)
from sonobench.encoders.encoder import Encoder, EncoderError
from sonobench.encoders.hints import what_it_seems
from sonobench.encoders.weights import find_weights
from sonobench.protocol import EncoderEntry, Precision
from sonobench.protocol.section import unknown_key

_logger = logging.getLogger("sonobench")

# One module a family, in the order in which they are listed.
_FAMILIES = (
    usfm,
    mofo,
    ultrasam,
    fetalclip,
    mobilefetalclip,
    usf_mae,
    biomedclip,
    dinov3,
    timm_models,
    efficientnet_lite0,
    controls,
)
_LIBRARIES = {"timm": timm_models.architecture, "open_clip": open_clip_models.architecture}


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder of a protocol, resolved but not loaded: plain data that any worker can open.

    Attributes:
        label: its name in tables.
        entry: the protocol's entry.
        card: with the protocol's geometry and size in place.
        seed: of the random twin's weights; None for others.
        checkpoint: file to load; None for random twins, controls and Python factories.
        identity: what determines its features, for the keys of tasks.
    """

    label: str
    entry: EncoderEntry
    card: EncoderCard
    seed: int | None
    checkpoint: Path | None
    identity: dict[str, Any]


def catalogue() -> dict[str, Architecture]:
    """Encoders known by name: sonobench's own, and those that installed packages bring."""
    own = _own()
    return {**own, **_brought(own)}


def _own() -> dict[str, Architecture]:
    return {made.card.name: made for family in _FAMILIES for made in family.ARCHITECTURES}


def _brought(own: dict[str, Architecture]) -> dict[str, Architecture]:
    brought = {}
    for entry in metadata.entry_points(group="sonobench.encoders"):
        made = entry.load()
        if not isinstance(made, Architecture) or made.card.name != entry.name or entry.name in own:
            raise EncoderError(
                f"entry point {entry.value}: expected an Architecture whose card is named "
                f"'{entry.name}', a name that no encoder of sonobench has"
            )
        brought[entry.name] = made
    return brought


def architecture(name: str, feature: str | None = None) -> Architecture:
    """Architecture by catalogue name, `timm:MODEL` or `open_clip:MODEL[:TAG]`.

    Args:
        name: of the encoder, without `random:`.
        feature: one of its alternatives; None for the official one.

    Raises:
        EncoderError: unknown, with the nearest known name.
    """
    library, _, model = name.partition(":")
    if model and library in _LIBRARIES:
        made = _LIBRARIES[library](model)
    else:
        known = catalogue()
        if name not in known:
            message = unknown_key(name, list(known)).replace("key", "encoder", 1)
            raise EncoderError(f"{message}, timm:NAME, open_clip:NAME, random:NAME")
        made = known[name]
    if feature is None:
        return made
    if feature not in made.alternatives:
        others = ", ".join(made.alternatives) or "none besides its own"
        raise EncoderError(f"{name}: unknown feature '{feature}'; it has: {others}")
    return made.alternatives[feature]


def resolve(entry: EncoderEntry, seed: int, data_root: Path) -> EncoderSpec:
    """Find out everything about an encoder that can be known without loading it.

    Args:
        entry: of the protocol; not one of precomputed embeddings.
        seed: for the weights of a random twin.
        data_root: what a relative `checkpoint` is relative to.

    Raises:
        WeightsMissing: its weights are not at hand.
        EncoderError: unknown name or feature, a size that does not fit, or a factory that does not
            work.
    """
    if entry.python is not None:
        network, card = _call_factory(entry.python)
        return _spec(entry, card, None, None, _made(entry, network, card))
    assert entry.name is not None
    random = entry.name.startswith("random:")
    built = architecture(entry.name.removeprefix("random:"), entry.feature)
    native = built.card.preprocess.geometry.size
    if entry.size not in (None, native) and entry.size not in built.sizes:
        sizes = built.sizes
        expected = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]}, {sizes[1]} … {sizes[-1]}"
        raise EncoderError(f"{entry.label}: size {entry.size} does not fit, expected {expected}")
    code = _code_of_package(entry, built, seed)
    if random:
        if built.card.control:
            raise EncoderError(f"{entry.name}: a control has no weights, so no random twin")
        card = replace(built.card, name=entry.name, weights=None, pretraining={}, control=True)
        return _spec(entry, card, seed, None, {"random_seed": seed, **code})
    if built.key_map is None:
        return _spec(entry, built.card, None, None, code)
    if entry.checkpoint is None:
        file = find_weights(built.card)
    else:
        file = data_root / entry.checkpoint
        if not file.is_file():
            raise EncoderError(f"{entry.label}: checkpoint {file} is not there")
    return _spec(entry, built.card, None, file, {"sha256": file_sha256(file), **code})


def open_encoder(
    spec: EncoderSpec, device: str, precision: Precision = "fp32"
) -> tuple[Encoder, KeyTable | None]:
    """Build the network and load its weights strictly; the key table says what went where.

    Raises:
        CheckpointError: the file does not fit, or is another one than when the run began.
        EncoderError: the device has no such precision; the code gives other weights or features
            than when the run began; libraries have other versions.
    """
    _refuse_other_versions(spec)
    if spec.entry.python is not None:
        network, card = _call_factory(spec.entry.python)
        _refuse_another(spec, _made(spec.entry, network, card))
        return Encoder(network, spec.card, device, precision), None
    built = architecture(str(spec.entry.name).removeprefix("random:"), spec.entry.feature)
    table = None
    if spec.checkpoint is None:
        network = _drawn(built, spec.seed or 0)
    else:
        network = built.build()
        assert built.key_map is not None
        tensors = read_checkpoint(spec.checkpoint)
        try:
            table = load_strictly(network, built.prepare(tensors), built.key_map)
        except CheckpointError as error:
            others = [made for made in catalogue().values() if made.card.name != built.card.name]
            seems = what_it_seems(tensors, network.state_dict(), built.key_map, others)
            hint = "".join(f"\n  It seems that {what}." for what in seems)
            raise CheckpointError(f"{spec.label}: {spec.checkpoint}: {error}{hint}") from None
        # After its values were taken: the file that the keys name is the one that was read.
        if file_sha256(spec.checkpoint) != spec.identity["weights"]["sha256"]:
            raise CheckpointError(
                f"{spec.label}: {spec.checkpoint} has changed since the run began; start it again"
            )
    _refuse_another(spec, _code_of_package(spec.entry, built, spec.seed or 0))
    size = spec.card.preprocess.geometry.size
    built.set_size(network, size)
    return Encoder(network, spec.card, device, precision), table


def _spec(
    entry: EncoderEntry,
    card: EncoderCard,
    seed: int | None,
    checkpoint: Path | None,
    weights: dict[str, Any],
) -> EncoderSpec:
    card = _at_size(entry, card)
    identity: dict[str, Any] = {
        "libraries": library_versions(),
        "architecture": card.architecture if entry.python is None else entry.python,
        "name": card.name,
        "feature": card.feature,
        "preprocess": asdict(card.preprocess),
        "weights": weights,
    }
    return EncoderSpec(entry.label, entry, card, seed, checkpoint, identity)


def _look_in_working_directory(path: str) -> None:
    """Let modules be found in the working directory, after all that is installed."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        return
    sys.path.append(here)
    _logger.info("python: %s: modules are looked for in the working directory too: %s", path, here)


def _at_size(entry: EncoderEntry, card: EncoderCard) -> EncoderCard:
    """The card with an entry's geometry and size."""
    own = card.preprocess.geometry
    geometry = replace(own, kind=entry.geometry or own.kind, size=entry.size or own.size)
    return replace(card, preprocess=replace(card.preprocess, geometry=geometry))


def _drawn(built: Architecture, seed: int) -> nn.Module:
    """The network with the weights that it is given when it is built, after a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return built.build()


def _made(entry: EncoderEntry, network: nn.Module, card: EncoderCard) -> dict[str, str]:
    """What a factory made: its weights, and what it computes with them."""
    return {
        "state_sha256": state_sha256(network),
        "features_sha256": features_sha256(network, _at_size(entry, card)),
    }


def _code_of_package(entry: EncoderEntry, built: Architecture, seed: int) -> dict[str, str]:
    """What the code of another package computes, of whose changes its name tells nothing.

    Empty for sonobench's own and for timm's and open_clip's, whose versions are known. `seed` is
    that of a random twin's weights.
    """
    name = str(entry.name).removeprefix("random:")
    if ":" in name or name in _own():
        return {}
    network = _drawn(built, seed if name != entry.name else 0)
    if built.key_map is not None and name == entry.name:
        # Its weights come from a file.
        fill_with_fixed_numbers(network)
    return {"features_sha256": features_sha256(network, built.card)}


def _refuse_other_versions(spec: EncoderSpec) -> None:
    for name, version in library_versions().items():
        if version != (expected := spec.identity["libraries"][name]):
            raise EncoderError(
                f"{spec.label}: {name} {version} is installed where it is opened, and {expected} "
                "where the run began; install one version everywhere and run again"
            )


def _refuse_another(spec: EncoderSpec, found: dict[str, str]) -> None:
    """Refuse an encoder that is not the one that a spec's identity names."""
    expected = spec.identity["weights"]
    if found.get("state_sha256") != expected.get("state_sha256"):
        raise EncoderError(
            f"{spec.label}: the factory {spec.entry.python} gives other weights than when the "
            "run began: let it load them from a file that does not change, or draw them after "
            "torch.manual_seed"
        )
    if found.get("features_sha256") != expected.get("features_sha256"):
        raise EncoderError(
            f"{spec.label}: with the same weights it gives other features than when the run began. "
            "Its code, or something that it draws or reads and that is none of its parameters and "
            "buffers, has changed: run again, or make it a buffer"
        )


def _call_factory(path: str) -> tuple[nn.Module, EncoderCard]:
    _look_in_working_directory(path)
    module, _, name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EncoderError(
            f"python: {path}: expected package.module:factory that can be imported from the "
            f"environment or else the working directory ({error})"
        ) from None
    try:
        # Whatever it draws without a seed of its own shall not be the same by chance.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.seed()
            made = factory()
    # It is the user's code: whatever it raises, the message names it and carries the cause.
    except Exception as error:
        raise EncoderError(f"python: {path}: the factory failed ({error!r})") from error
    match made:
        case (nn.Module() as network, EncoderCard() as card):
            return network, card
    raise EncoderError(
        f"python: {path}: the factory must return (torch.nn.Module, EncoderCard), found "
        f"{type(made).__name__}"
    )
