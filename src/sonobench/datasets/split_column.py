"""Which part of a dataset the values of somebody's column mean: words, or flags as 0 and 1."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", "n"), False),
}
# Train, is_train, in_test, testset, Train-Flag: where a flag says so, it is of that part.
_SAYS_PART = re.compile(
    r"(?:is|in)?(train|test|val|valid)(?:ing|idation|ation)?(?:set|flag|split|part|data)?"
)


def part_of_flag(column: str) -> str | None:
    """The part that a flag in a column of this name says an image is of: train, test, or val.

    None where the name says nothing.
    """
    found = _SAYS_PART.fullmatch(re.sub(r"[\W_]", "", column.casefold()))
    return None if found is None else found[1].replace("valid", "val")


def are_flags(values: Sequence[str]) -> bool:
    """Whether all values that are given are flags, and there are some."""
    given = {value.casefold() for value in values if value}
    return bool(given) and given <= set(_FLAGS)


def parts(column: str, values: Sequence[str]) -> Mapping[str, str]:
    """What each of a column's values means: train or test.

    Args:
        column: its name, which tells what flags are of.
        values: of all rows; those that are empty have no part.

    Raises:
        ValueError: some values are neither, or flags whose meaning the name does not tell; in a
            sentence.
    """
    given = [value for value in values if value]
    known = {value: _WORDS.get(value.casefold()) for value in given}
    if are_flags(given):
        part = part_of_flag(column)
        if part not in ("train", "test"):
            raise ValueError(
                f"{column} has {_counted(given)}: which is train and which is test? Call the "
                "column train if that is what 1, true or yes means, or test, or write these words "
                "into it"
            )
        other = {"train": "test", "test": "train"}[part]
        known = {value: part if _FLAGS[value.casefold()] else other for value in given}
    found = {value: part for value, part in known.items() if part is not None}
    if len(found) < len(known):
        raise ValueError(
            f"{column} has {_counted(given)}: expected train or test, or 0 and 1 in a column whose "
            "name says what 1 is (train, is_test)"
        )
    return found


def _counted(values: Sequence[str]) -> str:
    """The most frequent values, with the number of their rows."""
    counts = Counter(values)
    named = [
        f"'{value}' ({count:,} row{'' if count == 1 else 's'})"
        for value, count in counts.most_common(5)
    ]
    more = [f"{len(counts) - 5} more"] if len(counts) > 5 else []
    *first, last = [*named, *more]
    return f"{', '.join(first)} and {last}" if first else last
