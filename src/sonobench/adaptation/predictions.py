"""From logits to rows of the predictions table: which images a fold's model is shown."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

# Training images have no predictions: they say nothing of unseen patients.
PREDICTED_ROLES = ("validation", "test", "external")


@dataclass(frozen=True)
class Adapted:
    """What an adaptation leaves.

    Attributes:
        predictions: rows of the predictions table but for encoder, adaptation and seed.
        diagnostics: one row a trained model or more; columns are the adaptation's own.
        weights: what was trained, by name, where an adaptation trains a network.
    """

    predictions: pd.DataFrame
    diagnostics: pd.DataFrame
    weights: dict[str, Tensor] | None = None


def role_matrix(samples: pd.DataFrame, splits: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Role of each sample in each fold, (F, N), in the order of `samples`."""
    roles = splits.pivot(index="fold", columns="image_id", values="role")
    return roles[samples["image_id"]].to_numpy(dtype=object)


def label_indices(samples: pd.DataFrame, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Position of each sample's label among `classes`, (N,)."""
    return pd.Index(classes).get_indexer(pd.Index(samples["label"])).astype(np.int64)


def prediction_rows(
    samples: pd.DataFrame,
    roles: npt.NDArray[np.object_],
    fold: int,
    logits: npt.NDArray[np.floating],
) -> pd.DataFrame:
    """Rows of one fold's model.

    Args:
        samples: N rows.
        roles: (F, N).
        fold: whose model it is.
        logits: (N, K); rows of images without a predicted role are passed over.
    """
    shown = np.isin(roles[fold].astype(str), PREDICTED_ROLES)
    rows = samples.loc[shown, ["dataset", "image_id", "subject_id", "label"]]
    return rows.assign(
        role=roles[fold][shown], fold=fold, logits=[*logits[shown].astype(np.float32)]
    )
