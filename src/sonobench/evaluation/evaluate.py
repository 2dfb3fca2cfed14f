"""From predictions to results: every metric with its interval, and the confusion matrices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.bootstrap import (
    Draws,
    bootstrap_statistic,
    draw_subjects,
    percentile_interval,
)
from sonobench.evaluation.cohort import Cohort, TrainedModel, cohorts
from sonobench.evaluation.counts import (
    NLL_UNITS,
    predicted_classes,
    subject_confusions,
    subject_nll,
)
from sonobench.evaluation.jackknife import jackknife_standard_error, logit_interval
from sonobench.evaluation.metrics import bounded_metric_names, bounded_metrics, subject_shares
from sonobench.evaluation.settings import EvaluationSettings
from sonobench.tables import RESULTS, check

# Above this share of redrawn draws an interval is marked unreliable.
RELIABLE_REDRAWN_SHARE = 0.05

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What the predictions say.

    Attributes:
        results: the long table of results (`sonobench.tables.RESULTS`). Rows come by evaluation
            (in-domain, then external as declared), images (all, distinct), label space (open,
            closed), encoder and adaptation (sorted), metric. `ci_low` and `ci_high` hold for the
            trained models as they are. `fold_sd` is the standard deviation over folds of the mean
            over seeds, `seed_sd` that over seeds of the mean over folds, NaN where there is one;
            neither is an error of the estimate. `redrawn_share`, the share of bootstrap draws
            that lacked a declared class, is the cohort's and says how few subjects carry its
            rarest class, which limits jackknife and bootstrap intervals alike: all rows have it.
            `reliable` is false where it is above 5 %, and where a stratum has a single subject,
            whose variance no method can tell.
        confusions: `encoder, adaptation, evaluation, label_space, images, fold, seed, true,
            predicted, count`: a row for every declared true and every predictable class, zeros
            included, in the order of the classes.
    """

    results: pd.DataFrame
    confusions: pd.DataFrame


@dataclass(frozen=True)
class _Tallies:
    """What each subject adds to the metrics of U trained models."""

    confusions: npt.NDArray[np.int64]  # (U, S, K, K)
    nll: Values  # (U, S), in 1 / NLL_UNITS nats


def evaluate(
    predictions: pd.DataFrame, samples: pd.DataFrame, settings: EvaluationSettings
) -> Evaluation:
    """Compute every metric of every model in every evaluation.

    Args:
        predictions: of all models (`sonobench.tables.PREDICTIONS`); validation rows are left out.
        samples: of all predicted images (`sonobench.tables.SAMPLES`).
        settings: classes, cohorts, estimand, intervals.

    Raises:
        TableError: a table breaks its schema, tables and settings contradict each other, or the
            models cannot be compared.
    """
    results: dict[tuple[str, ...], pd.DataFrame] = {}
    confusions: dict[tuple[str, ...], pd.DataFrame] = {}
    every_class = np.arange(len(settings.classes))
    for cohort in cohorts(predictions, samples, settings):
        draws = _draws(cohort, settings)
        for label_space, allowed in (("open", every_class), ("closed", cohort.declared)):
            tallies = {
                pair: _tally(cohort, trained, allowed, len(settings.classes))
                for pair, trained in cohort.models.items()
            }
            nll_draws = _nll_draws(list(tallies.values()), draws)
            for pair, nll in zip(tallies, nll_draws, strict=True):
                key = (cohort.evaluation, label_space, cohort.images)
                results[*pair, "mean_of_folds", *key, "all", "none"] = _metrics(
                    cohort, cohort.models[pair], tallies[pair], nll, settings
                ).assign(
                    redrawn_share=draws.redrawn_share,
                    reliable=_reliable(cohort, draws),
                    n_images=len(cohort.true),
                    n_patients=len(cohort.strata),
                )
                confusions[*pair, *key] = _confusions(
                    cohort, cohort.models[pair], tallies[pair], allowed, settings.classes
                )
    names = ["encoder", "adaptation", "evaluation", "label_space", "images"]
    return Evaluation(
        results=check(pd.concat(results, names=list(RESULTS.key[:-1])).reset_index(), RESULTS),
        confusions=pd.concat(confusions, names=names).reset_index(names).reset_index(drop=True),
    )


def _draws(cohort: Cohort, settings: EvaluationSettings) -> Draws:
    # Seeded by the cohort's name: cohorts are drawn independently, whatever their number and order.
    generator = np.random.default_rng([settings.seed, *cohort.evaluation.encode()])
    carries = (cohort.class_images[:, :, cohort.declared] > 0).reshape(len(cohort.strata), -1)
    return draw_subjects(cohort.strata, carries, settings.bootstrap_draws, generator)


def _reliable(cohort: Cohort, draws: Draws) -> bool:
    alone = bool((np.bincount(cohort.strata) == 1).any())
    return draws.redrawn_share <= RELIABLE_REDRAWN_SHARE and not alone


def _tally(
    cohort: Cohort, trained: Sequence[TrainedModel], allowed: npt.NDArray[np.intp], n_classes: int
) -> _Tallies:
    n_subjects = len(cohort.strata)
    confusions, nll = [], []
    for model in trained:
        subject, true = cohort.subject[model.images], cohort.true[model.images]
        predicted = predicted_classes(model.logits, allowed)
        confusions.append(subject_confusions(subject, true, predicted, n_subjects, n_classes))
        nll.append(subject_nll(subject, true, model.logits, allowed, n_subjects))
    return _Tallies(np.stack(confusions), np.stack(nll))


def _nll_draws(tallies: Sequence[_Tallies], draws: Draws) -> list[Values]:
    """Mean NLL over each model's trained models in every draw, (draws,) a model."""
    nll = np.concatenate([tally.nll for tally in tallies])
    images = np.concatenate([tally.confusions.sum((-2, -1)) for tally in tallies])
    means = bootstrap_statistic(
        draws.weights,
        np.stack([nll, images]).transpose(2, 0, 1),
        lambda sums: sums[:, 0] / sums[:, 1] / NLL_UNITS,
    )
    ends = np.cumsum([len(tally.nll) for tally in tallies])
    return [of_model.mean(axis=1) for of_model in np.split(means, ends[:-1], axis=1)]


def _metrics(
    cohort: Cohort,
    trained: Sequence[TrainedModel],
    tally: _Tallies,
    nll_draws: Values,
    settings: EvaluationSettings,
) -> pd.DataFrame:
    """One row a metric: estimate, interval, deviation over folds and over seeds."""
    bounded = bounded_metrics(tally.confusions.sum(1), cohort.declared)
    test_sets = cohort.class_images.swapaxes(0, 1)
    low, high = logit_interval(
        bounded.mean(0),
        jackknife_standard_error(
            tally.confusions,
            lambda confusion: bounded_metrics(confusion, cohort.declared),
            cohort.strata,
        ),
        np.mean([subject_shares(images, cohort.declared) for images in test_sets], axis=0),
        degrees_of_freedom=len(cohort.strata) - len(np.unique(cohort.strata)),
        confidence=settings.confidence,
    )
    nll = tally.nll.sum(1) / tally.confusions.sum((1, 2, 3)) / NLL_UNITS
    nll_low, nll_high = percentile_interval(nll_draws, settings.confidence)
    by_model = pd.DataFrame(
        np.column_stack([bounded, nll]),
        columns=[*bounded_metric_names(settings.classes, cohort.declared), "nll"],
    )
    folds, seeds = ([getattr(model, of) for model in trained] for of in ("fold", "seed"))
    return pd.DataFrame(
        {
            "estimate": np.append(bounded.mean(0), nll.mean()),
            "ci_low": np.append(low, nll_low),
            "ci_high": np.append(high, nll_high),
            "fold_sd": by_model.groupby(folds).mean().std(),
            "seed_sd": by_model.groupby(seeds).mean().std(),
        },
        index=by_model.columns.rename("metric"),
    )


def _confusions(
    cohort: Cohort,
    trained: Sequence[TrainedModel],
    tally: _Tallies,
    allowed: npt.NDArray[np.intp],
    classes: Sequence[str],
) -> pd.DataFrame:
    cells = [
        (model.fold, model.seed, classes[true], classes[predicted], confusion[true, predicted])
        for model, confusion in zip(trained, tally.confusions.sum(1), strict=True)
        for true in cohort.declared
        for predicted in allowed
    ]
    return pd.DataFrame(cells, columns=["fold", "seed", "true", "predicted", "count"])
