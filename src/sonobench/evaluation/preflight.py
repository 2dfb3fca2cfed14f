"""What an evaluation will not judge, known from images, labels and folds alone.

An average over classes needs an image of every declared class in every test set. That can be told
from samples and splits before anything is trained; an evaluation asks the same of predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from sonobench.evaluation.settings import IN_DOMAIN, EvaluationSettings
from sonobench.tables import SPLITS, TableError, check


@dataclass(frozen=True)
class Unjudged:
    """An evaluation that is left out, and why.

    Attributes:
        evaluation: `in_domain` or the external dataset's name.
        reason: what it lacks and what to do.
    """

    evaluation: str
    reason: str


def preflight(
    samples: pd.DataFrame, splits: pd.DataFrame, settings: EvaluationSettings
) -> list[Unjudged]:
    """Say which evaluations of a run will be left out, before anything is trained.

    Args:
        samples: of all cohorts (`sonobench.tables.SAMPLES`); columns that decoding adds may be
            missing.
        splits: role of every image in every fold (`sonobench.tables.SPLITS`).
        settings: classes, cohorts and estimand.

    Returns:
        Those that cannot be judged, in the order of the evaluations; none when all is well.

    Raises:
        TableError: splits break their schema.
    """
    roles = check(splits, SPLITS)
    tested = roles[roles["role"].isin(["test", "external"])]
    return unjudged(tested, samples, settings)


def unjudged(
    tested: pd.DataFrame, samples: pd.DataFrame, settings: EvaluationSettings
) -> list[Unjudged]:
    """Evaluations that have no image, or lack one of a declared class in a test set.

    Args:
        tested: `image_id`, `role` (test or external) and `fold`, such as predictions have them.
        samples: `image_id`, `dataset`, `label` and, once they are decoded, `pixel_sha256`.
        settings: classes, cohorts and estimand.
    """
    known = [name for name in ("dataset", "label", "pixel_sha256") if name in samples]
    once = tested[["image_id", "role", "fold"]].drop_duplicates().sort_values("image_id")
    rows = once.join(samples.set_index("image_id")[known], on="image_id")
    found = []
    for evaluation, declared in settings.evaluations.items():
        own = rows[
            (rows["role"] == ("test" if evaluation == IN_DOMAIN else "external"))
            & (rows["dataset"] == settings.dataset_of(evaluation))
        ]
        own = own.assign(test_set=own["fold"] if settings.by_fold(evaluation) else 0)
        reason = lacking(own["label"], own["test_set"], declared)
        if not reason and "pixel_sha256" in own:
            # One image of a set of copies stands for all, in whichever test set it is.
            images = own.drop_duplicates(["image_id", "test_set"])
            copies = images["pixel_sha256"].notna() & images.duplicated("pixel_sha256")
            distinct = images[~copies]
            if reason := lacking(distinct["label"], distinct["test_set"], declared):
                reason = f"of its distinct images: {reason}"
        if reason:
            found.append(Unjudged(evaluation, reason))
    return found


def lacking(
    labels: "pd.Series[str]", test_sets: "pd.Series[int]", declared: tuple[str, ...]
) -> str:
    """What a cohort lacks to be judged, and what to do; empty if nothing.

    Args:
        labels: of its images, (N,).
        test_sets: which test set every image is in, (N,); one for all unless every fold has its
            own.
        declared: classes that averages run over.
    """
    if labels.empty:
        return (
            "it has no image left to test: all are copies of other images, belong to patients who "
            "are not tested, or could not be read; bring others, or take it out of the protocol"
        )
    counts = pd.crosstab(test_sets, labels).reindex(columns=list(declared), fill_value=0)
    without = [(fold, name) for name in declared for fold in counts.index[counts[name] == 0]]
    if not without:
        return ""
    names = list(dict.fromkeys(name for _, name in without))
    classes = ("class " if len(names) == 1 else "classes ") + ", ".join(map(repr, names))
    if len(counts) == 1:
        return (
            f"{classes}: declared, but no image is tested, so F1 cannot be estimated; bring "
            "images of it, or declare only classes that the cohort has"
        )
    folds = list(dict.fromkeys(fold for fold, _ in without))
    numbers = ("fold " if len(folds) == 1 else "folds ") + ", ".join(map(str, folds))
    return (
        f"{classes}: no image is tested in {numbers} of {len(counts)}, so F1 cannot be estimated "
        "there; bring more patients of it, lower 'split.folds', or take it out of 'classes'"
    )


def without(settings: EvaluationSettings, left_out: Sequence[Unjudged]) -> EvaluationSettings:
    """The settings without the evaluations that are left out.

    Raises:
        TableError: none is left.
    """
    names = {one.evaluation for one in left_out}
    if names and not set(settings.evaluations) - names:
        reasons = "; ".join(f"{one.evaluation}: {one.reason}" for one in left_out)
        raise TableError(f"there is nothing to judge: {reasons}")
    return replace(
        settings,
        source=None if IN_DOMAIN in names else settings.source,
        declared={name: of for name, of in settings.declared.items() if name not in names},
    )
