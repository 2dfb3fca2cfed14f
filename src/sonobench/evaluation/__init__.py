"""What predictions say: metrics with patient-level intervals, from tables alone.

`evaluate` turns predictions and samples into results, comparisons, calibration and curves;
`compare_runs` sets several runs beside each other; `read_predictions_file` reads predictions made
elsewhere.
The pieces stand alone: metrics of confusion counts, the logit-jackknife interval, and the joint
bootstrap of subjects, which any other statistic of counts can be handed to.
"""

from sonobench.evaluation.bootstrap import (
    Draws,
    bootstrap_statistic,
    draw_subjects,
    percentile_interval,
)
from sonobench.evaluation.calibration import TEMPERATURE_BOUNDS
from sonobench.evaluation.comparisons import FEWEST_FOR_LETTERS
from sonobench.evaluation.evaluate import Evaluation, evaluate
from sonobench.evaluation.files import read_predictions_file
from sonobench.evaluation.jackknife import (
    jackknife_replicates,
    jackknife_variance,
    logit_interval,
)
from sonobench.evaluation.paper import PAPER_MODELS, PaperNames
from sonobench.evaluation.preflight import Unjudged, preflight, unjudged, without
from sonobench.evaluation.runs import RunComparison, RunTables, compare_runs
from sonobench.evaluation.settings import IN_DOMAIN, EvaluationSettings

__all__ = [
    "FEWEST_FOR_LETTERS",
    "IN_DOMAIN",
    "PAPER_MODELS",
    "TEMPERATURE_BOUNDS",
    "Draws",
    "Evaluation",
    "EvaluationSettings",
    "PaperNames",
    "RunComparison",
    "RunTables",
    "Unjudged",
    "bootstrap_statistic",
    "compare_runs",
    "draw_subjects",
    "evaluate",
    "jackknife_replicates",
    "jackknife_variance",
    "logit_interval",
    "percentile_interval",
    "preflight",
    "read_predictions_file",
    "unjudged",
    "without",
]
