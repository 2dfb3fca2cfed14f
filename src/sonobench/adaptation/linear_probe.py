"""The linear probe: one logistic regression a fold on frozen features, λ chosen on validation."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.adaptation.predictions import Adapted, label_indices, prediction_rows, role_matrix
from sonobench.adaptation.solver import fit_path
from sonobench.protocol import LinearProbe


def linear_probe(
    features: npt.NDArray[np.float32],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    settings: LinearProbe,
    *,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Adapted:
    """Fit all folds and predict validation, test and external images with each.

    The chosen model of a fold is the one whose λ was best on its validation subjects; it is not
    refitted on them.

    Args:
        features: (N, D), in the order of `samples`.
        samples: the sample table, N rows.
        splits: role of every image in every fold.
        classes: order of the logits.
        settings: the protocol's.
        device: where the solver runs.
        on_progress: called with penalties done, of how many.

    Returns:
        Predictions, and the path as diagnostics: one row a fold and λ that was fitted.
    """
    roles = role_matrix(samples, splits)
    labels = label_indices(samples, classes)
    train, validation = roles == "train", roles == "validation"
    development = (train | validation).any(0)
    path = fit_path(
        features[development],
        labels[development],
        train[:, development],
        validation[:, development],
        n_classes=len(classes),
        penalties=settings.penalties,
        tolerance=settings.tolerance,
        patience=settings.patience,
        selection=settings.selection,
        device=device,
        on_progress=on_progress,
    )
    folds = np.arange(len(roles))
    logits = np.tensordot(features, path.coefficients[folds, path.chosen], axes=(1, 1))
    logits += path.intercepts[folds, path.chosen]
    tables, records = [], []
    for fold, chosen in enumerate(path.chosen):
        tables.append(prediction_rows(samples, roles, fold, logits[:, fold]))
        for position in np.flatnonzero(path.fitted[fold]):
            records.append(
                {
                    "fold": fold,
                    "penalty": path.penalties[position],
                    "objective": path.objective[fold, position],
                    "gradient": path.gradient[fold, position],
                    "converged": bool(path.converged[fold, position]),
                    "iterations": int(path.iterations[fold, position]),
                    "validation_nll": path.validation_nll[fold, position],
                    "validation_macro_f1": path.validation_macro_f1[fold, position],
                    "chosen": bool(position == chosen),
                    "at_edge": bool(position == chosen and path.at_edge[fold]),
                }
            )
    return Adapted(pd.concat(tables, ignore_index=True), pd.DataFrame(records))
