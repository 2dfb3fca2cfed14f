"""A run on the terminal: answer, the main table as wide as there is room, and what to know."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sonobench.evaluation import Evaluation
from sonobench.protocol import protocol_hash
from sonobench.report.briefs import Brief, briefs
from sonobench.report.comparisons import Comparisons
from sonobench.report.findings import Finding, answer, findings
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores
from sonobench.report.tables import Cell, Column, Row, Table, main_table


@dataclass(frozen=True)
class Summary:
    """What `rich` prints of a run.

    Attributes:
        title: the protocol's name and hash.
        answer: in sentences.
        table: the main table.
        briefs: what comparisons, calibration and centres say, a few lines each.
        findings: what to know before using its numbers.
    """

    title: str
    answer: Sequence[str]
    table: Table
    briefs: Sequence[Brief]
    findings: Sequence[Finding]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Fit the table into the console's width; columns that do not fit are named."""
        table, dropped = self.table, list[str]()
        drawn = _drawn(table)
        while drawn.__rich_measure__(console, options).maximum > options.max_width:
            narrower, column = _without_least(table)
            if column is None:
                break
            table, drawn = narrower, _drawn(narrower)
            dropped.append(" ".join(column.heading))
        yield Text(self.title, style="bold")
        for sentence in self.answer:
            yield _item(sentence, "")
        yield ""
        yield drawn
        yield ""
        notes = [*table.notes]
        if dropped:
            names = ", ".join(dict.fromkeys(dropped))
            notes.append(f"not shown for want of width, but in tables/main.md: {names}")
        for note in notes:
            yield _item(note, "dim")
        for brief in self.briefs:
            yield ""
            yield Text(brief.title, style="bold")
            yield Padding(_lines(brief), (0, 0, 0, 2))
        yield ""
        for finding in self.findings:
            problem = finding.kind == "problem"
            yield _item(("! " if problem else "") + finding.text, "yellow" if problem else "")


def summary(folder: Path, evaluation: Evaluation) -> Summary:
    """What the terminal shows of a run.

    Args:
        folder: the run's.
        evaluation: of its predictions.

    Raises:
        TableError: a file of the folder is missing or wrong.
    """
    run, scores = RunFolder.read(folder), Scores.from_results(evaluation.results)
    comparisons = Comparisons.of(evaluation.comparisons, run.protocol.evaluation.confidence)
    title = f"{run.protocol.name} · home cohort {run.protocol.source.name}"
    title += f" · protocol {protocol_hash(run.protocol)[:12]}"
    return Summary(
        title,
        answer(run, scores, comparisons),
        main_table(run, scores, comparisons),
        briefs(run, scores, comparisons, evaluation),
        findings(run, scores),
    )


def _item(text: str, style: str) -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, 2))


def _lines(brief: Brief) -> RichTable:
    lines = RichTable(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for position in range(max(map(len, brief.lines))):
        lines.add_column(overflow="fold", style="" if position == 0 else "not bold")
    for line in brief.lines:
        lines.add_row(*(Text(cell) for cell in line))
    return lines


def _headings(table: Table) -> list[list[str]]:
    """Lines of every column's heading; a group's title and size stand above its first column."""
    headings = []
    for group in table.groups:
        size = [group.title, f"{group.images} images", f"{group.patients} patients"]
        for position, column in enumerate(group.columns):
            headings.append([*(size if position == 0 else []), *column.heading])
    return headings


def _without_least(table: Table) -> tuple[Table, Column | None]:
    """The table without its last column of the highest rank; None where all are of rank 0."""
    position = max(range(len(table.columns)), key=lambda i: (table.columns[i].rank, i))
    column = table.columns[position]
    if column.rank == 0:
        return table, None
    groups = tuple(
        replace(group, columns=tuple(c for c in group.columns if c is not column))
        for group in table.groups
    )
    rows = tuple(
        replace(row, cells=row.cells[:position] + row.cells[position + 1 :]) for row in table.rows
    )
    return replace(table, groups=groups, rows=rows), column


def _drawn(table: Table) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    drawn.add_column("", vertical="top")
    for heading in _headings(table):
        drawn.add_column(Text("\n".join(heading)), justify="right", vertical="top")
    for row in table.rows:
        drawn.add_row(_name(row), *(_shown(cell) for cell in row.cells))
    for absent in table.absent:
        name = Text(absent.name).append(f"\n{absent.training or 'no results'}", style="dim")
        drawn.add_row(name, *["–"] * len(table.columns))
    return drawn


def _name(row: Row) -> Text:
    role = f"{row.model.training}, control" if row.control else row.model.training
    name = Text(row.model.name + row.marks, style="" if row.control else "bold")
    return name.append(f"\n{role}", style="dim not bold")


def _shown(cell: Cell) -> Text:
    number = Text(cell.number + cell.marks, style="bold" if cell.best else "")
    return number.append(f"\n{cell.interval}", style="dim not bold") if cell.interval else number
