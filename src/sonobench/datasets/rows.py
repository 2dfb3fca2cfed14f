"""The strict reading of delimited metadata files: everything that is wrong, with its row."""

import csv
import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import pandas as pd

from sonobench.datasets.cohort import DatasetError
from sonobench.tables import normalized, original

_SHOWN = 20
# File systems take 255 bytes a name and some thousand a path; a suffix may still be added.
_LONGEST_NAME, _LONGEST_PATH = 250, 1000
# Unicode's category Cc.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Problems:
    """What is wrong in one file: gathered, so that all of it is said at once.

    Attributes:
        file: which.
        sha256: of its bytes, once `read_rows` has read them.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sha256 = ""
        self.messages: list[str] = []

    def add(self, row: int, message: str) -> None:
        """Note what is wrong in a row (the line of the file, the header being line 1)."""
        self.messages.append(f"row {row}: {message}")

    def stop(self, row: int, message: str) -> NoReturn:
        """Note what makes the rest unreadable.

        Raises:
            DatasetError: with everything noted.
        """
        self.add(row, message)
        self.raise_if_any()
        raise AssertionError

    def raise_if_any(self) -> None:
        """End the reading if anything was noted.

        Raises:
            DatasetError: with the first twenty, and how many there are.
        """
        if len(self.messages) == 1:
            raise DatasetError(f"{self.file}, {self.messages[0]}")
        if self.messages:
            more = len(self.messages) - _SHOWN
            listed = self.messages[:_SHOWN] + ([f"… and {more} more"] if more > 0 else [])
            raise DatasetError(
                f"{self.file}: {len(self.messages)} problems:\n  " + "\n  ".join(listed)
            )


def read_rows(
    problems: Problems,
    *,
    delimiter: str,
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
    reserved: tuple[str, ...] = (),
    file_names: tuple[str, ...] = (),
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a delimited text file as (line, {column: text}), blank lines passed over.

    Headers and values are `normalized`; those of the columns `file_names` are spelled as the file
    system has them, and only lose the blanks around them. An apostrophe that keeps a spreadsheet
    from running a field is taken off (`sonobench.tables.original`). Rows with too few or too many
    fields are noted in `problems` and passed over.

    Raises:
        DatasetError: not there, not UTF-8, a column missing, doubled or reserved, quotes that do
            not close.
    """
    file = problems.file
    try:
        # Once and whole, so that what is hashed is what is read.
        content = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from None
    problems.sha256 = hashlib.sha256(content).hexdigest()
    with TextIOWrapper(BytesIO(content), encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = [normalized(original(name)) for name in next(reader, [])]
            _check_header(problems, header, delimiter, required, optional, reserved)
            before = reader.line_num
            for fields in reader:
                # A quoted field can span lines: a row is named by its first.
                row, before = before + 1, reader.line_num
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    problems.add(row, f"expected {len(header)} fields, found {len(fields)}")
                    continue
                yield (
                    row,
                    {
                        name: value.strip() if name in file_names else normalized(value)
                        for name, value in zip(header, map(original, fields), strict=True)
                    },
                )
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{file}: expected UTF-8 text ({error.reason} at byte {error.start}); "
                "save it as 'CSV UTF-8'"
            ) from None
        except csv.Error as error:
            problems.stop(reader.line_num, str(error))


def samples_of(rows: Sequence[dict[str, Any]], problems: Problems) -> pd.DataFrame:
    """The rows that a loader made, as samples.

    Raises:
        DatasetError: something was wrong with them, or there are none.
    """
    problems.raise_if_any()
    if not rows:
        raise DatasetError(f"{problems.file}: expected at least one image, found only the header")
    return pd.DataFrame(rows)


def filled(value: dict[str, str], columns: Sequence[str], problems: Problems, row: int) -> None:
    """Note each of the columns that is empty in a row."""
    for column in columns:
        if not value[column]:
            problems.add(row, f"{column} is empty")


def sound(
    fault: Callable[[str], str], value: str, column: str, problems: Problems, row: int
) -> None:
    """Note what is wrong with a text, which a function of `sonobench.tables` says."""
    if reason := fault(value):
        # What cannot be seen is shown as an escape.
        shown = f"'{value}'" if value.isprintable() else ascii(value)
        problems.add(row, f"{column} is {shown}, which {reason}")


def one_of(
    value: str, allowed: dict[str, str], column: str, problems: Problems, row: int
) -> str | None:
    """The meaning of a coded value; None, and a problem, where it is not an allowed code."""
    if value not in allowed:
        problems.add(row, f"{column}: expected {' or '.join(allowed)}, found '{value}'")
    return allowed.get(value)


def inside(path: str, problems: Problems, row: int) -> str:
    """A path in one spelling; empty, and a problem, where it leaves the folder of the file."""
    if _CONTROL.search(path):
        problems.add(row, f"path {path!r} has a control character in it")
        return ""
    normal = posixpath.normpath(path.replace("\\", "/"))
    parts = PurePosixPath(normal).parts
    first = parts[:1]
    if len(path) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        problems.add(row, f"path '{path[:50]}…' is longer than a file's name can be")
        return ""
    if normal.startswith("/") or first in ((), ("..",)) or ":" in first[0]:
        problems.add(
            row,
            f"path '{path}' points out of the folder of {problems.file.name}; "
            "paths are relative to it and stay inside",
        )
        return ""
    return normal


def _check_header(
    problems: Problems,
    header: list[str],
    delimiter: str,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    reserved: tuple[str, ...],
) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        found = ", ".join(header)
        problems.stop(
            1,
            f"expected the columns {', '.join(required)}"
            + (f" (optional: {', '.join(optional)})" if optional else "")
            + f", separated by '{delimiter}'; missing: {', '.join(missing)}; "
            f"found: {found[:200] or 'an empty file'}",
        )
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        names = ", ".join(name or "one without a name" for name in doubled)
        problems.stop(1, f"columns appear twice: {names}")
    if taken := [name for name in header if name in reserved]:
        problems.stop(1, f"sonobench makes columns called {', '.join(taken)}; rename them here")
