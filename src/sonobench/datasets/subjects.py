"""From patient ids to subjects: ids that share an image are one, and conflicts stop a run."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sonobench.datasets.cohort import DatasetError


def merge_subjects(samples: pd.DataFrame) -> pd.Series:
    """Subject of each row: the smallest of all patient ids that are linked by a shared image.

    Patients and images (by `pixel_sha256`) are the two sides of a graph; a subject is a connected
    component of it. One real patient under two ids would otherwise be in training and test.
    """
    patient, names = pd.factorize(samples["patient_id"], sort=True)
    image, _ = pd.factorize(samples["pixel_sha256"])
    size = len(names) + int(image.max()) + 1
    links = coo_matrix((np.ones(len(samples)), (patient, len(names) + image)), shape=(size, size))
    _, component = connected_components(links, directed=False)
    # Names are sorted, so the first patient of a component is the smallest; every component has
    # a patient, so the groups are numbered as the components are.
    first = pd.Series(names).groupby(component[: len(names)]).first()
    return pd.Series(first.to_numpy()[component[patient]], index=samples.index, name="subject_id")


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
