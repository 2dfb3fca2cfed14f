"""All metrics of one model on one set of images, with their intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sonobench.evaluation.bootstrap import Draws, bootstrap_statistic, percentile_interval
from sonobench.evaluation.cohort import Cohort, TrainedModel
from sonobench.evaluation.comparisons import Compared
from sonobench.evaluation.counts import subject_confusions
from sonobench.evaluation.jackknife import (
    jackknife_replicates,
    jackknife_variance,
    logit_interval,
)
from sonobench.evaluation.metrics import (
    COMPARED,
    UNBOUNDED,
    bounded_metric_names,
    bounded_metrics,
    drawn_metrics,
    subject_shares,
)
from sonobench.evaluation.probabilities import (
    calibration_errors,
    probability_sums,
    score_means,
)
from sonobench.evaluation.rank_metrics import one_vs_rest, risk_coverage_area
from sonobench.evaluation.settings import EvaluationSettings

# Above this share of redrawn or skipped draws an interval is marked unreliable.
RELIABLE_REDRAWN_SHARE = 0.05

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """Images, what may be predicted of them, and draws of their subjects.

    Attributes:
        cohort: the images.
        allowed: indices of the classes that may be predicted, ascending.
        draws: of the cohort's subjects.
        settings: of the evaluation.
    """

    cohort: Cohort
    allowed: npt.NDArray[np.intp]
    draws: Draws
    settings: EvaluationSettings

    @property
    def reliable(self) -> bool:
        """Whether intervals can be trusted: few draws lack a class, no stratum has one subject."""
        alone = bool((np.bincount(self.cohort.strata) == 1).any())
        return self.draws.redrawn_share <= RELIABLE_REDRAWN_SHARE and not alone

    @property
    def degrees_of_freedom(self) -> int:
        """Subjects less strata."""
        return len(self.cohort.strata) - len(np.unique(self.cohort.strata))

    @property
    def shares(self) -> Values:
        """How much of each bounded metric rests on each subject, mean over test sets, (S, M)."""
        sets = self.cohort.class_images.swapaxes(0, 1)
        shares = [subject_shares(images, self.cohort.declared) for images in sets]
        mean: Values = np.mean(shares, axis=0)
        return mean

    @property
    def few_weights(self) -> npt.NDArray[np.float32]:
        """The draws of metrics that need many sums, (B, S)."""
        return self.draws.weights[: self.settings.rank_draws]


NUMBERS = ("estimate", "ci_low", "ci_high", "fold_sd", "seed_sd")


@dataclass(frozen=True)
class Metrics:
    """Some metrics of one model: their names, and the `NUMBERS` of each, (M, 5)."""

    names: tuple[str, ...]
    numbers: Values

    def and_(self, *others: "Metrics") -> "Metrics":
        """These, then those of `others`."""
        every = (self, *others)
        return Metrics(
            tuple(name for one in every for name in one.names),
            np.concatenate([one.numbers for one in every]),
        )

    def only(self, wanted: Callable[[str], bool]) -> "Metrics":
        """Those with a wanted name."""
        kept = [place for place, name in enumerate(self.names) if wanted(name)]
        return Metrics(tuple(self.names[place] for place in kept), self.numbers[kept])


@dataclass(frozen=True)
class Scored:
    """What the predicted classes of one model reach.

    Attributes:
        metrics: of the confusion matrices.
        compared: what it is compared with others by.
        drawn: the metrics `COMPARED` in every draw, (B, 3).
        confusions: of every trained model, (U, K, K).
    """

    metrics: Metrics
    compared: Compared
    drawn: Values
    confusions: npt.NDArray[np.int64]


def class_metrics(trial: Trial, trained: Sequence[TrainedModel]) -> Scored:
    """Score predicted classes: every metric of a confusion matrix.

    Those between 0 and 1 have the logit-jackknife interval, kappa and MCC that of the bootstrap.
    """
    cohort, declared = trial.cohort, trial.cohort.declared
    counts = np.stack(
        [
            subject_confusions(
                cohort.subject[model.images],
                cohort.true[model.images],
                model.predicted(trial.allowed),
                len(cohort.strata),
                len(trial.settings.classes),
            )
            for model in trained
        ]
    )
    confusions = counts.sum(1)
    bounded = bounded_metrics(confusions, declared)
    replicates = jackknife_replicates(
        counts, lambda confusion: bounded_metrics(confusion, declared), cohort.strata
    )
    low, high = logit_interval(
        bounded.mean(0),
        np.sqrt(jackknife_variance(replicates, cohort.strata)),
        trial.shares,
        trial.degrees_of_freedom,
        trial.settings.confidence,
    )
    values = drawn_metrics(confusions, declared)
    drawn = bootstrap_statistic(
        trial.draws.weights,
        counts.swapaxes(0, 1),
        lambda sums: drawn_metrics(sums, declared).mean(1),
    )
    names = bounded_metric_names(trial.settings.classes, declared)
    interval = percentile_interval(drawn[:, len(COMPARED) :], trial.settings.confidence)
    metrics = _metrics(trained, names, bounded, low, high).and_(
        _metrics(trained, UNBOUNDED, values[:, len(COMPARED) :], *interval)
    )
    compared = Compared(
        values[:, : len(COMPARED)].mean(0),
        replicates[:, [names.index(name) for name in COMPARED]],
        counts.mean(0),
        cohort.strata,
    )
    return Scored(metrics, compared, drawn[:, : len(COMPARED)], confusions)


def probability_metrics(trial: Trial, trained: Sequence[TrainedModel]) -> Metrics:
    """Score probabilities: likelihood, Brier score and calibration errors.

    The first two have percentile intervals; calibration errors, between 0 and 1, have one on the
    logit scale with the bootstrap's standard error, which their upward bias does not move.
    """
    cohort, settings = trial.cohort, trial.settings
    sums = [
        probability_sums(
            cohort.subject[model.images],
            cohort.true[model.images],
            model.logits,
            trial.allowed,
            cohort.declared,
            len(cohort.strata),
            model.given,
        )
        for model in trained
    ]
    scores = np.stack([of_model.scores for of_model in sums], axis=1)
    gaps = np.stack([of_model.gaps for of_model in sums], axis=1)
    drawn_scores = bootstrap_statistic(
        trial.draws.weights, scores, lambda block: score_means(block).mean(1)
    )
    drawn_errors = bootstrap_statistic(
        trial.few_weights, gaps, lambda block: calibration_errors(block).mean(1)
    )
    interval = percentile_interval(drawn_scores, settings.confidence)
    errors = calibration_errors(gaps.sum(0))
    calibration = _on_logit_scale(
        trial, trained, ("ece", "classwise_ece"), errors, drawn_errors, ("accuracy", "macro_f1")
    )
    means = _metrics(trained, ("nll", "brier"), score_means(scores.sum(0)), *interval)
    return means.and_(calibration)


def rank_metrics(trial: Trial, trained: Sequence[TrainedModel]) -> Metrics:
    """Score how probabilities rank images: macro one-vs-rest AUROC and average precision.

    Without a second declared class there is nothing to rank against, and no metric.
    """
    cohort, declared = trial.cohort, trial.cohort.declared
    names = ("macro_auroc", "macro_average_precision")
    if len(declared) < 2:
        return Metrics((), np.empty((0, len(NUMBERS))))
    values, drawn = [], []
    whole, weights = _weights(trial)
    for model in trained:
        subject, true = cohort.subject[model.images], cohort.true[model.images]
        probability = model.probabilities(trial.allowed)
        cases = [(probability[:, index], true == index, subject) for index in declared]
        values.append(np.mean([one_vs_rest(*case, whole)[:, 0] for case in cases], axis=0))
        drawn.append(np.mean([one_vs_rest(*case, weights) for case in cases], axis=0))
    return _on_logit_scale(
        trial, trained, names, np.stack(values), np.mean(drawn, axis=0).T, ("macro_f1", "macro_f1")
    )


def selection_metrics(trial: Trial, trained: Sequence[TrainedModel]) -> Metrics:
    """Score how confidence tells right from wrong: the area under the risk-coverage curve."""
    cohort = trial.cohort
    values, drawn = [], []
    whole, weights = _weights(trial)
    for model in trained:
        subject, true = cohort.subject[model.images], cohort.true[model.images]
        wrong = model.predicted(trial.allowed) != true
        confidence = model.probabilities(trial.allowed).max(1)
        values.append(risk_coverage_area(confidence, wrong, subject, whole))
        drawn.append(risk_coverage_area(confidence, wrong, subject, weights))
    return _on_logit_scale(
        trial, trained, ("aurc",), np.stack(values), np.mean(drawn, axis=0)[:, None], ("accuracy",)
    )


def _weights(trial: Trial) -> tuple[Values, npt.NDArray[np.float32]]:
    """The whole sample, (S, 1), and the draws, (S, B), as the rank metrics want them."""
    return np.ones((len(trial.cohort.strata), 1)), np.ascontiguousarray(trial.few_weights.T)


def _on_logit_scale(
    trial: Trial,
    trained: Sequence[TrainedModel],
    names: Sequence[str],
    by_model: Values,
    drawn: Values,
    weighted_as: Sequence[str],
) -> Metrics:
    """Metrics between 0 and 1 whose standard error is that of the bootstrap, (B, M).

    At 0 and 1 subjects count as in the metrics `weighted_as`.
    """
    classes = bounded_metric_names(trial.settings.classes, trial.cohort.declared)
    places = [classes.index(name) for name in weighted_as]
    low, high = logit_interval(
        by_model.mean(0),
        np.nanstd(drawn, axis=0, ddof=1) if len(drawn) > 1 else np.full(len(names), np.nan),
        trial.shares[:, places],
        trial.degrees_of_freedom,
        trial.settings.confidence,
    )
    return _metrics(trained, names, by_model, low, high)


def _metrics(
    trained: Sequence[TrainedModel],
    names: Sequence[str],
    by_model: Values,
    low: Values,
    high: Values,
) -> Metrics:
    """Estimate, interval, deviation over folds and over seeds of metrics of U models, (U, M)."""
    folds, seeds = ([getattr(model, of) for model in trained] for of in ("fold", "seed"))
    deviations = [_deviation(by_model, folds), _deviation(by_model, seeds)]
    return Metrics(tuple(names), np.column_stack([by_model.mean(0), low, high, *deviations]))


def _deviation(by_model: Values, of: Sequence[int]) -> Values:
    """Standard deviation over folds (or seeds) of the means of all models of each; NaN for one."""
    means = [by_model[np.array(of) == value].mean(0) for value in sorted(set(of))]
    if len(means) == 1:
        return np.full(by_model.shape[1], np.nan)
    deviation: Values = np.std(means, axis=0, ddof=1)
    return deviation
