"""What several steps need: digests for keys, threads and batches as the protocol has them."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from sonobench.encoders import EncoderSpec, default_batch
from sonobench.engine import JSON
from sonobench.protocol import Numerics


def digest(values: Iterable[object]) -> str:
    """SHA-256 of a sequence of values, each a line."""
    return hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()


def micro_batch(numerics: Numerics, spec: EncoderSpec) -> int:
    """Images a forward pass of an encoder that is not trained."""
    size = spec.card.preprocess.geometry.size
    return numerics.micro_batch or default_batch(size, numerics.backend)


@contextmanager
def threads(numerics: Numerics) -> Iterator[None]:
    """Threads as the protocol has them, for torch and for numpy's BLAS."""
    torch.set_num_threads(numerics.threads_per_task)
    with threadpool_limits(numerics.threads_per_task):
        yield


def training_data(
    samples: pd.DataFrame, splits: pd.DataFrame, classes: tuple[str, ...]
) -> dict[str, JSON]:
    """What an adaptation trains and predicts on, as settings of its task."""
    rows = samples[["image_id", "dataset", "subject_id", "label"]].itertuples(
        index=False, name=None
    )
    return {
        "samples": digest(rows),
        "splits": digest(splits.itertuples(index=False, name=None)),
        "classes": list(classes),
    }
