"""The protocol's fields as Markdown, from the schema: `python -m sonobench.protocol.document`."""

import json
import typing
from types import UnionType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sonobench.protocol.schema import Protocol

_HEAD = """# Protocol

A protocol is a YAML file that says what is measured. Every key is listed here; an unknown one is
refused with the nearest known name. `sonobench run` writes the protocol with every setting filled
in, and its hash, to `protocol.yaml` in the run's folder; that file can be run again.

Relative paths are relative to the data root (`--data-root`, or `SONOBENCH_DATA`, or the folder of
the protocol's file). Single values can be changed on the command line: `--set split.folds=3`.
"""


def protocol_markdown() -> str:
    """One table a section of the protocol: key, values, default, meaning."""
    sections = _sections(Protocol, "Top level")
    return _HEAD + "".join(f"\n## {title}\n\n{_table(model)}" for title, model in sections.items())


def _sections(model: type[BaseModel], title: str) -> dict[str, type[BaseModel]]:
    found = {title: model}
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            if inner not in found.values():
                path = name if title == "Top level" else f"{title.strip('`')}.{name}"
                found |= _sections(inner, f"`{path}`")
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _table(model: type[BaseModel]) -> str:
    doc = " ".join((model.__doc__ or "").split())
    if not model.model_fields:
        return f"{doc} It has no settings.\n"
    rows = [
        f"| `{name}` | {_values(field.annotation)} | {_default(field)} | {field.description} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(
        [doc, "", "| key | values | default | meaning |", "|---|---|---|---|", *rows, ""]
    )


def _values(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (UnionType, typing.Union):
        return " or ".join(map(_values, inner))
    if origin is tuple:
        return f"list of {_values(inner[0])}"
    if origin is dict:
        return f"names with {_values(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {str: "text", int: "whole number", float: "number", bool: "true, false"}
    return names[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    if field.default in ("", (), {}):
        return "–"
    return f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    print(protocol_markdown(), end="")
