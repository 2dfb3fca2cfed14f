"""One piece of work as data, and the key that names its result."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

_KIND = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Task:
    """A frozen description of one artefact; tasks with equal keys have equal results.

    Attributes:
        kind: name of the step ("pack", "embed", "linear_probe"), also its folder in the store.
        version: code version of the step; raised when its result changes.
        settings: everything that determines the result, as JSON values. A copy is kept, in
            which tuples have become lists: a step sees exactly what the key covers.
        key: SHA-256 of kind, version and settings in canonical JSON: keys sorted, floats by
            their shortest exact decimal. Values of different types differ: 1, 1.0 and True
            give three keys.

    Raises:
        ValueError: the kind is no lower-case name, or a number is NaN or infinite.
        TypeError: a setting is no JSON value; the message says which.
    """

    kind: str
    version: int
    settings: Mapping[str, JSON] = field(compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind):
            raise ValueError(
                f"the kind of a task names a folder: expected lower-case letters, digits and _, "
                f"found {self.kind!r}"
            )
        content = {"kind": self.kind, "version": self.version, "settings": self.settings}
        _check(content, f"task {self.kind}")
        text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
        object.__setattr__(self, "settings", json.loads(text)["settings"])
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest())

    def __str__(self) -> str:
        return f"{self.kind} {self.key[:12]}"


class TaskName(NamedTuple):
    """What names a task's artefact, for those who need not know what made it."""

    kind: str
    key: str


def _check(value: object, where: str) -> None:
    """Refuse what JSON cannot hold; `json.dumps` alone would turn keys to text silently."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"{where}: expected text as keys, found {name!r}")
            _check(item, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: expected a finite number, found {value}")
    elif value is not None and not isinstance(value, bool | int | str):
        raise TypeError(
            f"{where}: expected a JSON value (null, bool, int, float, str, list, dict), "
            f"found {value!r} of type {type(value).__module__}.{type(value).__qualname__}"
        )
