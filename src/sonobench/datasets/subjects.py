"""From patient ids to subjects: ids that share an image are one, and conflicts stop a run."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sonobench.datasets.cohort import DatasetError
from sonobench.datasets.near_pairs import NearPairs, near_pairs


@dataclass(frozen=True)
class Merging:
    """How subjects were made of patient ids.

    Attributes:
        near: pairs of nearly identical images of two subjects, before such subjects are joined.
        dropped: rows of samples that were taken out as copies of others.
        joined: patient ids of every subject that near pairs make of several, sorted; the first is
            the subject's. Empty where they join nobody.
    """

    near: NearPairs
    dropped: pd.DataFrame
    joined: tuple[tuple[str, ...], ...] = ()


def make_subjects(
    samples: pd.DataFrame, source: str, *, drop_copies: bool, join_near_duplicates: bool
) -> tuple[pd.DataFrame, Merging]:
    """Samples with their subjects, without the copies that are dropped, and how that was done.

    Subjects are made of all images before any is dropped: the copies are what ties patient ids.

    Args:
        samples: decoded.
        source: the cohort that is trained on.
        drop_copies: whether one image of each identical set is kept.
        join_near_duplicates: whether two subjects with a near pair (`near_pairs`) are one.
    """
    samples = samples.assign(subject_id=merge_subjects(samples))
    left = copies_to_drop(samples, source) & drop_copies
    # Of identical images one stays, so that every near pair is still there.
    near = near_pairs(samples[~left])
    joined: tuple[tuple[str, ...], ...] = ()
    if join_near_duplicates:
        one, other = near.links["subject_id_a"], near.links["subject_id_b"]
        subject = linked(samples["subject_id"], one, other)
        of_several = subject.isin(subject[samples["subject_id"].isin([*one, *other])])
        patients = samples["patient_id"][of_several].groupby(subject[of_several])
        joined = tuple(tuple(sorted(set(ids))) for _, ids in patients)
        samples = samples.assign(subject_id=subject)
    return samples[~left], Merging(near, samples[left], joined)


def merge_subjects(samples: pd.DataFrame) -> pd.Series:
    """Subject of each row: the smallest of all patient ids that are linked by a shared image.

    One real patient under two ids would otherwise be in training and test.
    """
    patients = samples["patient_id"]
    first = patients.groupby(samples["pixel_sha256"]).transform("first")
    return linked(patients, patients, first).rename("subject_id")


def linked(ids: pd.Series, one: pd.Series, other: pd.Series) -> pd.Series:
    """Each of the ids as the smallest of all that it is linked with, directly or through others.

    Args:
        ids: of any rows.
        one: ids, each of which is linked with that at the same place in `other`.
        other: as many.
    """
    names = pd.Index(sorted(set(ids)))
    ends = names.get_indexer(one), names.get_indexer(other)
    shape = (len(names), len(names))
    graph = coo_matrix((np.ones(len(one), dtype=bool), ends), shape=shape)
    _, component = connected_components(graph, directed=False)
    # Names are sorted, so the first of a component is the smallest.
    first = pd.Series(names).groupby(component).transform("first")
    return ids.map(dict(zip(names, first, strict=True)))


def duplicate_groups(samples: pd.DataFrame) -> pd.DataFrame:
    """Rows whose pixels occur more than once, sorted so that each set stands together."""
    repeated = samples[samples.duplicated("pixel_sha256", keep=False)]
    return repeated.sort_values(["pixel_sha256", "image_id"])


def copies_to_drop(samples: pd.DataFrame, source: str) -> pd.Series:
    """Which rows are left out when one image of each identical set is kept.

    A published test image of the source stays before all others, so that its test is complete;
    then an image of another cohort, as the source's subject is then not trained on; then the
    smallest image_id.

    Args:
        samples: with image_id, dataset, official_split and pixel_sha256.
        source: the cohort that is trained on.

    Returns:
        Booleans with the index of `samples`.
    """
    home = samples["dataset"] == source
    tested = home & samples["official_split"].isin(["test"])
    rank = np.select([tested, ~home], [0, 1], 2)
    ordered = samples.assign(rank=rank).sort_values(["rank", "image_id"])
    return ordered.duplicated("pixel_sha256").reindex(samples.index)


def refuse_duplicates(samples: pd.DataFrame) -> None:
    """Images that occur more than once stop a run.

    Raises:
        DatasetError: with the rows of the first.
    """
    groups = duplicate_groups(samples)
    if len(groups):
        first = groups[groups["pixel_sha256"] == groups["pixel_sha256"].iloc[0]]
        raise DatasetError(
            f"{groups['pixel_sha256'].nunique()} images occur more than once; first: "
            + " = ".join(f"{row.image_id} (row {row.row})" for row in first.itertuples())
            + ". Take the copies out, or set 'duplicates' to merge_subjects or drop."
        )


def refuse_conflicts(samples: pd.DataFrame, source: str) -> None:
    """The same image with two labels, or a source patient in both published parts, stops a run.

    Raises:
        DatasetError: with the rows.
    """
    groups = duplicate_groups(samples)
    labels = groups.groupby("pixel_sha256")["label"].nunique()
    conflicts = labels.index[labels > 1]
    if len(conflicts):
        rows = groups[groups["pixel_sha256"] == conflicts[0]]
        listed = "; ".join(f"{r.image_id} (row {r.row}): {r.label}" for r in rows.itertuples())
        raise DatasetError(
            f"{len(conflicts)} images carry two labels under different names; first: {listed}. "
            "Correct the label, or take the wrong row out."
        )
    published = samples[samples["dataset"] == source].dropna(subset=["official_split"])
    roles = published.groupby("patient_id")["official_split"].nunique()
    both = roles.index[roles > 1]
    if len(both):
        rows = published[published["patient_id"] == both[0]].drop_duplicates("official_split")
        listed = ", ".join(f"row {r.row}: {r.official_split}" for r in rows.itertuples())
        raise DatasetError(
            f"{len(both)} patients of '{source}' are in train and in test; first: {both[0]} "
            f"({listed}). A patient has one role: correct the split or the patient id."
        )
