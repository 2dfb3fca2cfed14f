"""The files of the report."""

import logging
import re
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from sonobench.evaluation import Evaluation
from sonobench.protocol import safe_name
from sonobench.report.charts import FIGURES, draw_static, static_specs
from sonobench.report.material import Material
from sonobench.report.page import page
from sonobench.report.tables import main_table, per_class_tables
from sonobench.report.text_formats import latex, markdown
from sonobench.tables import replace_file

_logger = logging.getLogger("sonobench")


def write_report(folder: Path, evaluation: Evaluation, predictions: pd.DataFrame) -> dict[str, str]:
    """Write `report.html`, `tables/*.md`, `tables/*.tex`, `figures/*.svg` and `figures/*.pdf`.

    Args:
        folder: the run's, into which they are written.
        evaluation: of the predictions.
        predictions: of all models (`sonobench.tables.PREDICTIONS`).

    Returns:
        Why a figure could not be drawn as SVG and PDF, by its name; these are logged as well. The
        page and the tables do not need them.

    Raises:
        TableError: a file of the folder is missing or wrong.
    """
    material = Material.read(folder, evaluation, predictions)
    write_tables(material, folder / "tables")
    replace_file(folder / "report.html", page(material).encode())
    return write_figures(material, folder / "figures")


def write_tables(material: Material, folder: Path) -> None:
    """The main table and those of the classes, as Markdown and LaTeX."""
    run, scores = material.run, material.scores
    for name, tables in {
        "main": [main_table(run, scores, material.comparisons)],
        "per_class": per_class_tables(run, scores, material.comparisons),
    }.items():
        for suffix, write in ((".md", markdown), (".tex", latex)):
            content = "\n".join(write(table) for table in tables)
            replace_file(folder / (name + suffix), content.encode())


def write_figures(material: Material, folder: Path) -> dict[str, str]:
    """Every figure as SVG and PDF, one pair a model or encoder where one is chosen.

    Returns why a figure could not be drawn, by its name.
    """
    specs: dict[str, dict[str, Any]] = {}
    for figure in material.figures.values():
        stems = [f"__{safe_name(choice)}" if choice else "" for choice in figure.choices]
        specs |= dict(static_specs(figure, stems))
    written = set()
    with tempfile.TemporaryDirectory() as drawn_into:
        missing = draw_static(specs, Path(drawn_into))
        for file in Path(drawn_into).iterdir():
            replace_file(folder / file.name, file.read_bytes())
            written.add(folder / file.name)
    # What an earlier report of this folder drew may not be in this one. Files of other names are
    # not the report's.
    drawn = re.compile(rf"({'|'.join(FIGURES)})(__.+)?\.(svg|pdf)")
    for file in set(folder.glob("*")) - written:
        if file.is_file() and drawn.fullmatch(file.name):
            file.unlink()
    for reason in dict.fromkeys(missing.values()):
        _logger.warning(
            "%s lacks %s as SVG and PDF: %s. The page and the tables are whole. Once that is "
            "mended, `sonobench report %s` draws the figures",
            folder,
            ", ".join(name for name, why in missing.items() if why == reason),
            reason,
            folder.parent,
        )
    return missing
