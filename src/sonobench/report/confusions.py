"""Confusion matrices as tables of the page, with how many images stand behind each cell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sonobench.evaluation import IN_DOMAIN
from sonobench.report.cases import Opinions
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, evaluation_title


@dataclass(frozen=True)
class Cell:
    """Predictions of one class for another: count, share of the true class, distinct images."""

    predicted: str
    count: int
    share: float
    images: int


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix of one model.

    Attributes:
        title: evaluation and label space.
        dataset: of its images, where these can be looked at; empty else.
        predicted: classes of the columns.
        rows: true class, predictions in all, and the cells.
    """

    title: str
    dataset: str
    predicted: Sequence[str]
    rows: list[tuple[str, int, list[Cell]]]


def confusion_matrices(
    run: RunFolder, scores: Scores, confusions: pd.DataFrame, opinions: Opinions
) -> list[tuple[Model, list[Matrix]]]:
    """Of every model: all images, summed over folds and seeds; both label spaces if they differ."""
    keys = ["encoder", "adaptation", "evaluation", "label_space", "images"]
    groups = dict(iter(confusions.groupby(keys, sort=False)))
    datasets = run.samples.set_index("image_id")["dataset"][list(opinions.image_ids)].to_numpy()
    order = list(run.protocol.classes)
    result = []
    for model in scores.models:
        matrices = []
        for evaluation in scores.evaluations:
            home = run.protocol.source.name
            dataset = home if evaluation == IN_DOMAIN else evaluation
            for variant in scores.variants(evaluation):
                if variant.images == "all":
                    counts = groups[(*model, evaluation, *variant)].pivot_table(
                        index="true", columns="predicted", values="count", aggfunc="sum"
                    )
                    title = f"{evaluation_title(evaluation)}, {variant.label_space} label space"
                    # The images are found by their predictions in the open label space.
                    behind = dataset if variant.label_space == "open" else ""
                    images = _images_behind(opinions, model, datasets == behind)
                    matrices.append(_matrix(title, behind, counts, order, images))
        result.append((model, matrices))
    return result


def _images_behind(
    opinions: Opinions, model: Model, of_dataset: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]"
) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    """Distinct images of every true and predicted class, (K, K)."""
    predicted = opinions.votes[opinions.models.index(model)][of_dataset] > 0
    true = np.eye(predicted.shape[1], dtype=np.int64)[opinions.true[of_dataset]]
    behind: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = true.T @ predicted
    return behind


def _matrix(
    title: str,
    dataset: str,
    counts: pd.DataFrame,
    order: list[str],
    images: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]",
) -> Matrix:
    predicted = [name for name in order if name in counts.columns]
    true = [name for name in order if name in counts.index]
    rows = []
    for name, row in zip(true, counts.loc[true, predicted].to_numpy(int).tolist(), strict=True):
        total = sum(row)
        behind = images[order.index(name)]
        cells = [
            Cell(other, count, count / total if total else 0.0, int(behind[order.index(other)]))
            for other, count in zip(predicted, row, strict=True)
        ]
        rows.append((name, total, cells))
    return Matrix(title, dataset, predicted, rows)
