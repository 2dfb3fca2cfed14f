"""Hostile checkpoints: damaged files of every format, and whole ones that are no weights."""

import io
import json
import logging
import pickle
import struct
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from benchmarks.fuzz_cases import Tally, damaged, many
from sonobench.encoders import CheckpointError
from sonobench.encoders.checkpoint import load_strictly
from sonobench.encoders.checkpoint_file import read_checkpoint


class _Stranger:
    """An object beside the weights; PyTorch's restricted reader refuses a file for it."""


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


_STATE = {key: value.clone() for key, value in _network().state_dict().items()}


@dataclass(frozen=True)
class _File:
    """A file as bytes.

    Attributes:
        kind: in the figures.
        content: what is in it.
        verdict: `read` or `refused`; empty where either will do.
        checked: whether it has checksums, so that what is read must be the weights.
    """

    kind: str
    content: bytes
    verdict: str
    checked: bool


@st.composite
def _files(draw: st.DrawFn) -> _File:
    if draw(st.integers(0, 2)) == 0:
        kind = draw(st.sampled_from(sorted(_strange())))
        if draw(st.integers(0, 3)) == 0:
            return _File(kind, _strange()[kind], "refused", False)
        return _File(f"{kind} damaged", draw(damaged(_strange()[kind])), "", False)
    kind = draw(st.sampled_from(sorted(_good())))
    checked = kind.startswith("zip")
    if draw(st.integers(0, 9)) == 0:
        return _File(kind, _good()[kind], "read", True)
    content = draw(st.one_of(damaged(_good()[kind]), _flipped(_good()[kind])))
    return _File(f"{kind} damaged", content, "", checked)


@st.composite
def _flipped(draw: st.DrawFn, content: bytes) -> bytes:
    """One bit of the bytes changed: most often one of a weight."""
    place, bit = draw(st.integers(0, len(content) - 1)), draw(st.integers(0, 7))
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def torment_checkpoints(count: int) -> dict[str, object]:
    """Files through the reader, and what it reads into a network."""
    tally, silent = Tally(), logging.getLogger("sonobench")
    level = silent.level
    silent.setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Of what a file is its name says nothing.
        paths = [Path(scratch) / name for name in ("weights.pth", "weights.safetensors")]

        @many(count)
        @given(_files(), st.sampled_from(paths))
        def torment(file: _File, path: Path) -> None:
            path.write_bytes(file.content)
            network = _network()
            with tally.one(file.kind):
                try:
                    load_strictly(network, read_checkpoint(path), lambda key: key)
                except CheckpointError:
                    assert file.verdict != "read", "a whole file is refused"
                    assert _equal(network), "a network is changed by what is refused"
                    raise
                assert file.verdict != "refused", "what must be refused is read"
                assert _equal(network) or not file.checked, "other weights than were saved"
                values = network.state_dict().values()
                assert all(bool(torch.isfinite(value).all()) for value in values)

        torment()
    silent.setLevel(level)
    return tally.figures()


def _equal(network: nn.Module) -> bool:
    return all(torch.equal(value, _STATE[key]) for key, value in network.state_dict().items())


def _saved(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


@cache
def _good() -> dict[str, bytes]:
    prefixed = {f"module.{key}": value for key, value in _STATE.items()}
    return {
        "zip": _saved(_STATE),
        "zip wrapped": _saved({"state_dict": _STATE, "epoch": 3, "model_ema": _STATE}),
        "zip prefixed": _saved(prefixed),
        "zip with objects": _saved({"model": _STATE, "meta": _Stranger()}),
        "before 1.6": _saved(_STATE, _use_new_zipfile_serialization=False),
        "safetensors": save(_STATE),
    }


@cache
def _strange() -> dict[str, bytes]:
    """Whole files that must be refused."""
    weight = _STATE["3.weight"]
    cyclic: dict[str, object] = {}
    cyclic["model"] = cyclic
    changed = {
        "sparse": weight.to_sparse(),
        "sparse rows": weight.to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([weight]),
        "without values": weight.to("meta"),
        "complex": torch.complex(weight, weight),
        "int8": (100 * weight).to(torch.int8),
        "bool": weight > 0,
        "float8": weight.to(torch.float8_e4m3fn),
        "beyond float32": weight.double() * 1e300,
        "not a number": weight * torch.nan,
        "of another shape": weight[:1],
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 24))
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"k{number}": nothing for number in range(101_000)}).encode()
    return {
        **{kind: _saved({**_STATE, "3.weight": value}) for kind, value in changed.items()},
        "one missing": _saved({k: v for k, v in _STATE.items() if k != "3.bias"}),
        "one more": _saved({**_STATE, "head": torch.ones(1)}),
        "very many": struct.pack("<Q", len(header)) + header,
        "two sets": _saved({"state_dict": _STATE, "model": _STATE}),
        "containing itself": _saved(cyclic),
        "TorchScript": _script(),
        "a pickle": pickle.dumps({"weight": 1}),
        "a bomb": packed.getvalue(),
        "empty": b"",
        "a web page": b"<!DOCTYPE html><html><body>quota exceeded</body></html>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "nested lists": _saved(None).replace(b"N.", b"]."),
    }


def _script() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()
