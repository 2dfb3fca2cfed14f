"""Several runs beside each other: does a ranking depend on the recipe?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.bootstrap import Draws, percentile_interval
from sonobench.evaluation.cohort import Cohort, cohorts
from sonobench.evaluation.comparisons import paired
from sonobench.evaluation.evaluate import cohort_draws
from sonobench.evaluation.inputs import tested_rows
from sonobench.evaluation.metrics import COMPARED
from sonobench.evaluation.scoring import NUMBERS, Scored, Trial, class_metrics
from sonobench.evaluation.settings import EvaluationSettings
from sonobench.tables import TableError

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunTables:
    """What of a run is compared: its predictions, its samples and how it was evaluated."""

    predictions: pd.DataFrame
    samples: pd.DataFrame
    settings: EvaluationSettings


@dataclass(frozen=True)
class RunComparison:
    """Several runs on the images that they have in common, in open classes.

    Attributes:
        scores: `run, encoder, adaptation, evaluation, metric, estimate, ci_low, ci_high, n_images,
            n_patients`.
        differences: `run_a, run_b, encoder, adaptation, evaluation, metric, estimate, ci_low,
            ci_high, p, p_holm`: a - b of each model that two runs have, over the same patients.
            Holm's correction is over the models of an evaluation and two runs.
        agreement: `run_a, run_b, adaptation, evaluation, n_encoders, kendall_tau, ci_low, ci_high`:
            whether two runs rank the encoders that both have alike, 1 for the same order.
        notes: what could not be compared, and why.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    agreement: pd.DataFrame
    notes: tuple[str, ...]


_SCORES = ["run", "encoder", "adaptation", "evaluation", "metric", "estimate", "ci_low", "ci_high"]
_SCORES += ["n_images", "n_patients"]
_DIFFERENCES = ["run_a", "run_b", "encoder", "adaptation", "evaluation", "metric", "estimate"]
_DIFFERENCES += ["ci_low", "ci_high", "p", "p_holm"]
_AGREEMENT = ["run_a", "run_b", "adaptation", "evaluation", "n_encoders", "kendall_tau"]
_AGREEMENT += ["ci_low", "ci_high"]


def compare_runs(runs: Mapping[str, RunTables]) -> RunComparison:
    """Compare runs on every evaluation that two or more of them have, by its name.

    Args:
        runs: two or more by name, in the order of the tables.

    Raises:
        TableError: an image has another label or subject in another run, or runs have nothing in
            common.
    """
    scores: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    agreement: list[dict[str, Any]] = []
    notes: list[str] = []
    names = dict.fromkeys(name for run in runs.values() for name in run.settings.evaluations)
    for evaluation in names:
        those = {name: run for name, run in runs.items() if evaluation in run.settings.evaluations}
        if len(those) < 2:
            notes.append(f"{evaluation}: only in {next(iter(those))}")
            continue
        found = _common(evaluation, those, notes)
        if found is None:
            continue
        cohort_of, draws = found
        models = {}
        for name, cohort in cohort_of.items():
            rows, scored = _scored(cohort, draws, those[name].settings)
            scores += [{"run": name, "evaluation": evaluation, **row} for row in rows]
            models[name] = scored
        confidence = next(iter(those.values())).settings.confidence
        for a, b in combinations(models, 2):
            both = {"run_a": a, "run_b": b, "evaluation": evaluation}
            differences += [
                {**both, **row} for row in _differences(models[a], models[b], confidence)
            ]
            agreement += [{**both, **row} for row in _agreements(models[a], models[b], confidence)]
    if not scores:
        raise TableError("these runs have nothing in common: " + "; ".join(notes))
    return RunComparison(
        pd.DataFrame(scores, columns=_SCORES),
        pd.DataFrame(differences, columns=_DIFFERENCES),
        pd.DataFrame(agreement, columns=_AGREEMENT),
        tuple(notes),
    )


def _common(
    evaluation: str, runs: Mapping[str, RunTables], notes: list[str]
) -> tuple[dict[str, Cohort], Draws] | None:
    """Each run's cohort with the images that all have, and draws of their subjects."""
    tested = {
        name: run.predictions[
            run.predictions["role"].isin(["test", "external"])
            & (run.predictions["dataset"] == run.settings.dataset_of(evaluation))
        ]
        for name, run in runs.items()
    }
    everywhere = set.intersection(*[set(rows["image_id"]) for rows in tested.values()])
    if not everywhere:
        notes.append(
            f"{evaluation}: no image is in all of {', '.join(runs)} (by image_id; pseudonyms are "
            "those of one key, and of no run without them)"
        )
        return None
    fewer = {name: rows["image_id"].nunique() for name, rows in tested.items()}
    if set(fewer.values()) != {len(everywhere)}:
        counts = ", ".join(f"{name} has {count}" for name, count in fewer.items())
        notes.append(f"{evaluation}: on the {len(everywhere)} images in common ({counts})")
    truths = {
        name: rows[rows["image_id"].isin(everywhere)]
        .drop_duplicates("image_id")
        .set_index("image_id")[["label", "subject_id"]]
        .sort_index()
        for name, rows in tested.items()
    }
    first, *others = truths
    for other in others:
        for column in ("label", "subject_id"):
            differs = truths[first][column] != truths[other][column]
            if differs.any():
                image = differs.index[int(np.flatnonzero(differs)[0])]
                raise TableError(
                    f"{evaluation}: {column} of image {image!r} is "
                    f"{truths[first][column][image]!r} in {first} and "
                    f"{truths[other][column][image]!r} in {other}; merge subjects and name classes "
                    "alike to compare these runs"
                )
    found: dict[str, Cohort] = {}
    for name, run in runs.items():
        own = tested[name]
        settings = _only(evaluation, run.settings, set(truths[name]["label"]))
        if settings is None:
            notes.append(
                f"{evaluation}: {name} has training classes without an image in common, and its "
                "in-domain average is over all of them"
            )
            return None
        own = own[own["image_id"].isin(everywhere)]
        found[name] = next(iter(cohorts(*tested_rows(own, run.samples, settings), settings)))
    strata = [cohort.strata.tolist() for cohort in found.values()]
    if any(other != strata[0] for other in strata):
        notes.append(
            f"{evaluation}: test folds or sites differ, so that patients cannot be drawn alike"
        )
        return None
    name = next(iter(found))
    return found, cohort_draws(found[name], runs[name].settings)


def _only(
    evaluation: str, settings: EvaluationSettings, labels: set[str]
) -> EvaluationSettings | None:
    """The settings with this evaluation alone; None if its classes cannot be those of `labels`."""
    if evaluation in settings.declared:
        declared = tuple(name for name in settings.declared[evaluation] if name in labels)
        return replace(settings, source=None, declared={evaluation: declared})
    return replace(settings, declared={}) if labels == set(settings.classes) else None


def _scored(
    cohort: Cohort, draws: Draws, settings: EvaluationSettings
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], Scored]]:
    trial = Trial(cohort, np.arange(len(settings.classes)), draws, settings)
    rows, models = [], {}
    for (encoder, adaptation), trained in cohort.models.items():
        scored = models[encoder, adaptation] = class_metrics(trial, trained)
        of = dict(zip(scored.metrics.names, scored.metrics.numbers.tolist(), strict=True))
        rows += [
            {
                "encoder": encoder,
                "adaptation": adaptation,
                "metric": metric,
                **dict(zip(NUMBERS[:3], of[metric][:3], strict=True)),
                "n_images": len(cohort.true),
                "n_patients": len(cohort.strata),
            }
            for metric in COMPARED
        ]
    return rows, models


def _differences(
    a: Mapping[tuple[str, str], Scored], b: Mapping[tuple[str, str], Scored], confidence: float
) -> Iterator[dict[str, Any]]:
    models = {("a", *pair): scored.compared for pair, scored in a.items()}
    models |= {("b", *pair): scored.compared for pair, scored in b.items()}
    pairs = [(("a", *pair), ("b", *pair)) for pair in a if pair in b]
    for row in paired(models, pairs, confidence):
        _, encoder, adaptation = row["a"]
        numbers = {name: value for name, value in row.items() if name not in ("a", "b")}
        yield {**numbers, "encoder": encoder, "adaptation": adaptation}


def _agreements(
    a: Mapping[tuple[str, str], Scored], b: Mapping[tuple[str, str], Scored], confidence: float
) -> Iterator[dict[str, Any]]:
    """Kendall's tau-b of the macro F1 of all encoders that both runs adapted alike."""
    common = [pair for pair in a if pair in b]
    for adaptation in dict.fromkeys(adaptation for _, adaptation in common):
        pairs = [pair for pair in common if pair[1] == adaptation]
        if len(pairs) < 2:
            continue
        estimates = [
            np.array([[run[pair].compared.estimate[0] for pair in pairs]]) for run in (a, b)
        ]
        drawn = [np.stack([run[pair].drawn[:, 0] for pair in pairs], axis=1) for run in (a, b)]
        low, high = percentile_interval(kendall_tau(*drawn), confidence)
        yield {
            "adaptation": adaptation,
            "n_encoders": len(pairs),
            "kendall_tau": float(kendall_tau(*estimates)[0]),
            "ci_low": float(low),
            "ci_high": float(high),
        }


def kendall_tau(a: Values, b: Values) -> Values:
    """Kendall's tau-b between rows of two arrays, (B, m) and (B, m) -> (B,).

    0 where all values of a row are equal.
    """
    one, other = (
        np.sign(values[:, rows] - values[:, columns])
        for values in (a, b)
        for rows, columns in [np.triu_indices(a.shape[1], 1)]
    )
    untied = np.sqrt(np.square(one).sum(1) * np.square(other).sum(1))
    tau: Values = np.divide((one * other).sum(1), untied, out=np.zeros(len(a)), where=untied > 0)
    return tau
