"""What predictions say: metrics with patient-level intervals, from tables alone.

`evaluate` turns predictions and samples into the long table of results and the confusion matrices.
The pieces stand alone: metrics of confusion counts, the logit-jackknife interval, and the joint
bootstrap of subjects, which any other statistic of counts can be handed to.
"""

from sonobench.evaluation.bootstrap import (
    Draws,
    bootstrap_statistic,
    draw_subjects,
    percentile_interval,
)
from sonobench.evaluation.evaluate import Evaluation, evaluate
from sonobench.evaluation.jackknife import jackknife_standard_error, logit_interval
from sonobench.evaluation.settings import IN_DOMAIN, EvaluationSettings

__all__ = [
    "IN_DOMAIN",
    "Draws",
    "Evaluation",
    "EvaluationSettings",
    "bootstrap_statistic",
    "draw_subjects",
    "evaluate",
    "jackknife_standard_error",
    "logit_interval",
    "percentile_interval",
]
