"""Strict checkpoint reading: every tensor is mapped or dropped by a named rule, or it fails."""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sonobench.encoders.inert_pickle import read_inertly

_WRAPPERS = ("state_dict", "model", "module")


class CheckpointError(ValueError):
    """A checkpoint that does not fit; the message lists the keys."""


@dataclass(frozen=True)
class Dropped:
    """Verdict on a tensor that the encoder does not have, with the rule that allows it."""

    rule: str


KeyMap = Callable[[str], "str | Dropped"]


@dataclass(frozen=True)
class KeyTable:
    """What became of a checkpoint's tensors: official key → ours, or the rule that dropped it."""

    loaded: dict[str, str]
    dropped: dict[str, str]


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file or a PyTorch file, by their keys.

    A wrapper (`state_dict`, `model`, `module`) is opened and a `module.` prefix on every key taken
    off. Nothing of a pickle runs: PyTorch's own restricted reader is used, and where it refuses a
    file for what stands beside the weights, one that makes all of that inert.

    Raises:
        CheckpointError: missing, damaged, holds other objects, or holds no tensors.
    """
    try:
        if file.suffix == ".safetensors":
            content: object = load_file(file)
        else:
            content = _read_pytorch(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
    ) as error:
        raise CheckpointError(
            f"{file}: damaged or not a checkpoint ({str(error).splitlines()[0]})"
        ) from None
    while isinstance(content, dict):
        inner = [key for key in _WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{file}: expected named tensors, found {type(content).__name__}")
    strangers = [
        str(key)
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if strangers:
        raise CheckpointError(
            f"{file}: expected only tensors; these are something else: {_some(strangers)}"
        )
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def _read_pytorch(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return read_inertly(file)


def load_strictly(network: nn.Module, tensors: dict[str, Tensor], key_map: KeyMap) -> KeyTable:
    """Fill every parameter and buffer of `network`; no tensor may be missing or left over.

    BatchNorm's `num_batches_tracked` counters play no part in evaluation and may be absent.

    Args:
        network: what to fill.
        tensors: official key → tensor.
        key_map: official key → our key, or `Dropped`.

    Raises:
        CheckpointError: with the lists of missing, unexpected and mis-shaped keys, and of keys
            with values that are not finite. The network is unchanged then.
    """
    wanted = network.state_dict()
    loaded, dropped, filled = {}, {}, dict[str, Tensor]()
    unexpected, shapes, infinite, twice = [], [], [], []
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
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            infinite.append(key)
        else:
            filled[target] = tensor.to(wanted[target].dtype)
            loaded[key] = target
    named = {*filled, *(target for target in map(key_map, tensors) if isinstance(target, str))}
    missing = [
        key for key in wanted if key not in named and not key.endswith("num_batches_tracked")
    ]
    problems = [
        f"{what} ({len(keys)}): {_some(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("not finite", infinite),
            ("mapped twice", twice),
        )
        if keys
    ]
    if problems:
        raise CheckpointError("does not fit:\n  " + "\n  ".join(problems))
    network.load_state_dict({**wanted, **filled}, strict=True)
    return KeyTable(loaded, dropped)


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


def _some(keys: list[str], most: int = 8) -> str:
    more = f", … and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
