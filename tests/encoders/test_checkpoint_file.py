"""Files in place of a checkpoint: each is read by its content, or refused with a sentence."""

import io
import json
import logging
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from sonobench.encoders import CheckpointError
from sonobench.encoders.checkpoint import load_strictly
from sonobench.encoders.checkpoint_file import read_checkpoint

Tensors = dict[str, torch.Tensor]
STATE: Tensors = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


def saved(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def parts_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def header(entries: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def refused(folder: Path, content: bytes, name: str = "weights.pth") -> str:
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(folder / name)
    text = str(raised.value)
    assert text.startswith(f"{folder / name}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
@pytest.mark.parametrize(
    "content",
    [saved(STATE), saved(STATE, _use_new_zipfile_serialization=False), save(STATE)],
    ids=["zip", "before 1.6", "safetensors"],
)
def test_what_a_file_is_its_content_says_and_not_its_name(
    tmp_path: Path, content: bytes, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    found = read_checkpoint(tmp_path / name)
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)
    assert found.keys() == STATE.keys()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


class _Stranger:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file; fetch it again"),
        (b"<!DOCTYPE html><html>can't scan", "a web page"),
        (b"\xef\xbb\xbf\n <HTML><body>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "a pointer of Git LFS"),
        (b"\x1f\x8b\x08\0" + bytes(100), r"compressed \(gzip\); unpack it first"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, as Keras writes"),
        (b"GGUF" + bytes(100), "a GGUF file"),
        (_tar(), "a tar file, as PyTorch wrote before"),
        (_npz(), r"a zip archive, but not one of torch.save; in it: a\.npy"),
        (zipped({}), "a zip archive, but not one of torch.save"),
        (zipped({"a/data.pkl": b"", "a/constants.pkl": b""}), "a TorchScript program"),
        (pickle.dumps({"weight": 1}), "a pickle, but no file of torch.save"),
        (b"no checkpoint at all", "it begins as neither"),
        (header({}, b"")[:8] + b"{", "a safetensors file that ends too soon"),
        (saved({"a": _Stranger()}, _use_new_zipfile_serialization=False), "before version 1.6"),
        (saved(STATE)[:-100], "damaged or not a checkpoint"),
        (saved(STATE, _use_new_zipfile_serialization=False)[:-10], "damaged or not a checkpoint"),
        (save(STATE)[:-1], "damaged or not a checkpoint"),
        (saved([1, 2]), "expected a dictionary of named tensors, found list"),
        (saved({}), "expected a dictionary of named tensors, found an empty one"),
        (saved(nn.Linear(2, 2)), "expected a dictionary of named tensors, found Linear"),
        (saved({"epoch": 3}), "expected only tensors; these are something else: epoch"),
        (saved({0: torch.ones(1)}), "expected only tensors; these are something else: 0"),
    ],
    # Bytes of a file are not the same in every process of the tests.
    ids=lambda value: "file" if isinstance(value, bytes) else value,
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        assert re.search(message, refused(tmp_path, content, name))


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder; expected a file"):
        read_checkpoint(tmp_path)


def _quantised(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def _nested(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([tensor])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda t: t.to_sparse(), "sparse"),
        (lambda t: t.to_sparse_csr(), "sparse"),
        (_quantised, "quantised"),
        (lambda t: t.to("meta"), "without values"),
        (lambda t: torch.complex(t, t), "complex"),
        (lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda t: t.to(torch.float8_e5m2), "float8_e5m2"),
    ],
)
def test_tensors_that_are_not_dense_real_numbers_are_named(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], kind: str
) -> None:
    content = saved({**STATE, "weight": change(STATE["weight"])})
    text = refused(tmp_path, content)
    assert f"these are others: weight ({kind}); convert them" in text


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_are_named_in_the_words_for_how_their_torch_saves_them(
    tmp_path: Path,
) -> None:
    # torch 2.15 saves them as objects of a class of their own.
    text = refused(tmp_path, saved({**STATE, "weight": _nested(STATE["weight"])}))
    expected = ("these are others: weight (nested)", "these are something else: weight")
    assert any(words in text for words in expected)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (STATE["weight"].to(torch.int8), r"another type \(1\): weight: expected torch\.float32, f"),
        (STATE["weight"] > 1, r"of another type \(1\): weight: .* found torch\.bool"),
        (STATE["weight"].double() * 1e300, r"not finite \(1\): weight"),
        (STATE["weight"] * torch.inf, r"not finite \(1\): weight"),
    ],
)
def test_values_that_the_network_cannot_take_are_refused(
    weight: torch.Tensor, message: str
) -> None:
    network = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=message):
        load_strictly(network, {**STATE, "weight": weight}, lambda key: key)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_real_numbers_of_other_widths_are_taken(dtype: torch.dtype) -> None:
    network = nn.Linear(3, 2)
    load_strictly(network, {k: v.to(dtype) for k, v in STATE.items()}, lambda key: key)
    assert torch.equal(network.weight, STATE["weight"])


def test_batch_counters_may_be_real_numbers_and_indices_may_not() -> None:
    state = nn.BatchNorm2d(2).state_dict()
    counted = {**state, "num_batches_tracked": torch.tensor(3.0)}
    load_strictly(nn.BatchNorm2d(2), counted, lambda key: key)
    network = nn.Linear(3, 2)
    network.register_buffer("index", torch.arange(3))
    with pytest.raises(CheckpointError, match=r"index: expected torch\.int64, f"):
        load_strictly(network, {**STATE, "index": torch.ones(3)}, lambda key: key)


def _containing_itself() -> dict[str, object]:
    one: dict[str, object] = {}
    one["state_dict"] = one
    return one


def _containing_each_other() -> dict[str, object]:
    one, two = dict[str, object](), dict[str, object]()
    one["model"], two["state_dict"] = two, one
    return one


@pytest.mark.parametrize("make", [_containing_itself, _containing_each_other])
def test_a_dictionary_that_contains_itself_is_refused(
    tmp_path: Path, make: Callable[[], dict[str, object]]
) -> None:
    assert "its 'state_dict' contains itself" in refused(tmp_path, saved(make()))


@pytest.mark.parametrize(
    ("content", "sets"),
    [
        ({"state_dict": STATE, "model": STATE}, "'state_dict' (2 tensors), 'model' (2 tensors)"),
        ({"student": STATE, "teacher": STATE}, "'student' (2 tensors), 'teacher' (2 tensors)"),
        ({"model_ema": STATE, "epoch": 3}, "'model_ema' (2 tensors)"),
        ({"model": {"encoder": STATE, "decoder": STATE}}, "'encoder' (2 tensors), 'decoder'"),
    ],
)
def test_where_it_cannot_be_told_which_weights_are_meant_all_are_named(
    tmp_path: Path, content: object, sets: str
) -> None:
    text = refused(tmp_path, saved(content))
    assert "which weights are meant cannot be told" in text
    assert sets in text


def test_which_weights_are_taken_is_said_where_there_are_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = {key: value + 1 for key, value in STATE.items()}
    content = {"model": STATE, "model_ema": other, "optimizer": {"state": {}}, "epoch": 3}
    (tmp_path / "w.pth").write_bytes(saved(content))
    with caplog.at_level(logging.INFO, "sonobench"):
        found = read_checkpoint(tmp_path / "w.pth")
    assert torch.equal(found["weight"], STATE["weight"])
    assert "the weights in 'model' are taken; there are others in it: model_ema" in caplog.text


def test_settings_that_are_called_as_weights_are_passed_over(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "model": {"depth": 12}}
    (tmp_path / "w.pth").write_bytes(saved(content))
    assert read_checkpoint(tmp_path / "w.pth").keys() == STATE.keys()


@pytest.mark.parametrize("part", ["data/0", "data/1", "data.pkl"])
def test_a_part_whose_checksum_is_wrong_is_named(tmp_path: Path, part: str) -> None:
    content = bytearray(saved(STATE))
    (stored,) = (data for name, data in parts_of(bytes(content)).items() if name.endswith(part))
    content[content.index(stored) + 2] ^= 0x40
    text = refused(tmp_path, bytes(content))
    assert f"{part} does not have the checksum (CRC-32) that it was saved with" in text


def test_a_file_that_unpacks_to_more_than_it_is_is_refused_unread(tmp_path: Path) -> None:
    compressed = zipped(parts_of(saved(STATE)), zipfile.ZIP_DEFLATED)
    assert "its parts are compressed" in refused(tmp_path, compressed)
    bomb = zipped({"a/data.pkl": bytes(65 << 20)}, zipfile.ZIP_DEFLATED)
    assert "its list of tensors takes 68,157,440 bytes" in refused(tmp_path, bomb)


def test_more_tensors_than_any_network_has_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonobench.encoders.checkpoint_file._MOST_TENSORS", 50)
    many = {f"k{number}": torch.zeros(1) for number in range(51)}
    message = "51 tensors, expected at most 50"
    assert message in refused(tmp_path, save(many), "many.safetensors")
    assert message in refused(tmp_path, saved(many))
    parts = {f"a/data/{number}": b"" for number in range(151)}
    assert "an archive of 151 parts" in refused(tmp_path, zipped(parts))
    large = bytearray(zipped(parts))
    # As the end of an archive says it that has more parts than 16 bits count.
    end = large.rindex(b"PK\x05\x06")
    record = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 900_000, 900_000, 0, 0)
    large[end:end] = record
    assert "an archive of 900,000 parts" in refused(tmp_path, bytes(large))


def test_a_header_larger_than_any_networks_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonobench.encoders.checkpoint_file._LARGEST_INDEX", 100)
    assert "whose header of" in refused(tmp_path, save(STATE))


def test_want_of_memory_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", without_memory)
    (tmp_path / "w.pth").write_bytes(saved(STATE))
    with pytest.raises(MemoryError):
        read_checkpoint(tmp_path / "w.pth")
