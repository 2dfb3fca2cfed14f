"""Single images: what every model said of each, and which are worth a look."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.report.scores import Model

# Images of each list: so many can be looked at one by one.
_LISTED = 24
# Images of each cell of a confusion matrix that are certain to be among the pictures.
_OF_CELL = 6


@dataclass(frozen=True)
class Opinions:
    """What M models said of N tested images of K classes.

    Attributes:
        models: encoder and adaptation.
        image_ids: tested images, as the sample table has them.
        true: their classes, (N,).
        probabilities: mean over the trained models, (M, N, K); zero where a model has none.
        votes: trained models that predicted each class, (M, N, K).
    """

    models: tuple[Model, ...]
    image_ids: tuple[str, ...]
    true: npt.NDArray[np.intp]
    probabilities: npt.NDArray[np.float32]
    votes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, predictions: pd.DataFrame, samples: pd.DataFrame, classes: Sequence[str]) -> Self:
        """Take them from the table `sonobench.tables.PREDICTIONS`; validation rows are left out."""
        rows = predictions[predictions["role"].isin(["test", "external"])]
        tested = samples[samples["image_id"].isin(rows["image_id"].unique())]
        pairs = rows.groupby(["encoder", "adaptation"], sort=True).ngroup().to_numpy()
        models = sorted(set(zip(rows["encoder"], rows["adaptation"], strict=True)))
        image = pd.Index(tested["image_id"]).get_indexer(pd.Index(rows["image_id"]))
        logits = np.stack(rows["logits"].tolist()).astype(np.float32)
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        shares = exponents / exponents.sum(1, keepdims=True)
        shape = (len(models), len(tested), len(classes))
        place = pairs * len(tested) + image
        trained = np.bincount(place, minlength=shape[0] * shape[1])
        sums = np.stack(
            [np.bincount(place, shares[:, k], shape[0] * shape[1]) for k in range(shape[2])], 1
        )
        votes = np.bincount(
            place * shape[2] + logits.argmax(1), minlength=shape[0] * shape[1] * shape[2]
        )
        return cls(
            tuple(Model(*model) for model in models),
            tuple(tested["image_id"]),
            pd.Index(classes).get_indexer(pd.Index(tested["label"])),
            (sums / np.maximum(trained, 1)[:, None]).astype(np.float32).reshape(shape),
            votes.reshape(shape),
        )


@dataclass(frozen=True)
class WorthSeeing:
    """Lists of tested images, positions in `Opinions.image_ids`, the most striking first.

    Attributes:
        wrong_by_all: that every encoder gets wrong, least probable truth first.
        n_wrong_by_all: how many there are, listed or not.
        disagreed: on which encoders disagree most (Jensen-Shannon divergence of their
            probabilities).
        confident_errors: of each model, surest first.
    """

    wrong_by_all: list[int]
    n_wrong_by_all: int
    disagreed: list[int]
    confident_errors: dict[Model, list[int]]


def worth_seeing(opinions: Opinions, controls: Collection[str]) -> WorthSeeing:
    """Which images a reader should look at; controls have no say.

    Args:
        opinions: of all models.
        controls: labels of control encoders.
    """
    chosen = [
        position
        for position, model in enumerate(opinions.models)
        if model.adaptation != "majority_class" and model.encoder not in controls
    ]
    if not chosen:
        return WorthSeeing([], 0, [], {})
    shares = opinions.probabilities[chosen].astype(np.float64)
    predicted, images = shares.argmax(2), np.arange(len(opinions.true))
    wrong = predicted != opinions.true
    of_truth = shares[:, images, opinions.true]
    by_all = np.flatnonzero(wrong.all(0))
    by_all = by_all[np.argsort(of_truth.mean(0)[by_all], kind="stable")]
    divergence = _entropy(shares.mean(0)) - _entropy(shares).mean(0)
    apart = np.flatnonzero((predicted != predicted[0]).any(0))
    apart = apart[np.argsort(-divergence[apart], kind="stable")]
    errors = {}
    for position, row in enumerate(chosen):
        mistaken = np.flatnonzero(wrong[position])
        surest = np.argsort(-shares[position].max(1)[mistaken], kind="stable")
        errors[opinions.models[row]] = mistaken[surest][: _LISTED // 2].tolist()
    return WorthSeeing(by_all[:_LISTED].tolist(), len(by_all), apart[:_LISTED].tolist(), errors)


def pictured_images(
    opinions: Opinions, samples: pd.DataFrame, controls: Collection[str], most: int
) -> list[str]:
    """Image ids that should have a picture, those that are needed most first.

    The lists of `worth_seeing`, then examples of every cohort, class and centre, then images of
    every confusion that a model makes, then further errors.

    Args:
        opinions: of all models.
        samples: the sample table.
        controls: labels of control encoders.
        most: how many at most.
    """
    lists = worth_seeing(opinions, controls)
    mistakes = (opinions.votes.sum(0) > 0) & (
        np.arange(opinions.votes.shape[2]) != opinions.true[:, None]
    )
    wrong = np.flatnonzero(mistakes.any(1))
    share_right = opinions.votes[:, np.arange(len(opinions.true)), opinions.true].sum(0)
    further = wrong[np.argsort(share_right[wrong], kind="stable")]
    ids = opinions.image_ids
    wanted = [
        *(ids[i] for i in lists.wrong_by_all),
        *(ids[i] for i in lists.disagreed),
        *(ids[i] for i in _in_turn(list(lists.confident_errors.values()))),
        *example_images(samples),
        *(ids[i] for i in _in_turn(_cells(opinions))),
        *(ids[i] for i in further),
    ]
    return list(dict.fromkeys(wanted))[:most]


def example_images(samples: pd.DataFrame, of_each: int = 6) -> list[str]:
    """A few images of every cohort and class, from every site in turn, one a subject."""
    table = samples.sort_values("image_id").drop_duplicates(["dataset", "label", "subject_id"])
    # The first of every site, then the second of every site …
    turn = table.groupby(["dataset", "label", "site"], dropna=False).cumcount()
    ordered = table.iloc[np.argsort(turn, kind="stable")]
    examples = ordered.groupby(["dataset", "label"]).head(of_each)
    return list(examples.sort_values(["dataset", "label", "image_id"])["image_id"])


def _cells(opinions: Opinions) -> list[list[int]]:
    """Images of every wrong cell of every model's confusion matrix, most votes first."""
    cells = []
    for votes in opinions.votes:
        for true in range(votes.shape[1]):
            of_class = np.flatnonzero(opinions.true == true)
            for predicted in range(votes.shape[1]):
                count = votes[of_class, predicted]
                order = np.argsort(-count, kind="stable")[:_OF_CELL]
                if predicted != true and (found := of_class[order[count[order] > 0]]).size:
                    cells.append(found.tolist())
    return cells


def _in_turn(lists: Sequence[Sequence[int]]) -> Iterator[int]:
    """The first of every list, then the second of every list …"""
    for turn in zip_longest(*lists):
        yield from (item for item in turn if item is not None)


def _entropy(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    entropy: npt.NDArray[np.float64] = -(shares * np.log(np.maximum(shares, 1e-12))).sum(-1)
    return entropy
