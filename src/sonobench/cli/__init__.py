"""The command line: thin; every command is one call of the package."""

from sonobench.cli.main import app

__all__ = ["app"]
