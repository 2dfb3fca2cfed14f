"""Tables as Markdown and as LaTeX that compiles as it is, with every foreign text escaped."""

import re
from collections.abc import Sequence

from sonobench.report.tables import Cell, Group, Row, Table

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # After the \\ that ends a row these would be read as its argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": r"\textendash{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "‖": r"$\|$",
    "≈": r"$\approx$",
}


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it stands, on one line."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    # Two hyphens, as of an option, would be set as a dash.
    return re.sub("-(?=-)", "-{}", escaped)


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, its caption above and its notes below."""
    heads = ["encoder", "adaptation"]
    for group in table.groups:
        size = f"{group.images} images, {group.patients} patients"
        heads += [
            f"{group.title} ({size}): {', '.join(column.heading)}" for column in group.columns
        ]
    lines = [
        f"**{escape_markdown(table.caption)}**",
        "",
        _markdown_row([escape_markdown(head) for head in heads]),
        _markdown_row([":--", ":--", *["--:"] * len(table.columns)]),
        *(_markdown_row(_markdown_cells(row)) for row in table.rows),
        *(
            _markdown_row(
                [
                    escape_markdown(absent.name),
                    escape_markdown(absent.training or "–"),
                    *["–"] * len(table.columns),
                ]
            )
            for absent in table.absent
        ),
        "",
        *(f"- {escape_markdown(note)}" for note in (*table.notes, *_reasons(table))),
    ]
    return "\n".join(lines) + "\n"


def _reasons(table: Table) -> list[str]:
    """Why models have no numbers."""
    return [
        f"{' '.join(filter(None, [absent.name, absent.training]))} has no numbers: {absent.reason}"
        for absent in table.absent
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cells(row: Row) -> list[str]:
    name = escape_markdown(row.model.name) + row.marks + (" (control)" if row.control else "")
    return [name, escape_markdown(row.model.training), *map(_markdown_cell, row.cells)]


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.number}**" if cell.best else cell.number
    return " ".join(filter(None, [text + cell.marks, cell.interval]))


def latex(table: Table) -> str:
    """A `table` environment; the document needs `\\usepackage{booktabs}` and nothing else.

    A model takes two lines, numbers and below them their intervals, to fit a column of text.
    """
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape_latex(table.caption)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9]+', '-', table.name)}}}",
        rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        r"\toprule",
        *_latex_heading(table.groups),
        r"\midrule",
        *(line for row in table.rows for line in _latex_row(row)),
        *(
            " & ".join(
                [
                    escape_latex(absent.name),
                    escape_latex(absent.training or "–"),
                    *[escape_latex("–")] * len(table.columns),
                ]
            )
            + r" \\"
            for absent in table.absent
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\raggedright\scriptsize",
        "; ".join(map(escape_latex, (*table.notes, *_reasons(table)))) + ".",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_heading(groups: Sequence[Group]) -> list[str]:
    titles, rules, heads = [], [], []
    start = 3  # the first two columns name the model
    for group in groups:
        width = len(group.columns)
        title = rf"{escape_latex(group.title)}\\{group.images} images, {group.patients} patients"
        titles.append(rf"\multicolumn{{{width}}}{{c}}{{\shortstack{{{title}}}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        heads += [
            r"\shortstack[r]{" + r"\\".join(map(escape_latex, column.heading)) + "}"
            for column in group.columns
        ]
        start += width
    return [
        " & ".join(["", "", *titles]) + r" \\",
        "".join(rules),
        " & ".join(["Encoder", "Adaptation", *heads]) + r" \\",
    ]


def _latex_row(row: Row) -> list[str]:
    name = escape_latex(row.model.name + row.marks) + (" (control)" if row.control else "")
    numbers = [_latex_number(cell) for cell in row.cells]
    intervals = [
        rf"{{\scriptsize {cell.interval.replace('–', _LATEX['–'])}}}" if cell.interval else ""
        for cell in row.cells
    ]
    lines = [" & ".join([name, escape_latex(row.model.training), *numbers]) + r" \\"]
    if any(intervals):
        lines.append(" & ".join(["", "", *intervals]) + r" \\")
    return lines


def _latex_number(cell: Cell) -> str:
    text = escape_latex(cell.number + cell.marks)
    return rf"\textbf{{{text}}}" if cell.best else text
