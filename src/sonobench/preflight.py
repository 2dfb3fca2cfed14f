"""What a run's evaluation will be told, and what of it will be left out, before it is trained."""

from collections.abc import Sequence

import pandas as pd

from sonobench.datasets import Cohort, Finding, make_splits
from sonobench.evaluation import (
    PAPER_MODELS,
    EvaluationSettings,
    PaperNames,
    preflight,
)
from sonobench.protocol import Protocol

# The kind of the findings that are made here.
NOT_JUDGED = "not_judged"


def evaluation_settings(protocol: Protocol, samples: pd.DataFrame) -> EvaluationSettings:
    """The evaluation's own settings, from the protocol and the labels of each external cohort."""
    # A cohort without an image left (all are copies of others) has no class of its own.
    labels = samples.groupby("dataset")["label"].unique().to_dict()
    scheme = protocol.split.scheme
    return EvaluationSettings(
        classes=protocol.classes,
        source=protocol.source.name,
        declared={
            dataset.name: dataset.classes
            or tuple(
                name
                for name in protocol.classes
                if name in labels.get(dataset.name, protocol.classes)
            )
            for dataset in protocol.external
        },
        estimand="held_out" if scheme == "official_test" else "cross_validation",
        bootstrap_draws=protocol.evaluation.bootstrap_draws,
        rank_draws=protocol.evaluation.rank_draws,
        confidence=protocol.evaluation.confidence,
        seed=protocol.evaluation.seed,
        paper=_paper_names(protocol),
    )


def foreseen(protocol: Protocol, samples: pd.DataFrame, splits: pd.DataFrame) -> list[Finding]:
    """Cohorts that will not be judged: warnings, or errors where none is left that can be.

    Args:
        protocol: what is measured.
        samples: of all cohorts.
        splits: role of every image in every fold.
    """
    settings = evaluation_settings(protocol, samples)
    left_out = preflight(samples, splits, settings)
    nothing_left = len(left_out) == len(settings.evaluations)
    return [
        Finding(
            NOT_JUDGED,
            "error" if nothing_left else "warning",
            str(settings.dataset_of(one.evaluation)),
            f"{one.evaluation} cannot be judged"
            + ("" if nothing_left else " and is left out")
            + f": {one.reason}",
            1,
        )
        for one in left_out
    ]


def foreseen_of_metadata(protocol: Protocol, cohorts: Sequence[Cohort]) -> list[Finding]:
    """As `foreseen`, before images are decoded: as if no patients shared one.

    Raises:
        DatasetError: folds cannot be made.
    """
    samples = pd.concat([cohort.samples for cohort in cohorts], ignore_index=True)
    samples = samples.assign(subject_id=samples["patient_id"])
    return foreseen(protocol, samples, make_splits(samples, protocol.source.name, protocol.split))


def _paper_names(protocol: Protocol) -> PaperNames | None:
    loaders = {dataset.loader: dataset.name for dataset in protocol.external}
    alike = protocol.source.loader == "fetal_planes_db"
    evaluations = {"in_domain": "in_domain"} if alike else {}
    if "african_planes" in loaders:
        evaluations["external"] = loaders["african_planes"]
    if not evaluations:
        return None
    # Of several entries of one model, such as two input sizes, the first stands for it.
    encoders: dict[str, str] = {}
    for entry in protocol.encoders:
        if entry.name in PAPER_MODELS:
            encoders.setdefault(entry.name, entry.label)
    return PaperNames(encoders, evaluations, alike)
