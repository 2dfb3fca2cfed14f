"""The files of the report."""

from pathlib import Path

from sonobench.evaluation import Evaluation
from sonobench.report.page import page
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores
from sonobench.report.tables import main_table, per_class_tables
from sonobench.report.text_formats import latex, markdown
from sonobench.tables import replace_file


def write_report(folder: Path, evaluation: Evaluation) -> None:
    """Write `report.html`, `tables/*.md` and `tables/*.tex` into a run's folder.

    Args:
        folder: the run's.
        evaluation: of its predictions.

    Raises:
        TableError: a file of the folder is missing or wrong.
    """
    run, scores = RunFolder.read(folder), Scores.from_results(evaluation.results)
    for name, tables in {
        "main": [main_table(run, scores)],
        "per_class": per_class_tables(run, scores),
    }.items():
        for suffix, write in ((".md", markdown), (".tex", latex)):
            content = "\n".join(write(table) for table in tables)
            replace_file(folder / "tables" / (name + suffix), content.encode())
    html = page(run, scores, evaluation.confusions)
    replace_file(folder / "report.html", html.encode())
