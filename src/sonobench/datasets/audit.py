"""What is wrong with the data, found before anything is trained: plain data for audit.json."""

from typing import Any

import pandas as pd

from sonobench.datasets.subjects import duplicate_groups


def audit(samples: pd.DataFrame, splits: pd.DataFrame, left_out: list[str]) -> dict[str, Any]:
    """Exact duplicates, merged subjects, exclusions and counts, a cohort each.

    Args:
        samples: the whole sample table.
        splits: roles.
        left_out: messages of the images that did not decode and were left out.
    """
    first_fold = splits[splits["fold"] == 0].set_index("image_id")["role"]
    role = samples["image_id"].map(first_fold)
    cohorts = {}
    for name, frame in samples.groupby("dataset", sort=False):
        groups = duplicate_groups(frame).groupby("pixel_sha256")
        across = groups["patient_id"].nunique() > 1
        published = groups["official_split"].nunique() > 1
        cohorts[str(name)] = {
            "images": len(frame),
            "distinct_images": int(frame["pixel_sha256"].nunique()),
            "patients": int(frame["patient_id"].nunique()),
            "subjects": int(frame["subject_id"].nunique()),
            "duplicate_sets": groups.ngroups,
            "duplicate_sets_across_patients": int(across.sum()),
            "duplicate_sets_across_published_split": int(published.sum()),
            "images_of_each_class": _counts(frame["label"]),
            "excluded_images": int((role[frame.index] == "excluded").sum()),
            "duplicates": [list(ids) for _, ids in groups["image_id"]],
        }
    shared = samples.groupby("pixel_sha256")["dataset"].nunique()
    roles = splits.merge(samples[["image_id", "label"]], on="image_id")
    return {
        "cohorts": cohorts,
        "images_shared_between_cohorts": int((shared > 1).sum()),
        "left_out": left_out,
        "images_of_each_role": {
            f"fold {fold}": {
                str(part): _counts(rows["label"]) for part, rows in frame.groupby("role")
            }
            for fold, frame in roles.groupby("fold")
        },
    }


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}
