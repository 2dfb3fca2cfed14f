"""Models against each other, and at home against abroad, over the same patients."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.jackknife import jackknife_variance, t_interval, t_p
from sonobench.evaluation.metrics import COMPARED
from sonobench.evaluation.ranking import (
    holm,
    letter_groups,
    rank_intervals,
    ranks,
)
from sonobench.evaluation.settings import IN_DOMAIN
from sonobench.tables import COMPARISONS, check, empty

Values = npt.NDArray[np.float64]
Pair = tuple[str, str]
Key = TypeVar("Key", bound=Hashable)

# With fewer patients hardly any difference can be told from chance: with five none can, and models
# that share a letter would look as if they had been found equal.
FEWEST_FOR_LETTERS = 10
# The settings that a full fine-tuning and a linear probe of one encoder are compared as.
_ADAPTATIONS = ("full_finetune", "linear_probe")


@dataclass(frozen=True)
class Compared:
    """What of one model is compared with others on the same images.

    Attributes:
        estimate: the metrics `COMPARED`, (3,).
        replicates: the same without each subject (`jackknife_replicates`), (S, 3).
        counts: confusion counts of each subject, mean over the trained models, (S, K, K).
        strata: stratum of each subject, 0, 1, ..., (S,).
    """

    estimate: Values
    replicates: Values
    counts: Values
    strata: npt.NDArray[np.intp]

    @property
    def degrees_of_freedom(self) -> int:
        """Subjects less strata."""
        return len(self.strata) - len(np.unique(self.strata))


# What is compared on one set of images: models by encoder and adaptation.
Models = Mapping[Pair, Compared]
# Evaluation, label space, images.
Variant = tuple[str, str, str]


def comparisons(variants: Mapping[Variant, Models], confidence: float) -> pd.DataFrame:
    """All comparisons of a benchmark (`sonobench.tables.COMPARISONS`).

    Rows come by evaluation, images and label space as `variants` has them; within each: pairs of
    encoders by adaptation, full fine-tuning against linear probing, drops, ranks. Holm's correction
    is over the pairs of an adaptation, or over the encoders that have both adaptations, within a
    variant.
    """
    rows: list[dict[str, Any]] = []
    for variant, models in variants.items():
        found: list[dict[str, Any]] = []
        standings: list[dict[str, Any]] = []
        for adaptation in sorted({adaptation for _, adaptation in models}):
            encoders = [encoder for encoder, own in models if own == adaptation]
            pairs = [((a, adaptation), (b, adaptation)) for a, b in combinations(encoders, 2)]
            differences = list(paired(models, pairs, confidence))
            found += [_named("pair", row) for row in differences]
            if pairs:
                standings += _standings(models, encoders, adaptation, differences, confidence)
        tuned, probed = _ADAPTATIONS
        both = [
            ((encoder, tuned), (encoder, probed))
            for encoder, adaptation in models
            if adaptation == tuned and (encoder, probed) in models
        ]
        found += [_named("adaptation", row) for row in paired(models, both, confidence)]
        evaluation, label_space, images = variant
        home = variants.get((IN_DOMAIN, label_space, images))
        if evaluation != IN_DOMAIN and home is not None:
            found += _drops(home, models, confidence)
        where = {"evaluation": evaluation, "label_space": label_space, "images": images}
        rows += [{**row, **where} for row in (*found, *standings)]
    if not rows:
        return empty(COMPARISONS)
    return check(pd.DataFrame(rows).reindex(columns=COMPARISONS.names), COMPARISONS)


def paired(
    models: Mapping[Key, Compared], pairs: Sequence[tuple[Key, Key]], confidence: float
) -> Iterator[dict[str, Any]]:
    """Differences a - b of pairs of models on the same images, one row a pair and metric.

    Interval and p are those of t with (subjects - strata) degrees of freedom, with the jackknife's
    standard error of the difference over subjects. No p is smaller than what exchanging the two
    models' predictions of whole subjects can give (Fisher's randomisation test), 2 / 2^n for the n
    subjects in which they differ, and an interval holds 0 where p is not below 1 - confidence.

    In a row `a` and `b` are the keys of the models. `p_holm` corrects for the number of pairs, and
    stands at macro F1 only, which is the primary metric.
    """
    if not pairs:
        return
    estimates = np.stack([models[a].estimate - models[b].estimate for a, b in pairs])
    replicates = np.stack([models[a].replicates - models[b].replicates for a, b in pairs], axis=1)
    any_of = models[pairs[0][0]]
    freedom = any_of.degrees_of_freedom
    error = np.sqrt(jackknife_variance(replicates, any_of.strata))
    differing = np.array(
        [(models[a].counts != models[b].counts).any((1, 2)).sum() for a, b in pairs]
    )
    p = np.maximum(t_p(estimates, error, freedom), np.minimum(1, 2.0 ** (1 - differing))[:, None])
    low, high = t_interval(estimates, error, freedom, confidence)
    alike = p >= 1 - confidence
    low, high = np.where(alike, np.minimum(low, 0), low), np.where(alike, np.maximum(high, 0), high)
    corrected = holm(p[:, 0])
    for position, (a, b) in enumerate(pairs):
        for place, metric in enumerate(COMPARED):
            yield {
                "a": a,
                "b": b,
                "metric": metric,
                "estimate": estimates[position, place],
                "ci_low": low[position, place],
                "ci_high": high[position, place],
                "p": p[position, place],
                "p_holm": corrected[position] if place == 0 else np.nan,
            }


def _named(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    (a, a_adaptation), (b, b_adaptation) = row["a"], row["b"]
    names = {"a": a, "a_adaptation": a_adaptation, "b": b, "b_adaptation": b_adaptation}
    return {"kind": kind, **row, **names}


def _standings(
    models: Models,
    encoders: list[str],
    adaptation: str,
    differences: list[dict[str, Any]],
    confidence: float,
) -> list[dict[str, Any]]:
    estimates = np.array([models[encoder, adaptation].estimate[0] for encoder in encoders])
    different = np.zeros((len(encoders), len(encoders)), dtype=np.bool_)
    for row in differences:
        if row["p_holm"] < 1 - confidence:
            a, b = encoders.index(row["a"][0]), encoders.index(row["b"][0])
            different[a, b] = different[b, a] = True
    low, high = rank_intervals(estimates, different)
    groups: list[str | None] = [*letter_groups(estimates, different)]
    if len(models[encoders[0], adaptation].strata) < FEWEST_FOR_LETTERS:
        groups = [None] * len(encoders)
    standing = zip(encoders, ranks(estimates), low, high, groups, strict=True)
    return [
        {
            "kind": "rank",
            "a": encoder,
            "a_adaptation": adaptation,
            "metric": COMPARED[0],
            "estimate": rank,
            "ci_low": first,
            "ci_high": last,
            "group": group,
        }
        for encoder, rank, first, last, group in standing
    ]


def _drops(home: Models, abroad: Models, confidence: float) -> list[dict[str, Any]]:
    """In-domain less external: other patients, so that variances add (Welch's t)."""
    rows = []
    for (encoder, adaptation), there in abroad.items():
        here = home[encoder, adaptation]
        variances = np.stack([jackknife_variance(of.replicates, of.strata) for of in (here, there)])
        variance = variances.sum(0)
        each = np.array([[here.degrees_of_freedom], [there.degrees_of_freedom]])
        # Welch and Satterthwaite; a cohort that says nothing of its variance leaves none.
        parts = (np.square(variances) / np.maximum(each, 1)).sum(0)
        freedom = np.divide(
            np.square(variance), parts, out=np.ones(len(COMPARED)), where=variance > 0
        ) * (each.min() > 0)
        estimate = here.estimate - there.estimate
        low, high = t_interval(estimate, np.sqrt(variance), freedom, confidence)
        for place, metric in enumerate(COMPARED):
            rows.append(
                {
                    "kind": "drop",
                    "a": encoder,
                    "a_adaptation": adaptation,
                    "metric": metric,
                    "estimate": estimate[place],
                    "ci_low": low[place],
                    "ci_high": high[place],
                }
            )
    return rows
