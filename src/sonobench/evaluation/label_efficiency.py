"""How much more training patients would bring: the curve over their number."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from sonobench.evaluation.bootstrap import Draws
from sonobench.evaluation.cohort import cohorts
from sonobench.evaluation.inputs import tested_rows
from sonobench.evaluation.metrics import COMPARED
from sonobench.evaluation.preflight import Unjudged, without
from sonobench.evaluation.scoring import Trial, class_metrics
from sonobench.evaluation.settings import EvaluationSettings
from sonobench.tables import LABEL_EFFICIENCY, check, empty


def label_efficiency(
    fewer_patients: Iterable[tuple[int, pd.DataFrame]],
    samples: pd.DataFrame,
    settings: EvaluationSettings,
    left_out: Sequence[Unjudged] = (),
) -> pd.DataFrame:
    """The curve of every encoder (`sonobench.tables.LABEL_EFFICIENCY`), all images, open classes.

    A draw of training patients counts as a further seed: the estimate is the mean over folds and
    draws, its interval is over test patients, and the deviation over draws stands apart.

    Args:
        fewer_patients: numbers of training patients and predictions of the probes trained on so
            many, with the draw as `seed`.
        samples: of all predicted images.
        settings: of the evaluation.
        left_out: evaluations that have no curve.
    """
    rows, judged = [], without(settings, left_out)
    for patients, predictions in fewer_patients:
        for cohort in cohorts(*tested_rows(predictions, samples, settings), judged):
            if cohort.images != "all":
                continue
            # Intervals of these metrics come from the jackknife.
            nothing = Draws(np.empty((0, len(cohort.strata)), dtype=np.float32), 0.0)
            trial = Trial(cohort, np.arange(len(settings.classes)), nothing, settings)
            for (encoder, _), trained in cohort.models.items():
                metrics = class_metrics(trial, trained).metrics.only(COMPARED.__contains__)
                draws = len({model.seed for model in trained})
                for metric, numbers in zip(metrics.names, metrics.numbers, strict=True):
                    estimate, low, high, fold_sd, draw_sd = numbers.tolist()
                    rows.append(
                        {
                            "encoder": encoder,
                            "evaluation": cohort.evaluation,
                            "n_train_patients": patients,
                            "metric": metric,
                            "estimate": estimate,
                            "ci_low": low,
                            "ci_high": high,
                            "draw_sd": draw_sd,
                            "fold_sd": fold_sd,
                            "n_draws": draws,
                        }
                    )
    if not rows:
        return empty(LABEL_EFFICIENCY)
    order = ["encoder", "evaluation", "n_train_patients"]
    return check(pd.DataFrame(rows).sort_values(order, kind="stable"), LABEL_EFFICIENCY)
