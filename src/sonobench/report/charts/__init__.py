"""Every plot of a run as altair charts: what is drawn in the page and written for papers."""

import altair as alt

from sonobench.evaluation import Evaluation
from sonobench.report.charts.calibration import reliability, risk_coverage
from sonobench.report.charts.classes import class_heat_map, confusion_matrices
from sonobench.report.charts.figure import Figure, Panel, static_specs, theme
from sonobench.report.charts.map import embedding_map
from sonobench.report.charts.scores import cost, drops, forest, ranks
from sonobench.report.charts.static import draw_static
from sonobench.report.charts.subgroups import subgroups
from sonobench.report.charts.training import (
    fine_tuning,
    label_efficiency,
    losses,
    regularisation_path,
)
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores

__all__ = [
    "FIGURES",
    "Figure",
    "Panel",
    "draw_static",
    "embedding_map",
    "figures",
    "static_specs",
    "theme",
]

# Names of all figures that a run may have.
FIGURES = (
    "forest",
    "drops",
    "ranks",
    "classes",
    "confusion",
    "reliability",
    "risk_coverage",
    "subgroups",
    "label_efficiency",
    "fine_tuning",
    "losses",
    "regularisation_path",
    "cost",
    "map",
)


def figures(run: RunFolder, scores: Scores, evaluation: Evaluation) -> dict[str, Figure]:
    """All figures that the run has something for, by name."""
    # What is drawn is tested; altair's check of every object takes most of the time.
    with alt.utils.schemapi.debug_mode(False):
        made = _made(run, scores, evaluation)
    return {figure.name: figure for figure in made if figure.panels}


def _made(run: RunFolder, scores: Scores, evaluation: Evaluation) -> list[Figure]:
    return [
        forest(run, scores),
        drops(run, scores),
        ranks(run, scores, evaluation.comparisons),
        class_heat_map(run, scores),
        confusion_matrices(run, scores, evaluation.confusions),
        reliability(scores, evaluation.reliability),
        risk_coverage(run, scores, evaluation.risk_coverage),
        subgroups(run, scores, evaluation.results),
        label_efficiency(run, scores, evaluation.label_efficiency),
        fine_tuning(run),
        losses(run),
        regularisation_path(run),
        cost(run, scores),
        embedding_map(run),
    ]
