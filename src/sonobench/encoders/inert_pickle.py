"""PyTorch files that pickle more than tensors, read without running any of it.

Training frameworks store their own objects beside the weights. Here tensors and dictionaries are
rebuilt, and whatever else a pickle names becomes an inert stand-in: nothing is imported or called.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Inert:
    """Stands for an object of a pickle: takes whatever unpickling does to it, and does nothing."""

    def __new__(cls, *_args: object, **_options: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def __call__(self, *_args: object, **_options: object) -> "_Inert":
        return self

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        pass

    def extend(self, _items: object) -> None:
        pass

    def add(self, _item: object) -> None:
        pass


def read_inertly(file: Path) -> object:
    """What a file of `torch.save` holds, all but tensors and containers replaced by stand-ins.

    Raises:
        pickle.UnpicklingError: not a file of that kind, or damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            folder = name.removesuffix("data.pkl")
            order = f"{folder}byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise pickle.UnpicklingError("not in little-endian byte order")
            return _Reader(archive, folder, archive.read(name)).load()
    except pickle.UnpicklingError:
        raise
    # A damaged pickle can raise nearly anything on its way through the unpickler.
    except Exception as error:
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The few names that rebuild tensors; an inert class for every other one."""
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return _RebuildTensor()
            case "torch._utils", "_rebuild_parameter":
                return _RebuildParameter()
            case "torch", _ if name in _DTYPES:
                return _DTYPES[name]
        return type(name, (_Inert,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage, as a flat tensor."""
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown kind of storage {dtype}")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = (
                torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        storage = self._storages[key]
        if len(storage) != count or storage.dtype != dtype:
            raise pickle.UnpicklingError(f"storage {key} does not hold {count} values of {dtype}")
        return storage


# Objects without attributes: a pickle can call them and change nothing about them.
class _RebuildTensor:
    __slots__ = ()

    def __call__(
        self, storage: Tensor, offset: int, size: Any, stride: Any, *_rest: object
    ) -> Tensor:
        return storage.as_strided(tuple(size), tuple(stride), offset)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, data: Tensor, *_rest: object) -> Tensor:
        return data
