"""`sonobench data`: published datasets, own images, and what is wrong with either."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from sonobench.cli.errors import errors, user_errors

if TYPE_CHECKING:
    from sonobench.datasets import Archive
    from sonobench.datasets.propose import Proposal

data_app = typer.Typer(
    help="Images: published datasets, your own, and what is wrong with either.",
    no_args_is_help=True,
)

_console = Console()
_PREVIEWED = 5
# A terminal takes minutes to show hundreds of thousands of lines, and nobody reads them.
_MOST_LINES = 1000

Name = Annotated[str, typer.Argument(help="A published dataset, as `data list` names it.")]
DataRoot = Annotated[
    Path,
    typer.Option(
        "--data-root",
        envvar="SONOBENCH_DATA",
        help="Folder with the datasets; by default the working directory.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Go on without being asked.")]


@data_app.command("list")
def list_data(data_root: DataRoot = Path()) -> None:
    """Datasets that are known, and what of them is here."""
    from sonobench.datasets import ARCHIVES, plugin_loaders
    from sonobench.datasets.registry import here_of

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("loader", "images published", "here", "remarks"):
        table.add_column(column, overflow="fold")
    for archive in ARCHIVES.values():
        found = here_of(archive, data_root)
        table.add_row(
            archive.name,
            f"{archive.images:,} of {archive.patients:,} patients",
            f"{found.images:,}",
            Text("; ".join(found.remarks) or "as published"),
        )
    table.add_row("manifest", "", "", "your own images: sonobench data init FOLDER")
    table.add_row("phantom", "", "", "synthetic images, drawn when they are needed")
    for name, entry in plugin_loaders().items():
        table.add_row(Text(name), "", "", Text(f"of the installed package: {entry.value}"))
    _console.print(table)
    _console.print(f"data root: {data_root.resolve()}", markup=False, soft_wrap=True)


@data_app.command()
def fetch(name: Name, data_root: DataRoot = Path(), yes: Yes = False) -> None:
    """Download a published dataset, check it and unpack it; goes on where it broke off."""
    from sonobench.datasets.fetch import download, look_up
    from sonobench.datasets.unpack import unpacked_size

    with user_errors():
        archive = _archive(name)
        _refuse_present(archive, data_root)
        _console.print(archive.terms(), markup=False, highlight=False, soft_wrap=True)
        published = look_up(archive)
        if not yes:
            _agree(f"Download {_bytes(published.size)} and unpack it, about as much again?")
        with _bar(f"fetch {archive.file}", published.size) as progress:
            downloads = data_root / "downloads"
            file = download(archive, published, downloads, lambda here, _total: progress(here))
        _unpack(file, archive, data_root, unpacked_size(file, archive))
        file.unlink()


@data_app.command("import")
def import_archive(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="Brought by other means.")],
    data_root: DataRoot = Path(),
    yes: Yes = False,
) -> None:
    """Check and unpack an archive that was brought here by other means."""
    from sonobench.datasets.unpack import unpacked_size

    with user_errors():
        archive = _archive(name)
        _refuse_present(archive, data_root)
        _console.print(archive.terms(), markup=False, highlight=False, soft_wrap=True)
        size = unpacked_size(file, archive)
        if not yes:
            _agree(f"Unpack {_bytes(size)}?")
        _unpack(file, archive, data_root, size)


@data_app.command()
def init(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="With images, or a CSV file.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The manifest; by default manifest.csv in it.")
    ] = None,
    patient_pattern: Annotated[
        str | None,
        typer.Option(
            "--patient-pattern",
            metavar="REGEX",
            help="Finds the patient in a path: a regular expression with one group.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="MANIFEST=TABLE", help="What a column of the CSV is: label=Plane."
        ),
    ] = None,
) -> None:
    """Propose a manifest: classes by folder (or from a CSV), patients by a pattern."""
    from sonobench.datasets.propose import from_folder, from_table

    with user_errors():
        if source.is_file():
            proposal = from_table(source, _columns(columns or []))
            _tell_columns(proposal)
        else:
            proposal = from_folder(source)
            _tell_passed_over(proposal.passed_over)
        file = out or proposal.folder / "manifest.csv"
        proposal.refuse_place(file)
        if patient_pattern is not None:
            proposal = proposal.with_patients(patient_pattern)
            _preview(proposal)
        elif proposal.patients_known:
            _preview(proposal)
        else:
            proposal = _confirmed(proposal)
        proposal.write(file)
    _console.print(f"wrote {file}; next: sonobench data check {file}", markup=False, soft_wrap=True)


@data_app.command()
def check(manifest: Annotated[Path, typer.Argument(help="A manifest.")]) -> None:
    """Say everything that is wrong with a manifest and its images, with rows."""
    from sonobench.datasets.check import check_manifest

    with user_errors(), _bar("check images", None) as progress:
        checked = check_manifest(manifest, progress)
    samples = checked.samples
    if len(samples):
        _console.print(
            f"{len(samples):,} images of {samples['patient_id'].nunique():,} patients",
            markup=False,
        )
        for label, rows in samples.groupby("label"):
            patients = rows["patient_id"].nunique()
            _console.print(
                f"  {label}: {len(rows):,} images of {patients:,} patients", markup=False
            )
    for messages, colour in ((checked.problems, "red"), (checked.doubts, "yellow")):
        for message in messages[:_MOST_LINES]:
            errors.print(message, style=colour, markup=False, highlight=False, soft_wrap=True)
        if (more := len(messages) - _MOST_LINES) > 0:
            errors.print(f"… and {more:,} more", style=colour, markup=False)
    if checked.problems:
        errors.print(f"{len(checked.problems)} problems in {manifest}", style="red", markup=False)
        raise typer.Exit(2)
    doubts = f", but look at {len(checked.doubts)} doubts" if checked.doubts else ""
    _console.print(f"nothing is wrong with it{doubts}", markup=False)


@data_app.command()
def audit(
    protocol: Annotated[str, typer.Argument(help="A file, or the name of a shipped protocol.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run; audit.json goes there.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", envvar="SONOBENCH_DATA")] = None,
    store: Annotated[Path | None, typer.Option("--store", envvar="SONOBENCH_STORE")] = None,
) -> None:
    """Duplicates, leaks, conflicts, shortcuts and confounding, before anything is trained."""
    from sonobench.benchmark import Plan
    from sonobench.data_audit import audit_protocol
    from sonobench.engine import Store, log_to_console
    from sonobench.outputs import write_json
    from sonobench.preparation import refuse_to_name

    with user_errors(), log_to_console():
        plan = Plan.make(protocol, out, data_root, store, "cpu", ())
        refuse_to_name(plan.out)
        with plan.opened():
            found = audit_protocol(plan.protocol, plan.data_root, Store(plan.store_root))
        file = plan.out / "audit.json"
        write_json(file, found)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("", "cohort", "what", "finding"):
        table.add_column(column, overflow="fold")
    colours = {"error": "red", "warning": "yellow", "info": "default"}
    for finding in found["findings"]:
        severity = finding["severity"]
        row = (severity, finding["cohort"], finding["kind"], finding["message"])
        table.add_row(*map(Text, row), style=colours[severity])
    _console.print(table)
    _console.print(f"audit: {file}", markup=False, soft_wrap=True)
    if any(finding["severity"] == "error" for finding in found["findings"]):
        raise typer.Exit(1)


def _archive(name: str) -> "Archive":
    from sonobench.datasets import ARCHIVES, DatasetError

    if name not in ARCHIVES:
        raise DatasetError(f"no dataset '{name}' to fetch; there are {', '.join(ARCHIVES)}")
    return ARCHIVES[name]


def _refuse_present(archive: "Archive", data_root: Path) -> None:
    from sonobench.datasets import DatasetError

    place = data_root / archive.folder
    if place.exists():
        raise DatasetError(
            f"{place} is there already (see `sonobench data list`); move it away to bring "
            f"{archive.file} anew"
        )


def _unpack(file: Path, archive: "Archive", data_root: Path, size: int) -> None:
    from sonobench.datasets.registry import published_loader
    from sonobench.datasets.unpack import unpack

    with _bar(f"unpack {file.name}", size) as progress:
        written = 0

        def more(count: int) -> None:
            nonlocal written
            written += count
            progress(written)

        place = unpack(file, archive, published_loader(archive), data_root, size, more)
    _console.print(f"{archive.images:,} images: {place}", markup=False, soft_wrap=True)


def _tell_passed_over(files: Sequence[str]) -> None:
    if files:
        some = ", ".join(files[:_PREVIEWED]) + (", …" if len(files) > _PREVIEWED else "")
        text = f"passed over {len(files):,} files that are no images: {some}"
        _console.print(text, markup=False, highlight=False, soft_wrap=True)


def _tell_columns(proposal: "Proposal") -> None:
    """What a table's columns were taken for where it is not their own words, and what is left."""
    from sonobench.datasets.manifest import OPTIONAL

    if proposal.translated:
        _console.print(proposal.translated, markup=False, highlight=False, soft_wrap=True)
    absent = [name for name in OPTIONAL if not any(row.get(name) for row in proposal.rows)]
    if proposal.left_out:
        text = "columns of the table that are left out: " + ", ".join(
            name or "one without a name" for name in proposal.left_out
        )
        if absent:
            text += (
                f"; a manifest can have {', '.join(absent)} as well: say which it is with "
                f"--column {absent[-1]}=NAME"
            )
        _console.print(text, markup=False, highlight=False, soft_wrap=True)


def _confirmed(proposal: "Proposal") -> "Proposal":
    """Ask for the pattern that finds the patients, with a preview of what each gives."""
    from sonobench.datasets import DatasetError

    pattern = proposal.propose_pattern()
    _console.print("Which part of a path is the patient? For example:", markup=False)
    for path in proposal.paths[:_PREVIEWED]:
        _console.print(f"  {path}", markup=False, highlight=False)
    while True:
        if pattern is None:
            pattern = typer.prompt("Regular expression whose group is the patient")
        try:
            found = proposal.with_patients(str(pattern))
        except DatasetError as error:
            errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            pattern = None
            continue
        _console.print(f"pattern: {pattern}", markup=False, highlight=False, soft_wrap=True)
        _preview(found)
        if typer.confirm("Are these the patients?"):
            return found
        pattern = None


def _preview(proposal: "Proposal") -> None:
    table = Table("path", "label", "patient_id", box=box.SIMPLE, pad_edge=False)
    step = max(1, len(proposal.rows) // _PREVIEWED)
    for row in proposal.rows[::step][:_PREVIEWED]:
        table.add_row(*(Text(row[column]) for column in ("path", "label", "patient_id")))
    _console.print(table)
    patients = len({row["patient_id"] for row in proposal.rows})
    labels = sorted({row["label"] for row in proposal.rows})
    _console.print(
        f"{len(proposal.rows):,} images, {patients:,} patients, {len(labels)} classes: "
        f"{', '.join(labels)}",
        markup=False,
        highlight=False,
    )


def _columns(given: list[str]) -> dict[str, str]:
    from sonobench.datasets import DatasetError

    parts = [entry.partition("=") for entry in given]
    if any(not column or not name for column, _, name in parts):
        raise DatasetError("--column: expected MANIFEST=TABLE, like label=Plane")
    return {column: name for column, _, name in parts}


def _agree(question: str) -> None:
    typer.confirm(question, abort=True)


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextmanager
def _bar(title: str, size: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar of bytes (`size` given) or of things; yields how to say how far it is."""
    count = DownloadColumn() if size is not None else MofNCompleteColumn()
    described = TextColumn("{task.description}", markup=False)
    columns = (described, BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(title, total=size)
        yield lambda done, total=size: bar.update(task, completed=done, total=total)
