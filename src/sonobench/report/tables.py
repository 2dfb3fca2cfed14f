"""The tables of the report as data, whatever they are written in: the main one, and per class."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sonobench.evaluation import FEWEST_FOR_LETTERS
from sonobench.report.absent import Absent, absent_models
from sonobench.report.comparisons import Comparisons
from sonobench.report.numbers import bounds, number, percent
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import MAIN, Model, Score, Scores, Variant, evaluation_title

Mark = Literal["†", "‡", "§", "¶", "‖", "≈"]

MARKS: dict[Mark, str] = {
    "†": "interval not to be relied on: too few patients carry a class, or a centre or fold has a "
    "single patient",
    "‡": "the weights look random: see the encoder's admission",
    "§": "features computed elsewhere, not verified",
    "¶": "the solver did not finish a chosen probe",
    "‖": "a fold's fine-tuning stayed at chance",
    "≈": "not separable from the best of its adaptation (paired over patients, Holm)",
}
# Metrics beside macro F1, and their headings.
_FURTHER = {
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "kappa": "Cohen's κ",
    "mcc": "Matthews correlation",
    "macro_auroc": "AUROC",
    "macro_average_precision": "average precision",
    "nll": "NLL",
    "aurc": "AURC",
}
_LOWER_IS_BETTER = ("nll", "aurc")


@dataclass(frozen=True)
class Column:
    """Which score a column shows, and what of it.

    Attributes:
        evaluation, variant, metric: of which score.
        shows: the estimate with its interval, alone, a standard deviation, or the letters of the
            model's group.
        heading: lines of its heading, below that of the evaluation.
        rank: columns of the highest rank go first where there is no room for all.
    """

    evaluation: str
    variant: Variant
    metric: str
    shows: Literal["interval", "estimate", "fold_sd", "seed_sd", "group"]
    heading: tuple[str, ...]
    rank: int = 0


@dataclass(frozen=True)
class Cell:
    """A number, three decimals, or letters, and an interval where the column shows one."""

    number: str
    interval: str = ""
    marks: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A model and its cells."""

    model: Model
    control: bool
    marks: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Neighbouring columns of one evaluation."""

    title: str
    images: int
    patients: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    Attributes:
        name: of its files and LaTeX label.
        caption: what it shows.
        groups: columns by evaluation.
        rows: by descending in-domain macro F1.
        notes: how to read it, and what its marks mean.
        absent: models without numbers.
    """

    name: str
    caption: str
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    absent: tuple[Absent, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of all groups."""
        return tuple(column for group in self.groups for column in group.columns)


def main_table(run: RunFolder, scores: Scores, comparisons: Comparisons) -> Table:
    """Macro F1 of every model in every evaluation, with interval, group and fold deviation."""
    columns = []
    for evaluation in scores.evaluations:
        for variant in scores.variants(evaluation):
            heading = ["macro F1"]
            heading += ["closed"] if variant.label_space == "closed" else []
            if variant.images == "distinct":
                heading.append(f"{scores.sizes[evaluation, variant][0]} distinct")
            rank = 3 if variant.images == "distinct" else 0
            columns.append(
                Column(evaluation, variant, "macro_f1", "interval", tuple(heading), rank)
            )
            if variant == MAIN:
                if any(standing.evaluation == evaluation for standing in comparisons.standings):
                    columns.append(Column(evaluation, MAIN, "macro_f1", "group", ("group",), 1))
                columns.append(Column(evaluation, MAIN, "macro_f1", "fold_sd", ("fold sd",), 2))
        columns.append(Column(evaluation, MAIN, "weighted_f1", "estimate", ("weighted F1",), 4))
    caption = (
        f"{run.protocol.name}: macro F1 with {percent(run.protocol.evaluation.confidence)} "
        f"intervals over patients. Home cohort: {run.protocol.source.name}."
    )
    notes = [
        *_reading(run),
        f"fold sd: standard deviation over the {run.protocol.split.folds} training folds; it is "
        "not a confidence interval",
    ]
    for evaluation in scores.evaluations[1:]:
        if scores.label_spaces_agree(evaluation):
            notes.append(
                f"{evaluation}: open and closed label space give the same numbers, one is shown"
            )
    if any(column.variant.label_space == "closed" for column in columns):
        notes.append("closed: only the cohort's own classes may be predicted; else all may")
    if any(column.variant.images == "distinct" for column in columns):
        notes.append("distinct: one image of each identical set")
    if comparisons.standings:
        notes.append(
            "group: models of one adaptation that share a letter cannot be told apart (paired "
            "over patients, Holm)"
        )
    few = [s.evaluation for s in comparisons.standings if s.group is None]
    for evaluation in dict.fromkeys(few):
        notes.append(
            f"{evaluation}: no letters, since fewer than {FEWEST_FOR_LETTERS} patients can hardly "
            "tell models apart"
        )
    table = _table("main", caption, columns, run, scores, notes, comparisons)
    return replace(table, absent=tuple(absent_models(run, scores)))


def per_class_tables(run: RunFolder, scores: Scores, comparisons: Comparisons) -> list[Table]:
    """F1 of every declared class, one table an evaluation."""
    tables = []
    for evaluation in scores.evaluations:
        columns = [
            Column(evaluation, MAIN, f"f1[{name}]", "interval", (name,))
            for name in run.protocol.classes
            if (scores.models[0], evaluation, MAIN, f"f1[{name}]") in scores.of
        ]
        caption = f"{run.protocol.name}, {evaluation_title(evaluation)}: F1 of each class."
        name = f"per_class_{evaluation}"
        tables.append(_table(name, caption, columns, run, scores, _reading(run), comparisons))
    return tables


def further_tables(run: RunFolder, scores: Scores, comparisons: Comparisons) -> list[Table]:
    """The other metrics, one table a reading of an evaluation."""
    tables = []
    for evaluation in scores.evaluations:
        for variant in scores.variants(evaluation):
            columns = [
                Column(evaluation, variant, metric, "interval", (heading,))
                for metric, heading in _FURTHER.items()
            ]
            if len(run.protocol.seeds) > 1:
                seed_sd = Column(evaluation, variant, "macro_f1", "seed_sd", ("seed sd",))
                columns.insert(1, seed_sd)
            columns.insert(1, Column(evaluation, variant, "macro_f1", "fold_sd", ("fold sd",)))
            caption = (
                f"{evaluation_title(evaluation)}: {variant.label_space} label space, "
                f"{variant.images} images"
            )
            notes = [*_reading(run), "NLL, AURC: lower is better, and none is bold"]
            tables.append(_table("further", caption, columns, run, scores, notes, comparisons))
    return tables


def _reading(run: RunFolder) -> list[str]:
    return [
        f"in brackets: {percent(run.protocol.evaluation.confidence)} interval over patients, for "
        "the trained models as they are",
        "bold: the highest of each adaptation among encoders that are not controls; whether others "
        "can be told apart from it is tested for macro F1 only",
    ]


def _table(
    name: str,
    caption: str,
    columns: Sequence[Column],
    run: RunFolder,
    scores: Scores,
    notes: Iterable[str],
    comparisons: Comparisons,
) -> Table:
    best = {column: _best(column, run, scores) for column in columns}
    rows = tuple(
        Row(
            model,
            run.is_control(*model),
            _row_marks(model, run),
            tuple(
                _cell(model, column, best[column], run, scores, comparisons) for column in columns
            ),
        )
        for model in scores.models
    )
    groups = tuple(
        Group(
            evaluation_title(evaluation),
            *scores.sizes[evaluation, columns_of[0].variant],
            columns_of,
        )
        for evaluation in scores.evaluations
        if (columns_of := tuple(c for c in columns if c.evaluation == evaluation))
    )
    used = {mark for row in rows for mark in row.marks + "".join(c.marks for c in row.cells)}
    signs = [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in used]
    return Table(name, caption, groups, rows, (*notes, *signs))


def _row_marks(model: Model, run: RunFolder) -> str:
    if model.adaptation == "majority_class":
        return ""
    marks: dict[Mark, bool] = {
        "‡": run.is_random_looking(model.encoder),
        "§": not run.encoder(model.encoder).get("verified"),
        "¶": model.adaptation == "linear_probe" and run.unconverged(model.encoder) > 0,
        "‖": "at_chance" in run.training_ended(*model),
    }
    return "".join(mark for mark, holds in marks.items() if holds)


def _best(column: Column, run: RunFolder, scores: Scores) -> dict[str, Model]:
    """The model of each adaptation with the highest number of a column."""
    if column.shows not in ("interval", "estimate") or column.metric in _LOWER_IS_BETTER:
        return {}
    best = dict[str, Model]()
    for model in scores.models:
        estimate = _score(model, column, scores).estimate
        if run.is_control(*model) or math.isnan(estimate):
            continue
        leader = best.get(model.adaptation)
        if leader is None or estimate > _score(leader, column, scores).estimate:
            best[model.adaptation] = model
    return best


def _cell(
    model: Model,
    column: Column,
    best: dict[str, Model],
    run: RunFolder,
    scores: Scores,
    comparisons: Comparisons,
) -> Cell:
    if column.shows == "group":
        return Cell(comparisons.group(model, column.evaluation) or "–")
    score = _score(model, column, scores)
    if column.shows in ("fold_sd", "seed_sd"):
        return Cell(number(score.fold_sd if column.shows == "fold_sd" else score.seed_sd))
    text, leader = number(score.estimate), best.get(model.adaptation)
    # Equal numbers are equally bold, as they are printed.
    is_best = (
        leader is not None
        and not run.is_control(*model)
        and text == number(_score(leader, column, scores).estimate)
    )
    if column.shows == "estimate":
        return Cell(text, best=is_best)
    marks = "" if score.reliable else "†"
    if leader and column.metric == "macro_f1":
        separable = comparisons.separable(model, leader, column.evaluation, column.variant)
        marks += "≈" if separable is False and not is_best else ""
    return Cell(text, bounds(score.low, score.high), marks, is_best)


def _score(model: Model, column: Column, scores: Scores) -> Score:
    return scores.get(model, column.evaluation, column.variant, column.metric)
