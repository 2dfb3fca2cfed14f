"""Forest plot and confusion matrices as numbers to draw, positions included."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Score, Scores, evaluation_title


@dataclass(frozen=True)
class Axis:
    """A scale that all panels share; positions are percent of the drawing's width."""

    low: float
    high: float

    @property
    def ticks(self) -> list[float]:
        """Tenths within the scale."""
        return [i / 10 for i in range(round(10 * self.low), round(10 * self.high) + 1)]

    def position(self, value: float) -> str:
        """Percent from the left; a margin of 2 % on both sides keeps marks whole."""
        return f"{2 + 96 * (value - self.low) / (self.high - self.low):.2f}%"


@dataclass(frozen=True)
class ForestLine:
    """One interval of a panel."""

    model: Model
    control: bool
    closed: bool
    score: Score


@dataclass(frozen=True)
class Forest:
    """Macro F1 of all models: an axis, and the lines of every evaluation by its title."""

    axis: Axis
    panels: list[tuple[str, list[ForestLine]]]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix of one model.

    Attributes:
        title: evaluation and label space.
        predicted: classes of the columns.
        rows: true class, images, and per column the count and its share of the row.
    """

    title: str
    predicted: Sequence[str]
    rows: list[tuple[str, int, list[tuple[int, float]]]]


def forest(run: RunFolder, scores: Scores) -> Forest:
    """Of all images; in both label spaces where they differ."""
    panels = []
    for evaluation in scores.evaluations:
        lines = [
            ForestLine(
                model,
                run.is_control(*model),
                variant.label_space == "closed",
                scores.of[model, evaluation, variant, "macro_f1"],
            )
            for model in scores.models
            for variant in scores.variants(evaluation)
            if variant.images == "all"
        ]
        panels.append((evaluation_title(evaluation), lines))
    drawn = [line.score for _, lines in panels for line in lines]
    ends = np.array([(s.estimate, s.low, s.high) for s in drawn])
    low, high = np.nanmin(ends, initial=1.0), np.nanmax(ends, initial=0.0)
    # At least one tenth wide, whatever the numbers.
    start = min(math.floor(10 * low), 9)
    return Forest(Axis(start / 10, max(math.ceil(10 * high), start + 1) / 10), panels)


def confusion_matrices(
    run: RunFolder, scores: Scores, confusions: pd.DataFrame
) -> list[tuple[Model, list[Matrix]]]:
    """Of every model: all images, summed over folds and seeds; both label spaces if they differ."""
    keys = ["encoder", "adaptation", "evaluation", "label_space", "images"]
    groups = dict(iter(confusions.groupby(keys, sort=False)))
    order = list(run.protocol.classes)
    result = []
    for model in scores.models:
        matrices = []
        for evaluation in scores.evaluations:
            for variant in scores.variants(evaluation):
                if variant.images == "all":
                    rows = groups[(*model, evaluation, *variant)]
                    counts = rows.pivot_table(
                        index="true", columns="predicted", values="count", aggfunc="sum"
                    )
                    matrices.append(_matrix(evaluation, variant.label_space, counts, order))
        result.append((model, matrices))
    return result


def _matrix(evaluation: str, label_space: str, counts: pd.DataFrame, order: list[str]) -> Matrix:
    predicted = [name for name in order if name in counts.columns]
    true = [name for name in order if name in counts.index]
    rows = []
    for name, row in zip(true, counts.loc[true, predicted].to_numpy(int).tolist(), strict=True):
        total = sum(row)
        rows.append((name, total, [(count, count / total if total else 0.0) for count in row]))
    return Matrix(f"{evaluation_title(evaluation)}, {label_space} label space", predicted, rows)
