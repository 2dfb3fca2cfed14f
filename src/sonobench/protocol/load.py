"""From a file or the name of a shipped protocol to a checked `Protocol` and its hash."""

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sonobench.protocol.schema import Protocol
from sonobench.protocol.section import unknown_key


class ProtocolError(ValueError):
    """A protocol that cannot be used; the message says which key, and what to do."""


def shipped_protocols() -> dict[str, Path]:
    """Names and files of the protocols that come with the package."""
    folder = Path(str(resources.files("sonobench.protocol") / "shipped"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"), key=lambda file: file.stem)}


def find_protocol(name_or_file: str | Path) -> Path:
    """The protocol's file, of a path or of a shipped name.

    Raises:
        ProtocolError: it is neither.
    """
    shipped = shipped_protocols()
    if str(name_or_file) in shipped:
        return shipped[str(name_or_file)]
    file = Path(name_or_file)
    if file.is_file():
        return file
    raise ProtocolError(
        f"no protocol '{name_or_file}': not a file, and not one of the shipped protocols "
        f"{', '.join(shipped)}"
    )


def load_protocol(name_or_file: str | Path, overrides: Sequence[str] = ()) -> Protocol:
    """Read a protocol and apply `KEY=VALUE` overrides (dotted keys, values as in YAML).

    Raises:
        ProtocolError: the file is not YAML, a key is unknown, a value is not allowed.
    """
    file = find_protocol(name_or_file)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{file}: not readable as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ProtocolError(f"{file}: expected keys and values, found {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    try:
        return Protocol.model_validate(raw)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"]) or "protocol"
            lines.append(f"  {where}: {item['msg'].removeprefix('Value error, ')}")
        raise ProtocolError(f"{file}:\n" + "\n".join(lines)) from None


def protocol_hash(protocol: Protocol) -> str:
    """SHA-256 of the protocol with every setting written out: its name among all protocols.

    `resources` are left out: they change no result.
    """
    content = protocol.model_dump(mode="json", exclude={"resources"})
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def differing_settings(one: Protocol, other: Protocol) -> list[str]:
    """Dotted names of the settings by which two protocols' hashes differ."""

    def compare(a: Any, b: Any, name: str) -> list[str]:
        if not (isinstance(a, dict) and isinstance(b, dict)):
            return [] if a == b else [name]
        found = []
        for key in {**a, **b}:
            found += compare(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        return found

    first, second = (p.model_dump(mode="json", exclude={"resources"}) for p in (one, other))
    return compare(first, second, "")


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ProtocolError(f"--set {override}: expected KEY=VALUE, like split.folds=3")
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        if isinstance(node, list):
            node = node[_position(part, node, override)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
            if node is None:
                node = {}
        else:
            raise ProtocolError(f"--set {override}: '{part}' lies under a single value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ProtocolError(f"--set {override}: {error}") from None
    if isinstance(node, list):
        node[_position(last, node, override)] = parsed
    elif isinstance(node, dict):
        if node is raw and last not in Protocol.model_fields:
            raise ProtocolError(
                f"--set {override}: {unknown_key(last, list(Protocol.model_fields))}"
            )
        node[last] = parsed
    else:
        raise ProtocolError(f"--set {override}: '{last}' lies under a single value")


def _position(part: str, values: list[Any], override: str) -> int:
    if not part.isdigit() or int(part) >= len(values):
        raise ProtocolError(
            f"--set {override}: expected a position 0 … {len(values) - 1}, found '{part}'"
        )
    return int(part)
