"""A task's key names its result: the same for the same settings, another for any other."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonobench.engine import Task

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(st.text(), VALUES, max_size=5)


def typed(value: Any) -> Any:
    """A value in which 1, 1.0 and True, and 0.0 and -0.0, differ."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value).__name__, repr(value))


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(SETTINGS)
def test_the_order_of_settings_does_not_matter(settings: dict[str, Any]) -> None:
    assert Task("embed", 1, settings).key == Task("embed", 1, reordered(settings)).key


@given(SETTINGS, SETTINGS)
def test_keys_are_equal_only_for_equal_settings(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert (Task("embed", 1, a).key == Task("embed", 1, b).key) == (typed(a) == typed(b))


@given(SETTINGS, st.text(), VALUES, VALUES)
def test_a_change_of_any_value_changes_the_key(
    settings: dict[str, Any], name: str, before: Any, after: Any
) -> None:
    a = Task("embed", 1, {**settings, name: before})
    b = Task("embed", 1, {**settings, name: after})
    assert (a.key == b.key) == (typed(before) == typed(after))


def test_a_whole_number_a_real_number_and_a_truth_value_differ() -> None:
    assert len({Task("embed", 1, {"value": value}).key for value in (1, 1.0, True)}) == 3


def test_kind_and_version_are_part_of_the_key() -> None:
    keys = {Task(kind, version, {}).key for kind in ("pack", "embed") for version in (1, 2)}
    assert len(keys) == 4


def test_the_key_is_that_of_the_documented_text() -> None:
    # printf '{"kind":"pack","settings":{"mean":[0.1,null],"size":224},"version":3}' | sha256sum
    expected = "0b9d4d8b38bc33b21187c7725268f3ad64ac498a81026d23391ecdfb030e7b1c"
    assert Task("pack", 3, {"size": 224, "mean": (0.1, None)}).key == expected


@given(SETTINGS)
def test_settings_written_as_json_give_the_same_key_again(settings: dict[str, Any]) -> None:
    task = Task("embed", 1, settings)
    assert Task("embed", 1, json.loads(json.dumps(task.settings))).key == task.key


def test_later_changes_of_the_callers_settings_do_not_reach_the_task() -> None:
    settings: dict[str, Any] = {"mean": [0.5]}
    task = Task("embed", 1, settings)
    settings["mean"].append(0.1)
    assert task.settings == {"mean": [0.5]}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_has_not_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"task embed.settings.std\[1\]: expected a finite number"):
        Task("embed", 1, {"std": [0.5, value]})


@pytest.mark.parametrize("value", [np.zeros(2), np.int64(3), {1, 2}, object(), b"x"])
def test_a_value_that_is_no_json_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(TypeError, match=r"task embed.settings.a.b: expected a JSON value"):
        Task("embed", 1, {"a": {"b": value}})


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="expected text as keys, found 3"):
        Task("embed", 1, {"folds": {3: "x"}})  # type: ignore[dict-item]


@pytest.mark.parametrize("kind", ["", "Embed", "../x", "a b", ".hidden"])
def test_a_kind_that_is_no_folder_name_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        Task(kind, 1, {})
