"""Reading and writing tables: Parquet and CSV, whole or not at all."""

import json
import os
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sonobench.tables.schema import Table, TableError, check


def replace_file(path: Path, content: bytes) -> None:
    """Write a file aside, flush it to disk and rename it, so that readers see old or new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
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


def read_table(path: Path, table: Table) -> pd.DataFrame:
    """Read a Parquet file and check it against `table`.

    Raises:
        TableError: the file is not Parquet or breaks the schema; the message names the file.
    """
    try:
        frame = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: cannot be read as Parquet: {error}") from error
    try:
        return check(frame, table)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None


def read_classes(path: Path) -> tuple[str, ...]:
    """The class order of the logits in a predictions file, from its Parquet metadata."""
    metadata = pq.read_schema(path).metadata or {}
    if b"classes" not in metadata:
        raise TableError(f"{path}: its metadata has no 'classes' (the order of the logits)")
    return tuple(json.loads(metadata[b"classes"]))


def write_csv(frame: pd.DataFrame, path: Path, table: Table) -> None:
    """Write a checked table as CSV: LF, full precision, so that equal numbers are equal bytes."""
    text = check(frame, table).to_csv(index=False, lineterminator="\n")
    replace_file(path, text.encode())
