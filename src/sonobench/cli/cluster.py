"""Commands for those who run on many machines: how far a run is, and the store's upkeep."""

import typing
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sonobench import engine
from sonobench.cli.errors import user_errors
from sonobench.engine import State, Store, StoreError, TaskName

store_app = typer.Typer(
    help="The store of artefacts: check it, clear it up, see its size.", no_args_is_help=True
)

_console = Console()
_STATES = typing.get_args(State)

Place = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A store, or the folder of a run that uses it.")
]


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.")],
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Where this machine sees the store, if not as the run did."),
    ] = None,
) -> None:
    """What of a run is done, running, waiting or failed; on any machine that sees its folders."""
    with user_errors():
        root, jobs = engine.read_list(folder)
        found = engine.status(jobs, Store(store or root))
    table = Table("kind", *_STATES)
    counts = Counter((each.job.kind, each.state) for each in found)
    for kind in dict.fromkeys(each.job.kind for each in found):
        table.add_row(kind, *(str(counts[kind, state] or "") for state in _STATES))
    totals = Counter(each.state for each in found)
    table.add_section()
    table.add_row("all jobs", *(str(totals[state]) for state in _STATES))
    _console.print(table)
    for each in found:
        if each.state == "running":
            part = f"{each.tasks_done} of {len(each.job.tasks)} tasks done"
            _console.print(f"running: {each.job.name}: {part}", markup=False, soft_wrap=True)
    for each in found:
        if each.state in ("failed", "skipped"):
            text = f"{each.state}: {each.job.name}: {each.reason}"
            _console.print(text, markup=False, soft_wrap=True)


@store_app.command()
def verify(place: Place) -> None:
    """Read every artefact again and compare it with what was written; exit status 1 if one differs.

    A damaged one is moved to the store's folder `damaged`, and the next run makes it anew.
    """
    with user_errors():
        store = _store_of(place)
        count = sum(1 for _ in store.artefacts())
        bad = 0
        with _console.status(f"reading {count:,} artefacts"):
            for folder, trouble in store.damaged():
                bad += 1
                _console.print(f"damaged: {folder}: {trouble}", markup=False, soft_wrap=True)
                store.set_aside(folder, trouble)
    _console.print(f"{count:,} artefacts, {bad:,} damaged")
    if bad:
        raise typer.Exit(1)


@store_app.command()
def du(place: Place) -> None:
    """How many artefacts of each kind there are, and what they take."""
    with user_errors():
        found = engine.usage(_store_of(place))
    table = Table("kind", "artefacts", "size")
    for each in found:
        table.add_row(each.kind, f"{each.count:,}", _size(each.size))
    table.add_section()
    table.add_row("all", f"{sum(e.count for e in found):,}", _size(sum(e.size for e in found)))
    _console.print(table)


@store_app.command()
def gc(
    place: Place,
    keep: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="A run whose artefacts stay; all that no such run needs can go."
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what is listed; without it nothing changes.")
    ] = False,
) -> None:
    """List what can go: damaged artefacts, leftovers, and with --keep what no kept run needs.

    Runs that are not kept must not be using the store.
    """
    with user_errors():
        store = _store_of(place)
        kept = _needed_by(keep) if keep else None
        pieces = list(engine.garbage(store, kept))
        for piece in pieces:
            path = piece.path.relative_to(store.root)
            _console.print(
                f"{path}: {piece.reason}, {_size(piece.size)}", markup=False, soft_wrap=True
            )
            if delete:
                engine.remove(store, piece)
    total = _size(sum(piece.size for piece in pieces))
    if not pieces:
        _console.print("nothing can go")
    else:
        _console.print(f"{total} removed" if delete else f"{total} can go: --delete removes it")


def _store_of(place: Path) -> Store:
    if (place / "tasks.json").is_file():
        root, _ = engine.read_list(place)
        return Store(root)
    if not any(place.glob("*/??/*/task.json")):
        raise StoreError(
            f"{place} is neither a store with artefacts in it nor the folder of a run with its "
            "tasks.json"
        )
    return Store(place)


def _needed_by(runs: list[Path]) -> set[TaskName]:
    return {task for run in runs for job in engine.read_list(run)[1] for task in job.tasks}


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"
