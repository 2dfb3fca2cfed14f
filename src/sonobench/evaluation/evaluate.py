"""From predictions to all that is said of them: results, comparisons, calibration, curves."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.bootstrap import Draws, draw_subjects
from sonobench.evaluation.calibration import calibrated, reliability, risk_coverage, temperatures
from sonobench.evaluation.cohort import Cohort, TrainedModel, cohorts
from sonobench.evaluation.comparisons import Compared, comparisons
from sonobench.evaluation.ensemble import ensemble
from sonobench.evaluation.inputs import tested_rows
from sonobench.evaluation.label_efficiency import label_efficiency
from sonobench.evaluation.paper import paper_claims, paper_numbers
from sonobench.evaluation.preflight import unjudged, without
from sonobench.evaluation.scoring import (
    Metrics,
    Scored,
    Trial,
    class_metrics,
    probability_metrics,
    rank_metrics,
    selection_metrics,
)
from sonobench.evaluation.settings import EvaluationSettings
from sonobench.evaluation.subgroups import Subgroup, subgroup_table, subgroups, trials
from sonobench.tables import (
    LEFT_OUT,
    RELIABILITY,
    RESULTS,
    RISK_COVERAGE,
    SUBGROUPS,
    Table,
    check,
    empty,
)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Evaluation:
    """What the predictions say.

    Attributes:
        results: the long table of results (`sonobench.tables.RESULTS`). Rows come by evaluation
            (in-domain, then external as declared), images (all, distinct), label space (open,
            closed); within these: models as they are, with temperatures, ensembles, subgroups (as
            they are, then with temperatures), each by encoder and adaptation (sorted), then metric.
            Temperatures and subgroups are of all images only, and subgroups have no rank metrics.
            `ci_low` and `ci_high` hold for the trained models as they are. `fold_sd` is the
            standard deviation over folds of the mean over seeds, `seed_sd` that over seeds of the
            mean over folds, NaN where there is one; neither is an error of the estimate.
            `redrawn_share`, the share of bootstrap draws that lacked a declared class, is the
            cohort's and says how few subjects carry its rarest class, which limits jackknife and
            bootstrap intervals alike: all rows have it. `reliable` is false where it is above 5 %,
            and where a stratum has a single subject, whose variance no method can tell.
        confusions: `encoder, adaptation, evaluation, label_space, images, fold, seed, true,
            predicted, count`: a row for every declared true and every predictable class, zeros
            included, in the order of the classes.
        comparisons, temperatures, reliability, risk_coverage, subgroups, label_efficiency, paper,
            claims, left_out: the tables of these names in `sonobench.tables`; empty where there is
            nothing.
    """

    results: pd.DataFrame
    confusions: pd.DataFrame
    comparisons: pd.DataFrame
    temperatures: pd.DataFrame
    reliability: pd.DataFrame
    risk_coverage: pd.DataFrame
    subgroups: pd.DataFrame
    label_efficiency: pd.DataFrame
    paper: pd.DataFrame
    claims: pd.DataFrame
    left_out: pd.DataFrame


@dataclass(frozen=True)
class _Part:
    """Metrics of one model on one set of images, and their place in the table of results."""

    pair: Pair
    aggregate: str
    subgroup: str
    calibration: str
    trial: Trial
    metrics: Metrics


@dataclass(frozen=True)
class _Variant:
    """What is said of one cohort in one label space.

    Attributes:
        parts: the models and their ensembles.
        scored: the models' predicted classes.
    """

    parts: list[_Part]
    scored: dict[Pair, Scored]


def evaluate(
    predictions: pd.DataFrame,
    samples: pd.DataFrame,
    settings: EvaluationSettings,
    fewer_patients: Iterable[tuple[int, pd.DataFrame]] = (),
    on_progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Compute everything that the predictions say.

    Args:
        predictions: of all models (`sonobench.tables.PREDICTIONS`); validation rows serve for
            temperatures alone.
        samples: of all predicted images (`sonobench.tables.SAMPLES`).
        settings: classes, cohorts, estimand, intervals.
        fewer_patients: numbers of training patients, and predictions of probes trained on so many;
            their `seed` is the draw of the patients.
        on_progress: called with what is evaluated next, in words.

    Raises:
        TableError: a table breaks its schema, tables and settings contradict each other, the
            models cannot be compared, or no evaluation can be judged.
    """
    tested, logits = tested_rows(predictions, samples, settings)
    left_out, all_settings = unjudged(tested, samples, settings), settings
    settings = without(settings, left_out)
    fitted = temperatures(predictions, settings)
    results: list[tuple[_Part, tuple[str, str, str]]] = []
    confusions, reliabilities, risks, groups = [], [], [], []
    compared: dict[tuple[str, str, str], dict[Pair, Compared]] = {}
    # In a cohort without copies all images are distinct, and with all classes open is closed.
    drawn: dict[tuple[str, int], Draws] = {}
    known: dict[tuple[str, int, bytes], _Variant] = {}
    for cohort in cohorts(tested, logits, settings):
        size = (cohort.evaluation, len(cohort.true))
        if size not in drawn:
            drawn[size] = cohort_draws(cohort, settings)
        draws = drawn[size]
        found = subgroups(cohort) if cohort.images == "all" else []
        groups.append(subgroup_table(cohort, found))
        further: dict[bytes, list[_Part]] = {}
        for label_space, allowed in label_spaces(cohort, settings):
            if on_progress is not None:
                on_progress(f"{cohort.evaluation}, {cohort.images} images, {label_space} classes")
            trial, name = Trial(cohort, allowed, draws, settings), allowed.tobytes()
            same = (*size, name)
            if same not in known:
                known[same] = _variant(trial)
            if cohort.images == "all" and name not in further:
                further[name] = [*_further(trial, fitted, found)]
            key = (cohort.evaluation, label_space, cohort.images)
            for part in (*known[same].parts, *further.get(name, ())):
                results.append((part, key))
            for pair, scored in known[same].scored.items():
                compared.setdefault(key, {})[pair] = scored.compared
                confusions.append(_confusion_rows(pair, key, trial, scored.confusions))
            if cohort.images == "all" and label_space == "open" and settings.probabilities:
                for pair, calibration, trained in _calibrations(cohort, fitted):
                    names = dict(zip(("encoder", "adaptation"), pair, strict=True))
                    names |= {"evaluation": cohort.evaluation, "calibration": calibration}
                    reliabilities.append(reliability(trained, cohort.true, allowed).assign(**names))
                    risks.append(risk_coverage(trained, cohort.true, allowed).assign(**names))
    table = _results(results)
    against = comparisons(compared, settings.confidence)
    return Evaluation(
        results=table,
        confusions=pd.concat(confusions, ignore_index=True),
        comparisons=against,
        temperatures=fitted,
        reliability=_stacked(reliabilities, RELIABILITY),
        risk_coverage=_stacked(risks, RISK_COVERAGE),
        subgroups=_stacked(groups, SUBGROUPS),
        label_efficiency=label_efficiency(fewer_patients, samples, all_settings, left_out),
        paper=paper_numbers(table, settings.paper),
        claims=paper_claims(table, against, settings.paper, settings.confidence),
        left_out=_stacked([pd.DataFrame(left_out)], LEFT_OUT),
    )


def cohort_draws(cohort: Cohort, settings: EvaluationSettings) -> Draws:
    """The joint bootstrap's draws of a cohort.

    Seeded by the cohort's name: cohorts are drawn independently, whatever their number and order.
    """
    generator = np.random.default_rng([settings.seed, *cohort.evaluation.encode()])
    return draw_subjects(cohort.strata, cohort.carries, settings.bootstrap_draws, generator)


def label_spaces(
    cohort: Cohort, settings: EvaluationSettings
) -> list[tuple[str, npt.NDArray[np.intp]]]:
    """Names of the label spaces and the classes that may be predicted in them."""
    every_class = np.arange(len(settings.classes))
    closed = [("closed", cohort.declared)] if settings.probabilities else []
    return [("open", every_class), *closed]


def _variant(trial: Trial) -> _Variant:
    models = trial.cohort.models
    scored = {pair: class_metrics(trial, trained) for pair, trained in models.items()}
    parts = []
    for pair, trained in models.items():
        metrics = scored[pair].metrics.and_(*_of_probabilities(trial, trained))
        parts.append(_Part(pair, "mean_of_folds", "all", "none", trial, metrics))
    if trial.settings.probabilities:
        for pair, trained in models.items():
            together = ensemble(trained)
            if together is not None:
                metrics = class_metrics(trial, [together]).metrics
                metrics = metrics.and_(*_of_probabilities(trial, [together]))
                parts.append(_Part(pair, "ensemble", "all", "none", trial, metrics))
    return _Variant(parts, scored)


def _of_probabilities(trial: Trial, trained: Sequence[TrainedModel]) -> list[Metrics]:
    if not trial.settings.probabilities:
        return []
    kinds = (probability_metrics, rank_metrics, selection_metrics)
    return [metrics(trial, trained) for metrics in kinds]


def _further(trial: Trial, fitted: pd.DataFrame, found: list[Subgroup]) -> Iterator[_Part]:
    """The models with temperatures, and in every subgroup that is large enough."""
    for pair, trained in calibrated(trial.cohort.models, fitted).items():
        metrics = probability_metrics(trial, trained).and_(selection_metrics(trial, trained))
        yield _Part(pair, "mean_of_folds", "all", "temperature", trial, metrics)
    for subgroup, part in trials(trial, found):
        for pair, trained in part.cohort.models.items():
            metrics = class_metrics(part, trained).metrics.only(subgroup.tells)
            if trial.settings.probabilities:
                metrics = metrics.and_(probability_metrics(part, trained))
            yield _Part(pair, "mean_of_folds", subgroup.name, "none", part, metrics)
        for pair, trained in calibrated(part.cohort.models, fitted).items():
            metrics = probability_metrics(part, trained)
            yield _Part(pair, "mean_of_folds", subgroup.name, "temperature", part, metrics)


def _calibrations(
    cohort: Cohort, fitted: pd.DataFrame
) -> Iterator[tuple[Pair, str, list[TrainedModel]]]:
    for pair, trained in cohort.models.items():
        yield pair, "none", trained
    for pair, trained in calibrated(cohort.models, fitted).items():
        yield pair, "temperature", trained


def _results(parts: list[tuple[_Part, tuple[str, str, str]]]) -> pd.DataFrame:
    """The table of results, from parts and the evaluation, label space and images of each."""
    rows = [
        (
            *part.pair,
            part.aggregate,
            *key,
            part.subgroup,
            part.calibration,
            metric,
            *numbers,
            part.trial.draws.redrawn_share,
            part.trial.reliable,
            len(part.trial.cohort.true),
            len(part.trial.cohort.strata),
        )
        for part, key in parts
        for metric, numbers in zip(part.metrics.names, part.metrics.numbers.tolist(), strict=True)
    ]
    return check(pd.DataFrame(rows, columns=RESULTS.names), RESULTS)


def _confusion_rows(
    pair: Pair, key: tuple[str, str, str], trial: Trial, confusions: npt.NDArray[np.int64]
) -> pd.DataFrame:
    (encoder, adaptation), (evaluation, label_space, images) = pair, key
    classes, cohort = trial.settings.classes, trial.cohort
    cells = [
        (model.fold, model.seed, classes[true], classes[predicted], confusion[true, predicted])
        for model, confusion in zip(cohort.models[pair], confusions, strict=True)
        for true in cohort.declared
        for predicted in trial.allowed
    ]
    frame = pd.DataFrame(cells, columns=["fold", "seed", "true", "predicted", "count"])
    names = {"encoder": encoder, "adaptation": adaptation, "evaluation": evaluation}
    names |= {"label_space": label_space, "images": images}
    return pd.concat([pd.DataFrame(names, index=frame.index), frame], axis=1)


def _stacked(frames: list[pd.DataFrame], table: Table) -> pd.DataFrame:
    filled = [frame for frame in frames if not frame.empty]
    return check(pd.concat(filled, ignore_index=True), table) if filled else empty(table)
