"""What comparisons, calibration and centres say, in the few lines that a terminal has room for."""

from collections.abc import Sequence
from dataclasses import dataclass

from sonobench.evaluation import IN_DOMAIN, Evaluation
from sonobench.report.comparisons import Comparisons, Difference
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import MAIN, Model, Scores, evaluation_title, spaced
from sonobench.report.tables import number, signed

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
            [_difference(d) for d in _to_the_best(run, scores, comparisons)],
        ),
        Brief(
            "What another adaptation changes",
            [_difference(d) for d in comparisons.adaptations],
        ),
        Brief(
            "In-domain minus external macro F1",
            [
                (
                    drop.model.title,
                    evaluation_title(drop.evaluation),
                    f"{signed(drop.estimate)} [{signed(drop.low)}, {signed(drop.high)}]",
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


def _difference(difference: Difference) -> tuple[str, ...]:
    return (
        difference.title,
        evaluation_title(difference.evaluation),
        f"{signed(difference.estimate)} [{signed(difference.low)}, {signed(difference.high)}]",
        f"p {difference.p:.3f}" if difference.p >= 0.001 else "p < 0.001",
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
    """Macro F1 of the best model in every centre and on every device, home and abroad."""
    rows = evaluation.results
    grouped = rows[
        (rows["metric"] == "macro_f1")
        & (rows["aggregate"] == "mean_of_folds")
        & (rows["subgroup"] != "all")
        & (rows["calibration"] == "none")
        & (rows["label_space"] == MAIN.label_space)
        & (rows["images"] == MAIN.images)
        & rows["estimate"].notna()
    ]
    found = []
    for where in scores.evaluations:
        chosen = [model for model in scores.models if not run.is_control(*model)]
        if not chosen:
            break
        best = _best(chosen, where, scores)
        own = grouped[
            (grouped["evaluation"] == where)
            & (grouped["encoder"] == best.encoder)
            & (grouped["adaptation"] == best.adaptation)
        ]
        lines = [
            (
                spaced(row["subgroup"].replace("=", " ", 1)),
                f"{number(row['estimate'])} [{number(row['ci_low'])}, {number(row['ci_high'])}]",
                f"{row['n_images']} images, {row['n_patients']} patients",
            )
            for row in own.to_dict("records")
        ]
        found.append(
            Brief(f"Macro F1 within groups, {evaluation_title(where)}: {best.title}", lines)
        )
    return found


def _claims(evaluation: Evaluation) -> list[tuple[str, ...]]:
    claims = evaluation.claims
    alike = claims[["verdict", "reason"]].drop_duplicates()
    if len(claims) > 1 and len(alike) == 1:
        return [(f"all {len(claims)}", *alike.iloc[0])]
    return [(row["claim"], row["verdict"], row["reason"]) for row in claims.to_dict("records")]
