"""How a user's errors are shown: one message, no traceback, exit status 2."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from sonobench.datasets import DatasetError
from sonobench.encoders import CheckpointError, EncoderError
from sonobench.engine import EngineError, StoreError
from sonobench.protocol import ProtocolError
from sonobench.tables import TableError

errors = Console(stderr=True)

_USER_ERRORS = (
    CheckpointError,
    DatasetError,
    EncoderError,
    EngineError,
    ProtocolError,
    StoreError,
    TableError,
)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn an error that the user can mend into its message and exit status 2."""
    try:
        yield
    except _USER_ERRORS as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
