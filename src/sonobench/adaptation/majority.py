"""The control without an encoder: class frequencies of the training part, whatever the image."""

import numpy as np
import pandas as pd

from sonobench.adaptation.predictions import Adapted, label_indices, prediction_rows, role_matrix


def majority_class(
    samples: pd.DataFrame, splits: pd.DataFrame, classes: tuple[str, ...]
) -> Adapted:
    """Logits are the log frequencies of the training images, add-one smoothed so as to be finite.

    Args:
        samples: the sample table.
        splits: role of every image in every fold.
        classes: order of the logits.
    """
    roles = role_matrix(samples, splits)
    labels = label_indices(samples, classes)
    tables, records = [], []
    for fold in range(len(roles)):
        counts = np.bincount(labels[roles[fold] == "train"], minlength=len(classes)) + 1
        logits = np.broadcast_to(np.log(counts / counts.sum()), (len(samples), len(classes)))
        tables.append(prediction_rows(samples, roles, fold, logits))
        records.append({"fold": fold, "majority": classes[int(counts.argmax())]})
    return Adapted(pd.concat(tables, ignore_index=True), pd.DataFrame(records))
