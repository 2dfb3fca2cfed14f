"""Who is trained on, validated on and tested on: always whole subjects."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from sonobench.datasets.cohort import DatasetError
from sonobench.protocol import Split


def make_splits(samples: pd.DataFrame, source: str, split: Split) -> pd.DataFrame:
    """Role of every image in every fold: the table `splits`.

    Images of other cohorts are `external`. Where merging tied a development subject to a test
    image or to another cohort, its development images are `excluded`, so that a subject has one
    role in a fold. Folds are scikit-learn's StratifiedGroupKFold over images sorted by id, so the
    order of rows changes nothing.

    Raises:
        DatasetError: no published split where one is asked for, fewer subjects than folds (in
            cross-validation also without those of one fold), fewer images of every class than
            folds, a class without images in a training part.
    """
    frame = samples.sort_values("image_id").reset_index(drop=True)
    home = (frame["dataset"] == source).to_numpy()
    tied = set(frame.loc[~home, "subject_id"])
    if split.scheme == "official_test":
        _require_published(frame[home], source)
        test = home & (frame["official_split"] == "test").to_numpy()
        tied |= set(frame.loc[test, "subject_id"])
    else:
        test = np.zeros(len(frame), dtype=bool)
    excluded = home & ~test & frame["subject_id"].isin(tied).to_numpy()
    development = home & ~test & ~excluded
    fixed = np.where(home, np.where(test, "test", "excluded"), "external").astype(object)
    subjects = frame[development]["subject_id"].nunique()
    folds = _assign(frame[development], split, source, subjects)

    tables = []
    for fold in range(split.folds):
        role = fixed.copy()
        held_out = folds == fold
        if split.scheme == "official_test":
            role[development] = np.where(held_out, "validation", "train")
        else:
            rest = frame[development][~held_out]
            validation = _assign(rest, split, source, subjects) == 0
            parts = np.full(len(folds), "test", dtype=object)
            parts[~held_out] = np.where(validation, "validation", "train")
            role[development] = parts
        _require_classes(frame, role, fold, source)
        tables.append(pd.DataFrame({"image_id": frame["image_id"], "fold": fold, "role": role}))
    return pd.concat(tables, ignore_index=True)


def _assign(frame: pd.DataFrame, split: Split, source: str, of: int) -> npt.NDArray[np.int64]:
    """Fold of each image of a frame that has all `of` subjects, or what a test fold leaves."""
    subjects, folds = frame["subject_id"].nunique(), split.folds
    if subjects < folds:
        most = _most_folds(of, split)
        lower = f"set 'split.folds' to at most {most}, or " if most >= 2 else ""
        left = "" if subjects == of else ", without those of a test fold,"
        raise DatasetError(
            f"'{source}' has {subjects} subjects{left} to divide into {folds} folds; "
            f"{lower}bring more patients"
        )
    if (most := int(frame["label"].value_counts().max())) < folds:
        raise DatasetError(
            f"'{source}' has at most {most} images of a class to divide into {folds} folds; lower "
            "'split.folds', or bring more patients"
        )
    assigned = np.empty(len(frame), dtype=np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=split.seed)
    parts = splitter.split(np.zeros(len(frame)), frame["label"], frame["subject_id"])
    for fold, (_, held_out) in enumerate(parts):
        assigned[held_out] = fold
    return assigned


def _most_folds(subjects: int, split: Split) -> int:
    """The largest number of folds that so many subjects can be divided into."""
    if split.scheme == "official_test":
        return subjects
    # A test fold has as many subjects as any or one more; the rest is divided once again.
    return max((n for n in range(1, subjects) if subjects - -(-subjects // n) >= n), default=0)


def _require_published(home: pd.DataFrame, source: str) -> None:
    without = home[home["official_split"].isna()]
    if len(without):
        first = without.iloc[0]
        raise DatasetError(
            f"'{source}': {len(without)} of {len(home)} images have no published split; first: "
            f"{first['image_id']} (row {first['row']}). Fill the column 'split' with train or "
            "test, or set 'split.scheme' to cross_validation."
        )
    if not (home["official_split"] == "test").any():
        raise DatasetError(
            f"'{source}' has no test images in its published split; mark test patients, or set "
            "'split.scheme' to cross_validation"
        )


def _require_classes(
    frame: pd.DataFrame, role: npt.NDArray[np.object_], fold: int, source: str
) -> None:
    home = frame["dataset"] == source
    for label, rows in frame[home].groupby("label"):
        if not (role[rows.index.to_numpy()] == "train").any():
            raise DatasetError(
                f"fold {fold} of '{source}' has no training image of class '{label}': its "
                f"{len(rows)} images come from {rows['subject_id'].nunique()} subjects. Bring more "
                "patients of that class, lower 'split.folds', or take it out of 'classes'."
            )
