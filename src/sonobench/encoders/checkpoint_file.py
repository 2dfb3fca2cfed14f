"""The tensors of a checkpoint file, by what is in it: nothing of it runs, and what cannot be read
is named."""

import logging
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from sonobench.encoders.checkpoint import CheckpointError, some
from sonobench.encoders.inert_pickle import read_inertly

_logger = logging.getLogger("sonobench")

_WRAPPERS = ("state_dict", "model", "module")
# Networks have some thousand tensors; a file's index of them has some hundred bytes each, and
# training frameworks keep their logs in it.
_MOST_TENSORS = 100_000
_LARGEST_INDEX = 64 << 20
_SAVE_WEIGHTS = "open it where it was made and save its state_dict() with torch.save or safetensors"
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # how PyTorch's files began before 1.6
_CARRIERS = {
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; `git lfs pull` gets it",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"7z\xbc\xaf": "compressed (7z); unpack it first",
    b"\xfd7zXZ": "compressed (xz); unpack it first",
    b"\x89HDF": "an HDF5 file, as Keras writes them; expected one of PyTorch or safetensors",
    b"GGUF": "a GGUF file; expected one of PyTorch or safetensors",
    b"\x93NUMPY": "a NumPy array; expected a file of PyTorch or safetensors",
}


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file or a PyTorch file, by their keys.

    Which of the two it is its content says, and not its name. A wrapper (`state_dict`, `model`,
    `module`) is opened and a `module.` prefix on every key taken off. Nothing of a pickle runs:
    PyTorch's own restricted reader is used, and where it refuses a file for what stands beside the
    weights, one that makes all of that inert. Checksums of a zip file's parts are compared;
    safetensors and PyTorch's files before version 1.6 have none.

    Raises:
        CheckpointError: missing, damaged, something else, without tensors or with more than
            100,000, with several sets of weights of which none is meant for certain, or with
            tensors that are not dense or not of real numbers.
    """
    try:
        content = _reader(file)(file)
    except (CheckpointError, MemoryError):
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None
    # Damaged and hostile files make the readers raise nearly anything; the message carries it.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: damaged or not a checkpoint ({reason[:300]})") from None
    tensors = _weights(file, content)
    if len(tensors) > _MOST_TENSORS:
        raise CheckpointError(
            f"{file}: {len(tensors):,} tensors, expected at most {_MOST_TENSORS:,}"
        )
    if odd := [f"{key} ({kind})" for key, tensor in tensors.items() if (kind := _odd(tensor))]:
        raise CheckpointError(
            f"{file}: expected dense tensors of real numbers; these are others: {some(odd)}; "
            "convert them where the file was made"
        )
    if all(key.startswith("module.") for key in tensors):
        return {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _reader(file: Path) -> Callable[[Path], object]:
    """What reads a file that begins so.

    Raises:
        CheckpointError: it is known to be something else.
    """
    if file.is_dir():
        raise CheckpointError(f"{file}: a folder; expected a file of PyTorch or safetensors")
    with file.open("rb") as stream:
        start = stream.read(512)
        size = stream.seek(0, 2)
    what = next((text for magic, text in _CARRIERS.items() if start.startswith(magic)), "")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        what = "an empty file; fetch it again"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "a web page, as sites send in place of a file; open its address in a browser"
    elif start[257:262] == b"ustar":
        what = f"a tar file, as PyTorch wrote before version 0.1.10, or another; {_SAVE_WEIGHTS}"
    if what:
        raise CheckpointError(f"{file}: {what}")
    if start.startswith(b"PK"):
        return _read_zip
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{":
        if header > size - 8:
            raise CheckpointError(f"{file}: damaged: a safetensors file that ends too soon")
        if header > _LARGEST_INDEX:
            raise CheckpointError(
                f"{file}: a safetensors file whose header of {header:,} bytes is larger than that "
                f"of any network, expected at most {_LARGEST_INDEX:,}"
            )
        return _read_safetensors
    if start.startswith(_LEGACY):
        return _read_legacy
    if start.startswith(b"\x80"):
        raise CheckpointError(f"{file}: a pickle, but no file of torch.save; {_SAVE_WEIGHTS}")
    raise CheckpointError(
        f"{file}: damaged or not a checkpoint: it begins as neither a file of PyTorch nor one of "
        "safetensors does"
    )


def _read_safetensors(file: Path) -> object:
    with safe_open(file, framework="pt") as opened:
        keys = opened.keys()
        if len(keys) > _MOST_TENSORS:
            raise CheckpointError(
                f"{file}: {len(keys):,} tensors, expected at most {_MOST_TENSORS:,}"
            )
        return {key: opened.get_tensor(key) for key in keys}


def _read_legacy(file: Path) -> object:
    try:
        return _load(file)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file}: there are other objects than tensors in it, which are not loaded, and it is "
            f"of PyTorch's format before version 1.6; {_SAVE_WEIGHTS}"
        ) from None


def _read_zip(file: Path) -> object:
    _refuse_zip(file)
    try:
        return _load(file)
    except pickle.UnpicklingError:
        return read_inertly(file)


def _load(file: Path) -> object:
    # Of a file's name PyTorch would take what it is.
    with file.open("rb") as stream:
        return torch.load(stream, map_location="cpu", weights_only=True)


def _refuse_zip(file: Path) -> None:
    """Refuse what `torch.save` does not write, before any of it is unpacked.

    Raises:
        CheckpointError: TorchScript, another archive, parts that are compressed, very many or
            damaged.
        zipfile.BadZipFile: no zip file, or one that is cut off.
    """
    with file.open("rb") as stream:
        # Each takes some hundred bytes of memory as soon as the file is opened.
        if (parts := _parts(stream)) > _MOST_TENSORS + 100:
            raise CheckpointError(
                f"{file}: an archive of {parts:,} parts, expected at most {_MOST_TENSORS:,} tensors"
            )
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            raise CheckpointError(
                f"{file}: a TorchScript program (torch.jit.save), which would have to be run; "
                f"{_SAVE_WEIGHTS}"
            )
        index = next((member for member in members if member.filename.endswith("/data.pkl")), None)
        if index is None:
            raise CheckpointError(
                f"{file}: a zip archive, but not one of torch.save; in it: {some(names)}"
            )
        if index.file_size > _LARGEST_INDEX:
            raise CheckpointError(
                f"{file}: its list of tensors takes {index.file_size:,} bytes, expected at most "
                f"{_LARGEST_INDEX:,}; {_SAVE_WEIGHTS}"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(
                f"{file}: its parts are compressed, which torch.save never does; {_SAVE_WEIGHTS}"
            )
        if (damaged := archive.testzip()) is not None:
            raise CheckpointError(
                f"{file}: damaged: its part {damaged} does not have the checksum (CRC-32) that it "
                "was saved with; fetch it again"
            )


def _parts(stream: BinaryIO) -> int:
    """How many parts a zip file says that it has, in the record at its end."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - (1 << 16) - 200))
    end = stream.read()
    # The record of large files, where there is one, stands before the other and counts in 64 bits.
    if (at := end.rfind(b"PK\x06\x06")) >= 0:
        return int.from_bytes(end[at + 32 : at + 40], "little")
    at = end.rfind(b"PK\x05\x06")
    return int.from_bytes(end[at + 10 : at + 12], "little") if at >= 0 else 0


def _weights(file: Path, content: object) -> dict[str, Tensor]:
    """The named tensors, out of the wrappers that training frameworks put around them."""
    opened = [id(content)]
    while isinstance(content, dict):
        inner = [key for key in _WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            break
        sets = _sets(content)
        if len(inner) > 1:
            # A model's settings may be called so too.
            inner = [key for key in inner if key in sets] or inner
        if len(inner) > 1:
            raise _several(file, {key: sets.get(key, 0) for key in inner})
        if others := sorted(sets.keys() - {*inner}):
            _logger.info(
                "%s: the weights in '%s' are taken; there are others in it: %s",
                file,
                inner[0],
                some(others),
            )
        content = content[inner[0]]
        if id(content) in opened:
            raise CheckpointError(f"{file}: damaged: its '{inner[0]}' contains itself")
        opened.append(id(content))
    if not isinstance(content, dict) or not content:
        found = "an empty one" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{file}: expected a dictionary of named tensors, found {found}")
    strangers = [
        str(key)
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if strangers:
        if sets := _sets(content):
            raise _several(file, sets)
        raise CheckpointError(
            f"{file}: expected only tensors; these are something else: {some(strangers)}"
        )
    return dict(content)


def _sets(content: Mapping[object, object]) -> dict[str, int]:
    """Entries that look like the weights of a network: how many tensors each has."""
    counts = {
        str(key): sum(isinstance(tensor, Tensor) for tensor in value.values())
        for key, value in content.items()
        if isinstance(value, dict)
    }
    return {key: count for key, count in counts.items() if count}


def _several(file: Path, sets: Mapping[str, int]) -> CheckpointError:
    listed = [f"'{key}' ({count:,} tensors)" for key, count in sets.items()]
    return CheckpointError(
        f"{file}: which weights are meant cannot be told: expected them by themselves or in one of "
        f"{', '.join(_WRAPPERS)}; in it are {some(listed)}. Save those that you mean by themselves"
    )


def _odd(tensor: Tensor) -> str:
    """What is unusual of a tensor that cannot be weights; empty where nothing is."""
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout is not torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "without values"
    if tensor.is_complex():
        return "complex"
    if tensor.is_floating_point() and tensor.itemsize == 1:
        return str(tensor.dtype).removeprefix("torch.")
    return ""
