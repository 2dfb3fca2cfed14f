"""Identical images: within and across patients, published parts, cohorts and labels."""

import pandas as pd

from sonobench.datasets.audit.finding import Finding, Severity
from sonobench.datasets.subjects import duplicate_groups

# One patient has two or three ids at most; an image under more is blank, or a test of the machine.
_MOST_IDS = 3


def exact_duplicates(samples: pd.DataFrame, source: str) -> list[Finding]:
    """Findings on images with identical pixels, cohort by cohort, then across cohorts.

    Args:
        samples: with pixel_sha256.
        source: the cohort that is trained on.
    """
    found = []
    for name, frame in samples.groupby("dataset", sort=False):
        found += _within(str(name), frame)
    shared = samples.groupby("pixel_sha256")["dataset"].nunique()
    rows = samples[samples["pixel_sha256"].isin(shared.index[shared > 1])]
    if len(rows):
        count = rows["pixel_sha256"].nunique()
        cohorts = list(dict.fromkeys(rows["dataset"]))
        excluded = "; development images of the source among them are excluded from training"
        found.append(
            Finding(
                "duplicates_across_cohorts",
                "warning",
                str(cohorts[0]),
                f"{_images(count)} in more than one cohort ({' and '.join(sorted(cohorts))})"
                + (excluded if source in cohorts else ""),
                count,
                Finding.some(rows.sort_values("pixel_sha256")["image_id"]),
            )
        )
    return found


def label_conflicts(samples: pd.DataFrame) -> list[Finding]:
    """The same pixels under two labels: an error, wherever they stand."""
    groups = duplicate_groups(samples)
    labels = groups.groupby("pixel_sha256")["label"].nunique()
    rows = groups[groups["pixel_sha256"].isin(labels.index[labels > 1])]
    if rows.empty:
        return []
    first = rows[rows["pixel_sha256"] == rows["pixel_sha256"].iloc[0]]
    listed = "; ".join(f"{r.image_id} (row {r.row}): {r.label}" for r in first.itertuples())
    count = rows["pixel_sha256"].nunique()
    return [
        Finding(
            "label_conflict",
            "error",
            str(first["dataset"].iloc[0]),
            f"{_images(count)} under two labels; first: {listed}",
            count,
            Finding.some(rows["image_id"]),
        )
    ]


def leaks(samples: pd.DataFrame, splits: pd.DataFrame | None, source: str) -> list[Finding]:
    """Patients in both published parts, and subjects with two roles in a fold.

    A subject that is tested at home and in another cohort has two roles as well; as nothing was
    trained on it, that is only to be known when the two numbers are compared.
    """
    found = []
    published = samples.dropna(subset=["official_split"])
    for name, frame in published.groupby("dataset", sort=False):
        parts = frame.groupby("patient_id")["official_split"].nunique()
        both = parts.index[parts > 1]
        if len(both):
            rows = frame[frame["patient_id"].isin(both)]
            found.append(
                Finding(
                    "leak",
                    "error" if name == source else "info",
                    str(name),
                    f"{len(both)} patients are in both parts of the published split; first: "
                    f"{both[0]}",
                    len(both),
                    Finding.some(rows["image_id"]),
                )
            )
    if splits is not None:
        used = splits[splits["role"] != "excluded"]
        joined = used.merge(samples[["image_id", "subject_id"]], on="image_id")
        roles = joined.groupby(["fold", "subject_id"])["role"].agg(frozenset)
        torn = roles[roles.map(len) > 1]
        tested = torn.map(lambda of_one: of_one <= {"test", "external"})
        text = "{} subjects have two roles in a fold; first: {}"
        found += _subjects(samples, torn[~tested], "error", source, text)
        text = (
            "{} subjects are tested at home and in another cohort, so that these numbers are not "
            "independent; nothing was trained on them; first: {}"
        )
        found += _subjects(samples, torn[tested], "warning", source, text)
    return found


def _subjects(
    samples: pd.DataFrame, torn: pd.Series, severity: Severity, source: str, text: str
) -> list[Finding]:
    subjects = sorted(set(torn.index.get_level_values("subject_id")))
    if not subjects:
        return []
    rows = samples[samples["subject_id"].isin(subjects)]
    message, some = text.format(len(subjects), subjects[0]), Finding.some(rows["image_id"])
    return [Finding("leak", severity, source, message, len(subjects), some)]


def _within(name: str, frame: pd.DataFrame) -> list[Finding]:
    rows = duplicate_groups(frame)
    if rows.empty:
        return []
    groups = rows.groupby("pixel_sha256")
    patients, parts = groups["patient_id"].nunique(), groups["official_split"].nunique()
    across = int((patients > 1).sum())
    found = [
        Finding(
            "exact_duplicates",
            "warning" if across else "info",
            name,
            f"{_images(groups.ngroups)} more than once, {across} of them under more than one "
            "patient id",
            groups.ngroups,
            Finding.some(rows["image_id"]),
        )
    ]
    torn = parts.index[parts > 1]
    if len(torn):
        found.append(
            Finding(
                "duplicates_across_split",
                "warning",
                name,
                f"{_images(len(torn))} in both parts of the published split: it leaks",
                len(torn),
                Finding.some(rows.loc[rows["pixel_sha256"].isin(torn), "image_id"]),
            )
        )
    many = patients.index[patients > _MOST_IDS]
    if len(many):
        found.append(
            Finding(
                "shared_by_many",
                "warning",
                name,
                f"{_images(len(many))} under more than {_MOST_IDS} patient ids, one of them under "
                f"{patients.max()}: if it shows no patient (blank, a test picture), take it out, "
                "as ids that share an image are merged into one subject",
                len(many),
                Finding.some(rows.loc[rows["pixel_sha256"].isin(many), "image_id"]),
            )
        )
    return found


def _images(count: int) -> str:
    return "1 image occurs" if count == 1 else f"{count} images occur"
