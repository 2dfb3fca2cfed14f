"""One fold of a fine-tuning: its data, its training, its predictions, and how it ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.adaptation.batches import Images, Labelled, predict
from sonobench.adaptation.classifier import Classifier, make_classifier
from sonobench.adaptation.devices import fabric_for
from sonobench.adaptation.predictions import (
    PREDICTED_ROLES,
    Adapted,
    label_indices,
    prediction_rows,
    role_matrix,
)
from sonobench.adaptation.training import Fold, Trained, badness, best_epoch, derived_seed, train
from sonobench.encoders import Encoder, keep_large_blocks
from sonobench.images import Pack
from sonobench.protocol import Training


@dataclass(frozen=True)
class CohortImages:
    """A cohort's images, in the order of its rows in the sample table.

    Attributes:
        pack: of the encoder's geometry.
        positions: of the images in it.
        training: pack at 8/7 of the size, with the same positions; None of cohorts that are only
            tested on.
    """

    pack: Pack
    positions: npt.NDArray[np.int64]
    training: Pack | None = None


def finetune_fold(
    open_encoder: Callable[[], Encoder],
    cohorts: Mapping[str, CohortImages],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    settings: Training,
    *,
    fold: int,
    seed: int,
    device: str,
    evaluation_batch: int,
    scratch: Path,
    roles: tuple[str, ...] = PREDICTED_ROLES,
    on_images: Callable[[int], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Adapted:
    """Train on a fold's training images, choose by its validation images, predict the others once.

    Args:
        open_encoder: gives the encoder with its pre-trained weights, a fresh one at each call.
        cohorts: by name.
        samples: the sample table.
        splits: role of every image in every fold.
        classes: order of the logits.
        settings: of the adaptation, whose class says which; `precision` is resolved.
        fold, seed: of this model.
        device: `cpu` or `cuda`.
        evaluation_batch: images a forward pass where nothing is trained.
        scratch: folder from which an interrupted training goes on.
        roles: whose images are predicted.
        on_images: called with the number of images that were trained on since the last call.
        on_note: called with a line on how it goes.

    Returns:
        Predictions of the best epoch's weights (none where the training diverged), and one row an
        epoch as diagnostics.

    Raises:
        TrainingError: memory is not enough.
        EncoderError: the encoder cannot be trained.
    """
    keep_large_blocks()
    roles_of_folds = role_matrix(samples, splits)
    own = roles_of_folds[fold]
    labels = label_indices(samples, classes)
    datasets = samples["dataset"].to_numpy(dtype=object)
    (source,) = (name for name, cohort in cohorts.items() if cohort.training is not None)
    home = cohorts[source]
    assert home.training is not None

    def part(role: str, pack: Pack) -> Labelled:
        chosen = own[datasets == source] == role
        return Labelled(pack, home.positions[chosen], labels[datasets == source][chosen])

    data = Fold(
        part("train", home.training),
        part("validation", home.pack),
        len(classes),
        derived_seed(seed, fold),
    )
    make = partial(_make, open_encoder, len(classes), settings, data.seed)
    trained = train(make, data, settings, device, evaluation_batch, scratch, on_images, on_note)
    diagnostics = _diagnostics(trained, data, settings).assign(fold=fold)
    if trained.weights is None:
        return Adapted(pd.DataFrame(), diagnostics)

    on_note("predicting")
    classifier = trained.classifier or make()
    classifier.load_moving_state(trained.weights)
    fabric = fabric_for(settings, device)
    logits = np.full((len(samples), len(classes)), np.nan, dtype=np.float32)
    shown = np.isin(own.astype(str), roles)
    for name, cohort in cohorts.items():
        rows = shown & (datasets == name)
        if rows.any():
            positions = cohort.positions[shown[datasets == name]]
            images = Images(cohort.pack, positions, fabric.device)
            logits[rows] = predict(fabric, classifier, images, evaluation_batch).numpy()
    if not np.isfinite(logits[shown]).all():
        reason = "logits of images that it was not trained on are not finite"
        return Adapted(
            pd.DataFrame(), diagnostics.assign(best=False, status="diverged", status_reason=reason)
        )
    own[~shown] = "excluded"
    predictions = prediction_rows(samples, roles_of_folds, fold, logits)
    return Adapted(predictions, diagnostics, trained.weights)


def best_learning_rate(trials: Mapping[float, pd.DataFrame], settings: Training) -> float:
    """The learning rate whose best epoch is best on validation images; the lower of equals.

    Args:
        trials: learning rate → diagnostics of its training. One that diverged is never chosen,
            unless all have.
        settings: of the adaptation; epochs are compared by its `selection`.
    """

    def badness_of(rate: float) -> tuple[bool, float, float, float]:
        best = trials[rate].query("best").to_dict("records")
        return (False, *badness(best[0], settings), rate) if best else (True, 0.0, 0.0, rate)

    return min(trials, key=badness_of)


def _make(
    open_encoder: Callable[[], Encoder], n_classes: int, settings: Training, seed: int
) -> Classifier:
    return make_classifier(open_encoder(), n_classes, settings, seed)


def _diagnostics(trained: Trained, data: Fold, settings: Training) -> pd.DataFrame:
    """One row an epoch: its figures, whether it was the best one, and how the training ended."""
    rows = pd.DataFrame(trained.history)
    best = None if trained.weights is None else best_epoch(trained.history, settings)
    status, reason = "trained", ""
    if best is None:
        status, reason = "diverged", trained.divergence
    else:
        found = float(trained.history[best]["validation_macro_f1"])
        chance = guessing_macro_f1(data.validation.labels, data.n_classes)
        if found <= chance:
            status = "at_chance"
            reason = f"validation macro F1 {found:.3f}, which guessing reaches ({chance:.3f})"
    return rows.assign(best=rows["epoch"] == best, status=status, status_reason=reason)


def guessing_macro_f1(labels: npt.NDArray[np.int64], n_classes: int) -> float:
    """The macro F1 that is reached without looking at an image.

    Always the most frequent class, of share p, gives 2p / (1 + p) for it and 0 for the others;
    classes drawn by their frequencies give about 1 / K. The larger of both.
    """
    share = np.bincount(labels, minlength=n_classes).max() / len(labels)
    return float(max(2 * share / (1 + share), 1.0)) / n_classes
