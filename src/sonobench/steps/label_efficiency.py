"""Steps of the curve over training patients: linear probes on nested subsets of every fold's."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from sonobench.adaptation import linear_probe
from sonobench.engine import Job, Progress, Store, Task
from sonobench.protocol import LabelEfficiency, LinearProbe, Numerics, ProtocolError
from sonobench.steps.common import threads, training_data


def curve_job(
    name: str,
    patients: int,
    features: Sequence[Task],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    settings: LinearProbe,
    curve: LabelEfficiency,
    numerics: Numerics,
) -> Job:
    """Linear probes of all folds and draws on so many training patients.

    Args:
        name: of the encoder.
        patients: of a fold.
        features: embedding tasks, together in the order of `samples`.
        samples, splits: the tables.
        classes: order of the logits.
        settings, curve, numerics: the protocol's.
    """
    task = Task(
        "label_efficiency",
        2,
        {
            "features": [task.key for task in features],
            **training_data(samples, splits, classes),
            "settings": settings.model_dump(mode="json"),
            "numerics": numerics.model_dump(mode="json"),
            "patients": patients,
            "draws": curve.draws,
            "seed": curve.seed,
        },
    )
    step = partial(
        _probe, patients, list(features), samples, splits, classes, settings, curve, numerics
    )
    return Job(
        f"linear probe {name} · {patients} patients",
        (task,),
        step,
        needs=tuple(dict.fromkeys(features)),
        total=len(settings.penalties),
        unit="penalties",
    )


def _probe(
    patients: int,
    features: Sequence[Task],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    settings: LinearProbe,
    curve: LabelEfficiency,
    numerics: Numerics,
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    stacked = np.concatenate([np.load(store.folder(task) / "features.npy") for task in features])
    fewer = splits_of_fewer(samples, splits, classes, patients, curve)
    with threads(numerics):
        made = linear_probe(
            stacked,
            samples,
            fewer,
            classes,
            settings,
            device=numerics.backend,
            on_progress=lambda _done, _total: progress.advance(),
        ).predictions
    folds = splits["fold"].nunique()
    # Validation images chose the penalty and serve for nothing further here.
    made = made[made["role"] != "validation"]
    made = made.assign(seed=made["fold"] // folds, fold=made["fold"] % folds)
    for task in tasks:
        with store.write(task) as folder:
            made.to_parquet(folder / "predictions.parquet", index=False)


def splits_of_fewer(
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    patients: int,
    curve: LabelEfficiency,
) -> pd.DataFrame:
    """The splits with so many training subjects a fold, every draw's folds after the last one's.

    Fold f of draw d is fold d F + f of the result. Other training subjects become `excluded`. A
    draw is an order of a fold's training subjects, of which the first are taken, so that smaller
    numbers are nested in larger ones; it depends on neither the encoder nor the number. First in
    it come those who together have every class.

    Args:
        samples: the sample table.
        splits: role of every image in every fold, folds 0 ... F - 1.
        classes: the training classes.
        patients: how many.
        curve: draws and seed.

    Raises:
        ProtocolError: a fold has fewer training subjects, or needs more for every class.
    """
    folds = splits["fold"].nunique()
    of_image = samples.set_index("image_id")[["subject_id", "label"]]
    tables = []
    for fold in range(folds):
        own = splits[splits["fold"] == fold]
        joined = own.join(of_image, on="image_id")
        training = joined["role"] == "train"
        labels = joined[training].groupby("subject_id")["label"].agg(set).sort_index()
        if patients > len(labels):
            raise ProtocolError(
                f"label_efficiency.patients: {patients} are more than fold {fold} trains on "
                f"({len(labels)})"
            )
        for draw in range(curve.draws):
            generator = np.random.default_rng([curve.seed, draw, fold])
            shuffled = labels.iloc[generator.permutation(len(labels))]
            first, lacking = [], set(classes)
            for subject, held in shuffled.items():
                if lacking & held:
                    first.append(subject)
                    lacking -= held
            if len(first) > patients:
                raise ProtocolError(
                    f"label_efficiency.patients: {patients} are too few; in fold {fold} it takes "
                    f"{len(first)} patients to have every class"
                )
            others = [subject for subject in shuffled.index if subject not in set(first)]
            taken = [*first, *others][:patients]
            role = joined["role"].where(~training | joined["subject_id"].isin(taken), "excluded")
            tables.append(own.assign(role=role, fold=draw * folds + fold))
    return pd.concat(tables, ignore_index=True)
