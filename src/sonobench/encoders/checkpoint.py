"""Strict loading of weights: every tensor is mapped or dropped by a named rule, or it fails."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A checkpoint that does not fit; the message lists the keys."""


@dataclass(frozen=True)
class Dropped:
    """Verdict on a tensor that the encoder does not have, with the rule that allows it."""

    rule: str


# Of BatchNorm; it plays no part in evaluation.
_COUNTER = "num_batches_tracked"
KeyMap = Callable[[str], "str | Dropped"]


@dataclass(frozen=True)
class KeyTable:
    """What became of a checkpoint's tensors: official key → ours, or the rule that dropped it."""

    loaded: dict[str, str]
    dropped: dict[str, str]


def load_strictly(network: nn.Module, tensors: dict[str, Tensor], key_map: KeyMap) -> KeyTable:
    """Fill every parameter and buffer of `network`; no tensor may be missing or left over.

    BatchNorm's `num_batches_tracked` counters play no part in evaluation and may be absent.

    Args:
        network: what to fill.
        tensors: official key → tensor.
        key_map: official key → our key, or `Dropped`.

    Raises:
        CheckpointError: with the lists of missing, unexpected and mis-shaped keys, of keys with
            whole numbers in place of real ones or the other way round, and of keys with values
            that are not finite in the network's own type. The network is unchanged then.
    """
    wanted = network.state_dict()
    loaded, dropped, filled = {}, {}, dict[str, Tensor]()
    unexpected, shapes, types, infinite, twice = [], [], [], [], []
    for key, tensor in tensors.items():
        target = key_map(key)
        if isinstance(target, Dropped):
            dropped[key] = target.rule
        elif target not in wanted:
            unexpected.append(key)
        elif target in filled:
            twice.append(f"{key} → {target}")
        elif tensor.shape != wanted[target].shape:
            shapes.append(
                f"{key}: expected {tuple(wanted[target].shape)}, found {tuple(tensor.shape)}"
            )
        elif _of_another_type(tensor, wanted[target]) and not target.endswith(_COUNTER):
            types.append(f"{key}: expected {wanted[target].dtype}, found {tensor.dtype}")
        # After the change of type: what float64 holds can be too large for float32.
        elif not bool(torch.isfinite(converted := tensor.to(wanted[target].dtype)).all()):
            infinite.append(key)
        else:
            filled[target] = converted
            loaded[key] = target
    named = {*filled, *(target for target in map(key_map, tensors) if isinstance(target, str))}
    missing = [key for key in wanted if key not in named and not key.endswith(_COUNTER)]
    problems = [
        f"{what} ({len(keys)}): {some(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of another type", types),
            ("not finite", infinite),
            ("mapped twice", twice),
        )
        if keys
    ]
    if problems:
        raise CheckpointError("does not fit:\n  " + "\n  ".join(problems))
    network.load_state_dict({**wanted, **filled}, strict=True)
    return KeyTable(loaded, dropped)


def _of_another_type(tensor: Tensor, wanted: Tensor) -> bool:
    """Whole numbers for real ones, which are quantised weights without their scale, or real ones
    for an index."""
    return tensor.is_floating_point() != wanted.is_floating_point()


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def state_sha256(network: nn.Module) -> str:
    """SHA-256 of names, shapes, types and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def some(keys: Sequence[str], most: int = 8) -> str:
    """The first of them, and how many more there are."""
    more = f", … and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
