"""From a file or the name of a shipped protocol to a checked `Protocol` and its hash."""

import hashlib
import json
from collections.abc import Hashable, Iterator, Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import ConstructorError

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
        ProtocolError: the file is not YAML, a key is unknown or appears twice, a value is not
            allowed.
    """
    file = find_protocol(name_or_file)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{file}: not readable as YAML: {error}") from None
    raw = _read(text, str(file))
    if not isinstance(raw, dict):
        raise ProtocolError(f"{file}: expected keys and values, found {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    try:
        return Protocol.model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in _told(error, yaml.compose(text, _Loader)))
        raise ProtocolError(f"{file}:\n{lines}") from None


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


class _Loader(yaml.SafeLoader):
    """YAML's values, where a key that appears twice is refused: one of the two would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base, which lets a later key win.

        Raises:
            ConstructorError: a key appears twice.
        """
        lines = dict[Any, int]()
        # Of two keys << the first is merged first; neither is lost.
        for key, _ in (pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"):
            name = self.construct_object(key, deep=True)
            line = key.start_mark.line + 1
            if isinstance(name, Hashable) and name in lines:
                text = f"key '{key.value}' appears in line {lines[name]} already; keep one"
                raise ConstructorError(None, None, f"line {line}: {text}")
            if isinstance(name, Hashable):
                lines[name] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_timestamp(self, node: yaml.ScalarNode) -> date:
        """As the base, whose error of a day that there is not tells no line.

        Raises:
            ConstructorError: it looks like a date and is none.
        """
        try:
            found: date = super().construct_yaml_timestamp(node)
        except ValueError:
            line = node.start_mark.line + 1
            text = f"line {line}: {node.value} looks like a date and is none; put it in quotes"
            raise ConstructorError(None, None, text) from None
        return found


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_timestamp)


def _read(text: str, where: str) -> Any:
    """The values of a YAML text.

    Raises:
        ProtocolError: it is not YAML, or has a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ProtocolError(f"{where}: not readable as YAML: nested too deeply") from None
    # Of numbers such as 0b_.
    except (yaml.YAMLError, ValueError) as error:
        raise ProtocolError(f"{where}: not readable as YAML: {error}") from None


def _told(error: ValidationError, written: yaml.Node | None) -> Iterator[str]:
    """What is wrong, a line each; what YAML took for something else than text is one line a key."""
    unquoted = dict[tuple[int | str, ...], list[str]]()
    for item in error.errors():
        place = item["loc"]
        # A name in a list is told with those beside it.
        of = place[:-1] if place and isinstance(place[-1], int) else place
        if _is_other_than_text(item):
            unquoted.setdefault(of, []).append(_as_written(written, place, item["input"]))
        # Without them a list can be too short.
        elif not (item["type"] == "too_short" and place in unquoted):
            name = ".".join(map(str, place)) or "protocol"
            yield f"{name}: {item['msg'].removeprefix('Value error, ')}"
    for of, values in unquoted.items():
        name = ".".join(map(str, of))
        yield f"{name}: expected text, but YAML reads {', '.join(values)}; put it in quotes"


def _is_other_than_text(item: ErrorDetails) -> bool:
    """Whether a value that YAML reads as true, a number, a date … stands where a name belongs."""
    encoder = (
        item["type"] == "model_type" and len(item["loc"]) == 2 and item["loc"][0] == "encoders"
    )
    return (item["type"] == "string_type" or encoder) and not isinstance(item["input"], (str, list))


def _as_written(node: yaml.Node | None, place: Sequence[int | str], value: Any) -> str:
    """A value as it is written in the file, with its line, and what YAML makes of it."""
    for part in place:
        if isinstance(node, yaml.MappingNode):
            node = next((inner for key, inner in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part] if part < len(node.value) else None
        else:
            node = None
    kinds = {bool: json.dumps(value, default=str), dict: "keys with values", type(None): "no value"}
    meaning = kinds.get(type(value), "a date" if isinstance(value, date) else "a number")
    # One that --set has put there is not in the file.
    if isinstance(node, yaml.ScalarNode) and yaml.safe_load(node.value) != value:
        node = None
    if isinstance(node, yaml.ScalarNode):
        return f"{node.value or 'nothing'} (line {node.start_mark.line + 1}) as {meaning}"
    place_of = "of --set" if node is None else f"in line {node.start_mark.line + 1}"
    return f"a value {place_of} as {meaning}"


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ProtocolError(f"--set {override}: expected KEY=VALUE, like split.folds=3")
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        if isinstance(node, list):
            place: Any = _position(part, node, override)
        elif isinstance(node, dict):
            place = part
        else:
            raise ProtocolError(f"--set {override}: '{part}' lies under a single value")
        # A section that is null is one without settings, which begins with this one.
        if (isinstance(node, dict) and node.get(place) is None) or node[place] is None:
            node[place] = {}
        node = node[place]
    parsed = _read(value, f"--set {override}")
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
    if not part.isdecimal() or int(part) >= len(values):
        raise ProtocolError(
            f"--set {override}: expected a position 0 … {len(values) - 1}, found '{part}'"
        )
    return int(part)
