"""Parts of a cohort: which are large enough for an estimate, and what they are confounded with."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.bootstrap import Draws, restricted
from sonobench.evaluation.cohort import Cohort
from sonobench.evaluation.scoring import Trial

# A class of a subgroup is estimated with at least so many images of so many subjects.
_LEAST_IMAGES, _LEAST_SUBJECTS = 10, 5
# A subgroup is confounded with a value that so much of it has at least, of the others at most.
_MOST, _HALF = 0.8, 0.5


@dataclass(frozen=True)
class Subgroup:
    """Images of a cohort with one value of an attribute.

    Attributes:
        attribute, value: such as `device` and `Voluson E6`.
        members: which images of the cohort, (N,).
        declared: its classes with enough images and subjects, ascending indices.
        single_class: whether all of its images are of one class, as with sub-planes of the brain.
    """

    attribute: str
    value: str
    members: npt.NDArray[np.bool_]
    declared: npt.NDArray[np.intp]
    single_class: bool

    @property
    def name(self) -> str:
        """As results call it."""
        return f"{self.attribute}={self.value}"

    def tells(self, metric: str) -> bool:
        """Whether a metric of predicted classes says something: of a single class its recall."""
        return len(self.declared) > 1 or metric.startswith("recall[")

    @property
    def shown(self) -> bool:
        """Whether it is estimated: two classes, or one where it can have no other (its recall)."""
        return len(self.declared) > 1 or (self.single_class and len(self.declared) == 1)


def subgroups(cohort: Cohort) -> list[Subgroup]:
    """Every value of every attribute that differs among the images, sorted by value.

    In cross-validation a class must also have an image in every fold's test set.
    """
    found = []
    for attribute in map(str, cohort.attributes):
        known = cohort.attributes[attribute]
        values = sorted(set(known.dropna()) - {""})
        if len(values) < 2:
            continue
        for value in values:
            members = (known == value).to_numpy()
            declared = np.array(
                [index for index in cohort.declared if _is_enough(cohort, members, index)], np.intp
            )
            single = len(np.unique(cohort.true[members])) == 1
            found.append(Subgroup(attribute, value, members, declared, single))
    return found


def trials(trial: Trial, found: list[Subgroup]) -> Iterator[tuple[Subgroup, Trial]]:
    """The subgroups that are shown, with the cohort's first draws that have their classes.

    As there are many subgroups, `rank_draws` draws have to do. Images of classes with too few
    images or subjects are left out.
    """
    cohort = trial.cohort
    for subgroup in found:
        if not subgroup.shown:
            continue
        kept = subgroup.members & np.isin(cohort.true, subgroup.declared)
        part = cohort.subset(kept, subgroup.declared)
        few = Draws(trial.few_weights, 0.0)
        draws = restricted(few, np.unique(cohort.subject[kept]), part.carries)
        yield subgroup, replace(trial, cohort=part, draws=draws)


def subgroup_table(cohort: Cohort, found: list[Subgroup]) -> pd.DataFrame:
    """Counts of every subgroup, and what it is confounded with (`sonobench.tables.SUBGROUPS`)."""
    rows = [
        {
            "evaluation": cohort.evaluation,
            "attribute": subgroup.attribute,
            "value": subgroup.value,
            "n_images": int(subgroup.members.sum()),
            "n_patients": len(np.unique(cohort.subject[subgroup.members])),
            "n_classes": len(subgroup.declared),
            "shown": subgroup.shown,
            "confounded_with": _confounders(subgroup, found),
        }
        for subgroup in found
    ]
    return pd.DataFrame(rows)


def _is_enough(cohort: Cohort, members: npt.NDArray[np.bool_], index: int) -> bool:
    of_class = members & (cohort.true == index)
    subjects = np.unique(cohort.subject[of_class])
    test_sets = np.unique(cohort.test_set[of_class])
    return (
        bool(of_class.sum() >= _LEAST_IMAGES)
        and len(subjects) >= _LEAST_SUBJECTS
        and len(test_sets) == cohort.class_images.shape[1]
    )


def _confounders(subgroup: Subgroup, found: list[Subgroup]) -> str | None:
    """Values of other attributes that most of its images have and most other images lack."""
    names = [
        other.name
        for other in found
        if other.attribute != subgroup.attribute
        and other.members[subgroup.members].mean() >= _MOST
        and other.members[~subgroup.members].mean() <= _HALF
    ]
    return ", ".join(names) or None
