"""Patients that are probably one, spelled in several ways: `001` and `1`, `P-7` and `p7`."""

from collections.abc import Iterable, Sequence

import pandas as pd

from sonobench.datasets.audit.finding import Finding, Severity
from sonobench.datasets.cohort import Cohort

_MEANING: dict[Severity, str] = {
    "error": "one spelling is trained or validated on where another is tested, which leaks",
    "warning": "they count as different patients",
}


def spellings(
    samples: pd.DataFrame, splits: pd.DataFrame | None, cohorts: Iterable[Cohort]
) -> list[Finding]:
    """Findings on patient ids that look alike and are not of one subject already.

    An error where one of them is trained or validated on and another one tested in the same fold.

    Args:
        samples: with subject_id.
        splits: roles; None where there are none yet: then the published split says who is tested.
        cohorts: whose ids look alike (`Cohort.look_alike`).
    """
    found = []
    for cohort in cohorts:
        names = [name for group in cohort.look_alike for name in group]
        own = samples[(samples["dataset"] == cohort.name) & samples["patient_id"].isin(names)]
        subject = own.drop_duplicates("patient_id").set_index("patient_id")["subject_id"]
        groups: dict[Severity, list[list[str]]] = {"error": [], "warning": []}
        for every in cohort.look_alike:
            group = [name for name in every if name in subject.index]
            if subject[group].nunique() > 1:
                rows = own[own["patient_id"].isin(group)]
                groups["error" if _leaks(rows, splits) else "warning"].append(group)
        found += [
            _finding(severity, cohort.name, own, alike)
            for severity, alike in groups.items()
            if alike
        ]
    return found


def _leaks(rows: pd.DataFrame, splits: pd.DataFrame | None) -> bool:
    """Whether a fold develops on some of these images and tests on others."""
    if splits is None:
        roles = rows.assign(fold=0, role=rows["official_split"])
    else:
        roles = splits[splits["image_id"].isin(rows["image_id"])]
    developed, tested = (
        set(roles.loc[roles["role"].isin(part), "fold"])
        for part in (("train", "validation"), ("test",))
    )
    return bool(developed & tested)


def _finding(
    severity: Severity, cohort: str, samples: pd.DataFrame, groups: Sequence[Sequence[str]]
) -> Finding:
    rows = samples.drop_duplicates("patient_id").set_index("patient_id")["row"]
    first = ", ".join(f"'{name}' (row {rows[name]})" for name in groups[0])
    how_many = "1 patient seems" if len(groups) == 1 else f"{len(groups)} patients seem"
    concerned = samples["patient_id"].isin([name for group in groups for name in group])
    return Finding(
        "spelled_in_several_ways",
        severity,
        cohort,
        f"{how_many} to be spelled in several ways; first: {first}; {_MEANING[severity]}. Spell a "
        "patient in one way, or call two patients differently",
        len(groups),
        Finding.some(samples.loc[concerned, "image_id"]),
    )
