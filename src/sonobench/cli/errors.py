"""How a user's errors are shown: one message, no traceback, exit status 2."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

errors = Console(stderr=True)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn an error that the user can mend into its message and exit status 2.

    Errors of this package are sentences for people; others are defects and keep their traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        errors.print("stopped; what was finished stays, the same command goes on from there")
        raise typer.Exit(130) from None
    except Exception as error:
        if not type(error).__module__.startswith("sonobench."):
            raise
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
