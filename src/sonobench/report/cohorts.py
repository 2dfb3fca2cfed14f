"""On whom a run was done: cohorts, their classes, and the roles of their images."""

from dataclasses import dataclass

import pandas as pd

from sonobench.report.numbers import counted
from sonobench.report.run_folder import RunFolder
from sonobench.tables import ROLES


@dataclass(frozen=True)
class Amount:
    """Images, and the subjects that they are of."""

    images: int
    subjects: int


@dataclass(frozen=True)
class CohortCard:
    """A cohort at a glance: what it is called, its counts in words, the protocol's note on it."""

    name: str
    home: bool
    facts: dict[str, int]
    note: str


def cohort_cards(run: RunFolder) -> list[CohortCard]:
    """All cohorts, the source first."""
    cards = []
    for dataset in (run.protocol.source, *run.protocol.external):
        rows = run.samples[run.samples["dataset"] == dataset.name]
        # Without an image left it is among the findings, as a cohort that cannot be judged.
        if dataset.name not in run.audit["cohorts"]:
            continue
        found = run.audit["cohorts"][dataset.name]
        counts = {
            ("image", "images"): found["images"],
            ("distinct image", "distinct images"): found["duplicate_sets"]
            and found["distinct_images"],
            ("patient", "patients"): found["subjects"],
            ("class", "classes"): rows["label"].nunique(),
            ("site", "sites"): rows["site"].nunique(),
            ("device", "devices"): rows["device"].nunique(),
        }
        facts = {names[count > 1]: count for names, count in counts.items() if count}
        cards.append(CohortCard(dataset.name, dataset == run.protocol.source, facts, dataset.note))
    return cards


def class_amounts(run: RunFolder) -> list[tuple[str, list[Amount]]]:
    """Every class, and its amount in each cohort, in the order of the cards."""
    return [
        (
            name,
            [
                _amount(run, (run.samples["dataset"] == card.name) & (run.samples["label"] == name))
                for card in cohort_cards(run)
            ],
        )
        for name in run.protocol.classes
    ]


def role_amounts(run: RunFolder) -> tuple[list[str], list[tuple[int, list[Amount]]]]:
    """Roles that occur, and their amounts in each fold, which is counted from 1."""
    rows = run.splits.merge(run.samples[["image_id", "subject_id"]], on="image_id")
    grouped = rows.groupby(["fold", "role"])
    images, subjects = grouped.size(), grouped["subject_id"].nunique()
    roles = [role for role in ROLES if (rows["role"] == role).any()]
    folds = sorted(int(fold) for fold in rows["fold"].unique())
    return roles, [
        (
            counted(fold),
            [
                Amount(int(images.get((fold, role), 0)), int(subjects.get((fold, role), 0)))
                for role in roles
            ],
        )
        for fold in folds
    ]


def _amount(run: RunFolder, rows: "pd.Series[bool]") -> Amount:
    return Amount(int(rows.sum()), run.samples.loc[rows, "subject_id"].nunique())
