"""Reading and writing tables and JSON, whole or not at all."""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sonobench.tables.schema import Table, TableError, check
from sonobench.tables.spreadsheet import csv_text, original


def replace_file(path: Path, content: bytes) -> None:
    """Write a file aside, flush it to disk and rename it, so that readers see old or new.

    Who may read it is as of any new file in its folder: by the user's umask, or the folder's ACL.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Files of `tempfile` are for their owner alone, and who may read a new one only the system
    # knows.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_parquet(
    frame: pd.DataFrame, path: Path, table: Table, classes: tuple[str, ...] | None = None
) -> None:
    """Write a checked table; `classes` (the order of the logits) goes into its metadata."""
    checked = check(frame, table)
    types = {column.name: column.type for column in table.columns}
    arrow = pa.table(
        {
            name: pa.array(checked[name], type=types.get(name), from_pandas=True)
            for name in checked.columns
        }
    )
    metadata = {} if classes is None else {b"classes": json.dumps(classes).encode()}
    buffer = pa.BufferOutputStream()
    pq.write_table(arrow.replace_schema_metadata(metadata), buffer, compression="zstd")
    replace_file(path, buffer.getvalue().to_pybytes())


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file.

    Raises:
        TableError: it is missing, damaged or not Parquet; the message names the file.
    """
    with _named(path, "Parquet"):
        return pd.read_parquet(path)


def read_texts(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read these columns of a CSV file, as text (`original`).

    Raises:
        TableError: it is missing, damaged or lacks one of them; the message names the file.
    """
    with _named(path, f"CSV with the columns {', '.join(columns)}"):
        read = pd.read_csv(path, dtype=str, usecols=list(columns), keep_default_na=False)
        return read.map(original)


def read_json(path: Path, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON file that holds an object, which has these keys.

    Raises:
        TableError: it is missing, damaged or something else; the message names the file.
    """
    with _named(path, "JSON"):
        content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise TableError(f"{path}: expected a JSON object, found {type(content).__name__}")
    if missing := [key for key in keys if key not in content]:
        raise TableError(f"{path}: expected a JSON object with {', '.join(missing)}")
    return content


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Whatever a reader raises of a file is a `TableError` that names it."""
    try:
        yield
    except MemoryError:
        raise
    # Of damaged files pyarrow raises OSError, ValueError, KeyError, NotImplementedError and more.
    except Exception as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        first = (reason.strip() or type(error).__name__).splitlines()[0]
        raise TableError(
            f"{path}: cannot be read as {what} ({first[:200]}); have it made again, a file of a "
            "run by the same `sonobench run`"
        ) from error


def read_table(path: Path, table: Table) -> pd.DataFrame:
    """Read a Parquet file and check it against `table`.

    Raises:
        TableError: as `read_parquet`, or the table breaks the schema.
    """
    frame = read_parquet(path)
    try:
        return check(frame, table)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None


def read_classes(path: Path) -> tuple[str, ...]:
    """The class order of the logits in a predictions file, from its Parquet metadata.

    Raises:
        TableError: as `read_parquet`, or its metadata have none.
    """
    with _named(path, "Parquet"):
        classes = json.loads((pq.read_schema(path).metadata or {}).get(b"classes", b"null"))
    if classes is None:
        raise TableError(f"{path}: its metadata has no 'classes' (the order of the logits)")
    return tuple(classes)


def write_csv(frame: pd.DataFrame, path: Path, table: Table) -> None:
    """Write a checked table as CSV (`csv_text`)."""
    replace_file(path, csv_text(check(frame, table)).encode())
