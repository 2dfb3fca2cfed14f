"""What comparisons, calibration and centres say, in the few lines that a terminal has room for."""

from collections.abc import Sequence
from dataclasses import dataclass

from sonobench.evaluation import IN_DOMAIN, Evaluation
from sonobench.report.comparisons import Comparisons, Difference
from sonobench.report.numbers import number, p_value, signed, signed_bounds, with_bounds
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import MAIN, Model, Scores, evaluation_title
from sonobench.report.subgroups import group_scores

# Differences to the best that are shown for each adaptation and evaluation, smallest first.
_NEAREST = 3


@dataclass(frozen=True)
class Brief:
    """A title, and lines of cells that stand below each other."""

    title: str
    lines: Sequence[tuple[str, ...]]


def briefs(
    run: RunFolder, scores: Scores, comparisons: Comparisons, evaluation: Evaluation
) -> list[Brief]:
    """Those that have something to say."""
    made = [
        Brief(
            "Paired differences in macro F1: the best minus those nearest to it (p after Holm)",
            [_difference(d, comparisons.alpha) for d in _to_the_best(run, scores, comparisons)],
        ),
        Brief(
            "What another adaptation changes",
            [_difference(d, comparisons.alpha) for d in comparisons.adaptations],
        ),
        Brief(
            "In-domain minus external macro F1",
            [
                (
                    drop.model.title,
                    evaluation_title(drop.evaluation),
                    f"{signed(drop.estimate)} {signed_bounds(drop.low, drop.high)}",
                )
                for drop in comparisons.drops
                if not run.is_control(*drop.model)
            ],
        ),
        Brief(
            "Calibration error (ECE) as trained → with a temperature from validation patients",
            _calibration(run, scores, evaluation),
        ),
        *_groups(run, scores, evaluation),
        Brief("The paper's claims", _claims(evaluation)),
    ]
    return [brief for brief in made if brief.lines]


def _difference(difference: Difference, alpha: float) -> tuple[str, ...]:
    return (
        difference.title,
        evaluation_title(difference.evaluation),
        f"{signed(difference.estimate)} {signed_bounds(difference.low, difference.high)}",
        f"p {p_value(difference.p, alpha)}",
    )


def _to_the_best(run: RunFolder, scores: Scores, comparisons: Comparisons) -> list[Difference]:
    chosen = [model for model in scores.models if not run.is_control(*model)]
    found = []
    for evaluation in scores.evaluations:
        for adaptation in dict.fromkeys(model.adaptation for model in chosen):
            models = [model for model in chosen if model.adaptation == adaptation]
            best = _best(models, evaluation, scores)
            own = [
                d if d.a == best else d.reversed()
                for d in comparisons.pairs
                if d.evaluation == evaluation and best in (d.a, d.b) and {d.a, d.b} <= set(models)
            ]
            found += sorted(own, key=lambda d: d.estimate)[:_NEAREST]
    return found


def _best(models: Sequence[Model], evaluation: str, scores: Scores) -> Model:
    return max(models, key=lambda model: scores.macro_f1(model, evaluation).estimate)


def _calibration(run: RunFolder, scores: Scores, evaluation: Evaluation) -> list[tuple[str, ...]]:
    rows = evaluation.results
    ece = rows[
        (rows["metric"] == "ece")
        & (rows["aggregate"] == "mean_of_folds")
        & (rows["subgroup"] == "all")
        & (rows["label_space"] == MAIN.label_space)
        & (rows["images"] == MAIN.images)
    ].set_index(["encoder", "adaptation", "evaluation", "calibration"])["estimate"]
    lines = []
    for model in scores.models:
        if run.is_control(*model) or (*model, IN_DOMAIN, "temperature") not in ece.index:
            continue
        changes = [
            f"{evaluation_title(where)} {number(ece[*model, where, 'none'])} → "
            f"{number(ece[*model, where, 'temperature'])}"
            for where in scores.evaluations
            if (*model, where, "temperature") in ece.index
        ]
        lines.append((model.title, *changes))
    return lines


def _groups(run: RunFolder, scores: Scores, evaluation: Evaluation) -> list[Brief]:
    """What the best model reaches in every centre and on every device, home and abroad."""
    chosen = [model for model in scores.models if not run.is_control(*model)]
    groups = group_scores(evaluation.results) if chosen else []
    found = []
    for where in scores.evaluations if chosen else ():
        best = _best(chosen, where, scores)
        own = [group for group in groups if (group.evaluation, group.model) == (where, best)]
        lines = [
            (
                group.group,
                group.measure,
                with_bounds(group.score.estimate, group.score.low, group.score.high) + group.mark,
                f"{group.images:,} images, {group.patients:,} patients",
            )
            for group in own
        ]
        doubt = "; † interval not to be relied on" if any(group.mark for group in own) else ""
        title = f"Within groups, {evaluation_title(where)}: {best.title}{doubt}"
        found.append(Brief(title, lines))
    return found


def _claims(evaluation: Evaluation) -> list[tuple[str, ...]]:
    claims = evaluation.claims
    alike = claims[["verdict", "reason"]].drop_duplicates()
    if len(claims) > 1 and len(alike) == 1:
        return [(f"all {len(claims)}", *alike.iloc[0])]
    return [(row["claim"], row["verdict"], row["reason"]) for row in claims.to_dict("records")]
