"""Steps of the adaptations: what is trained on top of an encoder, and the majority class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from sonobench.adaptation import Adapted, linear_probe, majority_class
from sonobench.engine import Job, Progress, Store, Task
from sonobench.protocol import LinearProbe, Numerics
from sonobench.steps.common import threads, training_data


@dataclass(frozen=True)
class AdaptedTasks:
    """What a trained model's predictions are made of.

    Attributes:
        parts: tasks whose predictions belong together: one for all folds, or one a fold.
        trials: of a search for the learning rate, in the order of the protocol's, fold by fold
            where folds have their own.
        features: embedding tasks that it was trained on, together in the order of the samples.
    """

    parts: tuple[Task, ...]
    trials: tuple[Task, ...] = ()
    features: tuple[Task, ...] = ()


def probe_job(
    name: str,
    features: Sequence[Task],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    settings: LinearProbe,
    numerics: Numerics,
) -> Job:
    """The linear probe of all folds on an encoder's embeddings.

    Args:
        name: of the job.
        features: embedding tasks, together in the order of `samples`.
        samples, splits: the tables.
        classes: order of the logits.
        settings, numerics: the protocol's.
    """
    task = Task(
        "linear_probe",
        2,
        {
            "features": [task.key for task in features],
            **training_data(samples, splits, classes),
            "settings": settings.model_dump(mode="json"),
            "numerics": numerics.model_dump(mode="json"),
        },
    )
    step = partial(_probe, list(features), samples, splits, classes, settings, numerics)
    needs = tuple(dict.fromkeys(features))
    return Job(name, (task,), step, needs=needs, total=len(settings.penalties), unit="penalties")


def _probe(
    features: Sequence[Task],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    settings: LinearProbe,
    numerics: Numerics,
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    stacked = np.concatenate([np.load(store.folder(task) / "features.npy") for task in features])
    with threads(numerics):
        adapted = linear_probe(
            stacked,
            samples,
            splits,
            classes,
            settings,
            device=numerics.backend,
            on_progress=lambda _done, _total: progress.advance(),
        )
    for task in tasks:
        with store.write(task) as folder:
            write_adapted(adapted, folder)


def majority_job(samples: pd.DataFrame, splits: pd.DataFrame, classes: tuple[str, ...]) -> Job:
    """The majority-class control."""
    task = Task("majority_class", 1, training_data(samples, splits, classes))
    step = partial(_majority, samples, splits, classes)
    return Job("majority class", (task,), step, unit="controls")


def _majority(
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    for task in tasks:
        with store.write(task) as folder:
            write_adapted(majority_class(samples, splits, classes), folder)
    progress.advance()


def read_adapted(store: Store, task: Task) -> Adapted:
    """What an adaptation's task made."""
    folder = store.folder(task)
    return Adapted(
        pd.read_parquet(folder / "predictions.parquet"),
        pd.read_parquet(folder / "diagnostics.parquet"),
    )


def write_adapted(adapted: Adapted, folder: Path) -> None:
    """Put tables where `read_adapted` finds them."""
    adapted.predictions.to_parquet(folder / "predictions.parquet", index=False)
    adapted.diagnostics.to_parquet(folder / "diagnostics.parquet", index=False)
