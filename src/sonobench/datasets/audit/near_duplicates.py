"""Images that are nearly the same: re-encoded, rescaled, mirrored, or a view a moment later."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.datasets.audit.finding import Finding
from sonobench.datasets.subjects import Merging

# Near pairs of two subjects from which they are taken for one patient.
_LIKELY_SAME = 2
# Joined subjects, and patient ids of one, that are named in the sentence; all are in audit.json.
_NAMED = 5


def near_duplicates(
    samples: pd.DataFrame, splits: pd.DataFrame | None, merging: Merging
) -> list[Finding]:
    """Findings on near pairs of two subjects, and on whom they join or who is likely one patient.

    Args:
        samples: with image_id, dataset, label, subject_id and pixel_sha256.
        splits: roles; None where there are none yet.
        merging: the pairs that were found, and whom they join.
    """
    by_id, nearest = samples.set_index("image_id", drop=False), merging.near.nearest
    one, two = (
        by_id.loc[nearest[name]].reset_index(drop=True) for name in ("image_id_a", "image_id_b")
    )
    flags = pd.DataFrame({"apart": False, "mirrored": nearest["mirrored"]})
    if splits is not None and len(nearest):
        developed, tested = (
            _in_folds(samples, splits, roles)
            for roles in (("train", "validation"), ("test", "external"))
        )
        a, b = one["pixel_sha256"], two["pixel_sha256"]
        flags["apart"] = np.any(developed(a) & tested(b) | tested(a) & developed(b), axis=1)
    whom = _joined(samples, merging) if merging.joined else _likely_same_patients(one, two)
    return [*_pairs(one, two, flags, merging), *whom]


def _in_folds(
    samples: pd.DataFrame, splits: pd.DataFrame, roles: tuple[str, ...]
) -> Callable[[pd.Series], npt.NDArray[np.bool_]]:
    """Whether each of some images, or a copy of it, has one of the roles: (images, folds)."""
    joined = splits.merge(samples[["image_id", "pixel_sha256"]], on="image_id")
    has = joined["role"].isin(roles).groupby([joined["pixel_sha256"], joined["fold"]]).any()
    of_fold = has.unstack("fold")
    return lambda pixels: of_fold.loc[pixels].to_numpy(dtype=bool)


def _pairs(
    one: pd.DataFrame, two: pd.DataFrame, flags: pd.DataFrame, merging: Merging
) -> Iterator[Finding]:
    """Within each cohort, and across cohorts; of all pairs, or of the thousand nearest.

    `flags` says of which pairs a fold develops on one image and tests on the other (`apart`), and
    which are mirrored.
    """
    names = one["dataset"].where(one["dataset"] == two["dataset"], "")
    between = merging.near.between_subjects
    more = f" (of the {len(one)} nearest of {between} pairs)" if between > len(one) else ""
    for name in dict.fromkeys(names):
        rows = names == name
        cohorts = list(dict.fromkeys([*one.loc[rows, "dataset"], *two.loc[rows, "dataset"]]))
        where = f"of {' and '.join(cohorts)}" if name == "" else "of different patients"
        text = f"{int(rows.sum())} pairs of nearly identical images {where}{more}"
        if mirrored := int((rows & flags["mirrored"]).sum()):
            text += f"; {mirrored} are mirror images"
        if leaking := int((rows & flags["apart"]).sum()):
            text += f"; {leaking} have one image in development and one in test"
        if conflicts := int((rows & (one["label"] != two["label"])).sum()):
            text += f"; {conflicts} carry two labels"
        ids = pd.concat([one[rows]["image_id"], two[rows]["image_id"]]).sort_index(kind="stable")
        end = (
            ". Their patients are joined"
            if merging.joined
            else ". They are reported, not merged; with subjects.join_near_duplicates set to true "
            "their patients count as one"
        )
        yield Finding(
            "near_duplicates",
            "warning",
            str(cohorts[0]),
            text + end,
            int(rows.sum()),
            Finding.some(ids),
        )


def _joined(samples: pd.DataFrame, merging: Merging) -> Iterator[Finding]:
    """Which patients count as one because of near pairs."""
    groups = merging.joined
    rows = samples[samples["subject_id"].isin([ids[0] for ids in groups])]
    named = "; ".join(_listed(ids) for ids in groups[:_NAMED])
    more = f"; and {len(groups) - _NAMED} more subjects" if len(groups) > _NAMED else ""
    if (most := max(map(len, groups))) > _NAMED:
        more += (
            f". One has {most} patient ids: look at its images, as a picture that shows no patient "
            "joins all who have it"
        )
    yield Finding(
        "joined_subjects",
        "warning",
        str(rows["dataset"].iloc[0]),
        f"{sum(map(len, groups))} patient ids are joined into "
        f"{len(groups)} subject{'' if len(groups) == 1 else 's'}, as they share nearly identical "
        f"images (subjects.join_near_duplicates): {named}{more}",
        len(groups),
        Finding.some(rows["image_id"]),
    )


def _listed(ids: Sequence[str]) -> str:
    more = f" = {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return " = ".join(ids[:_NAMED]) + more


def _likely_same_patients(one: pd.DataFrame, two: pd.DataFrame) -> Iterator[Finding]:
    """Two subjects with several near pairs: one alike view can be chance, two hardly are."""
    names = [tuple(sorted(pair)) for pair in zip(one["subject_id"], two["subject_id"], strict=True)]
    for (first, second), rows in one.groupby(pd.Series(names, index=one.index), sort=True):
        if len(rows) < _LIKELY_SAME:
            continue
        ids = pd.concat([rows["image_id"], two.loc[rows.index, "image_id"]])
        yield Finding(
            "likely_same_patient",
            "warning",
            str(rows["dataset"].iloc[0]),
            f"patients {first} and {second} share {len(rows)} nearly identical images: they are "
            "probably one patient. They count as two; if they are one, give both the same id, or "
            "set subjects.join_near_duplicates to true",
            len(rows),
            Finding.some(ids.sort_index(kind="stable")),
        )
