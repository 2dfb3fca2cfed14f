"""From a protocol's encoder entry to a card, its weights and, when it is needed, the encoder."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sonobench.encoders import controls, efficientnet_lite0, timm_models
from sonobench.encoders.card import EncoderCard
from sonobench.encoders.checkpoint import (
    KeyMap,
    KeyTable,
    file_sha256,
    load_strictly,
    read_checkpoint,
    state_sha256,
)
from sonobench.encoders.encoder import Encoder, EncoderError
from sonobench.encoders.weights import find_weights
from sonobench.protocol import EncoderEntry
from sonobench.protocol.schema import unknown_key


@dataclass(frozen=True)
class Architecture:
    """How an encoder is built: its card, the bare network, and the names in its official file."""

    card: EncoderCard
    build: Callable[[], nn.Module]
    key_map: KeyMap | None


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
    """Encoders known by name."""
    known = {card.name: _timm(card, timm_models.model_of(card.name)) for card in timm_models.CARDS}
    known["efficientnet_lite0"] = Architecture(
        efficientnet_lite0.CARD, efficientnet_lite0.build, efficientnet_lite0.rename
    )
    known["pixel_stats"] = Architecture(controls.PIXEL_STATS, controls.PixelStats, None)
    return known


def architecture(name: str) -> Architecture:
    """Architecture by catalogue name or `timm:MODEL`.

    Raises:
        EncoderError: unknown, with the nearest known name.
    """
    if name.startswith("timm:"):
        model = timm_models.model_of(name)
        return _timm(timm_models.card_of(model), model)
    known = catalogue()
    if name not in known:
        message = unknown_key(name, list(known)).replace("key", "encoder", 1)
        raise EncoderError(f"{message}, timm:NAME, random:NAME")
    return known[name]


def resolve(entry: EncoderEntry, seed: int, data_root: Path) -> EncoderSpec:
    """Find out everything about an encoder that can be known without loading it.

    Args:
        entry: of the protocol; not one of precomputed embeddings.
        seed: for the weights of a random twin.
        data_root: what a relative `checkpoint` is relative to.

    Raises:
        WeightsMissing: its weights are not at hand.
        EncoderError: unknown name, or a factory that does not work.
    """
    if entry.python is not None:
        network, card = _call_factory(entry.python)
        source = inspect.getsourcefile(type(network))
        weights: dict[str, Any] = {
            "state_sha256": state_sha256(network),
            "source_sha256": file_sha256(Path(source)) if source else None,
        }
        return _spec(entry, card, None, None, weights)
    assert entry.name is not None
    random = entry.name.startswith("random:")
    built = architecture(entry.name.removeprefix("random:"))
    if random:
        if built.card.control:
            raise EncoderError(f"{entry.name}: a control has no weights, so no random twin")
        card = replace(built.card, name=entry.name, weights=None, pretraining={}, control=True)
        return _spec(entry, card, seed, None, {"random_seed": seed})
    if built.key_map is None:
        return _spec(entry, built.card, None, None, {})
    if entry.checkpoint is None:
        file = find_weights(built.card)
    else:
        file = data_root / entry.checkpoint
        if not file.is_file():
            raise EncoderError(f"{entry.label}: checkpoint {file} is not there")
    return _spec(entry, built.card, None, file, {"sha256": file_sha256(file)})


def open_encoder(spec: EncoderSpec, device: str) -> tuple[Encoder, KeyTable | None]:
    """Build the network and load its weights strictly; the key table says what went where.

    Raises:
        CheckpointError: the file does not fit.
    """
    if spec.entry.python is not None:
        network, _ = _call_factory(spec.entry.python)
        return Encoder(network, spec.card, device), None
    built = architecture(str(spec.entry.name).removeprefix("random:"))
    if spec.checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed or 0)
            return Encoder(built.build(), spec.card, device), None
    network = built.build()
    assert built.key_map is not None
    table = load_strictly(network, read_checkpoint(spec.checkpoint), built.key_map)
    return Encoder(network, spec.card, device), table


def _timm(card: EncoderCard, model: str) -> Architecture:
    return Architecture(card, partial(timm_models.build, model), timm_models.key_map(model))


def _spec(
    entry: EncoderEntry,
    card: EncoderCard,
    seed: int | None,
    checkpoint: Path | None,
    weights: dict[str, Any],
) -> EncoderSpec:
    own = card.preprocess.geometry
    geometry = replace(own, kind=entry.geometry or own.kind, size=entry.size or own.size)
    card = replace(card, preprocess=replace(card.preprocess, geometry=geometry))
    identity = {
        "architecture": card.architecture if entry.python is None else entry.python,
        "name": card.name,
        "feature": card.feature,
        "preprocess": asdict(card.preprocess),
        "weights": weights,
    }
    return EncoderSpec(entry.label, entry, card, seed, checkpoint, identity)


def _call_factory(path: str) -> tuple[nn.Module, EncoderCard]:
    module, _, name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EncoderError(
            f"python: {path}: expected package.module:factory that can be imported from the "
            f"working directory or the environment ({error})"
        ) from None
    made = factory()
    match made:
        case (nn.Module() as network, EncoderCard() as card):
            return network, card
    raise EncoderError(
        f"python: {path}: the factory must return (torch.nn.Module, EncoderCard), found "
        f"{type(made).__name__}"
    )
