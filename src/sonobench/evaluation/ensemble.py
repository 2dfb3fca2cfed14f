"""The ensemble of an encoder's trained models: one model whose probabilities are their mean."""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax, logsumexp

from sonobench.evaluation.cohort import TrainedModel


def ensemble(trained: Sequence[TrainedModel]) -> TrainedModel | None:
    """Average the probabilities of all folds and seeds.

    Returns:
        Logits are the logarithms of the mean probabilities. None where there is one model, or
        where the models are tested on different images: in-domain in cross-validation all but one
        were trained on an image.
    """
    images = trained[0].images
    if len(trained) == 1 or not all(np.array_equal(model.images, images) for model in trained):
        return None
    given = [model.given for model in trained if model.given is not None]
    each = [log_softmax(model.logits.astype(np.float64), axis=1) for model in trained]
    logits = logsumexp(each, axis=0) - np.log(len(trained))
    return TrainedModel(0, 0, images, logits, np.mean(given, axis=0) if given else None)
