"""Models against each other, and at home against abroad, from the same draws of patients."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.bootstrap import percentile_interval
from sonobench.evaluation.metrics import COMPARED
from sonobench.evaluation.ranking import (
    bootstrap_p,
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

# The settings that a full fine-tuning and a linear probe of one encoder are compared as.
_ADAPTATIONS = ("full_finetune", "linear_probe")


@dataclass(frozen=True)
class Drawn:
    """The metrics `COMPARED` of one model: estimates, (3,), and in every draw, (B, 3)."""

    estimate: Values
    draws: Values


# What is compared on one set of images: models by encoder and adaptation.
Models = Mapping[Pair, Drawn]
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
    models: Mapping[Key, Drawn], pairs: Sequence[tuple[Key, Key]], confidence: float
) -> Iterator[dict[str, Any]]:
    """Differences a - b of pairs of models on the same images, one row a pair and metric.

    In a row `a` and `b` are the keys of the models. `p_holm` corrects for the number of pairs, and
    stands at macro F1 only, which is the primary metric.
    """
    if not pairs:
        return
    estimates = np.stack([models[a].estimate - models[b].estimate for a, b in pairs])
    differences = np.stack([models[a].draws - models[b].draws for a, b in pairs], axis=1)
    low, high = percentile_interval(differences, confidence)
    p = bootstrap_p(differences)
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
    standing = zip(
        encoders, ranks(estimates), low, high, letter_groups(estimates, different), strict=True
    )
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
    """In-domain less external, from independent draws of the two cohorts."""
    rows = []
    for (encoder, adaptation), there in abroad.items():
        here = home[encoder, adaptation]
        low, high = percentile_interval(here.draws - there.draws, confidence)
        for place, metric in enumerate(COMPARED):
            rows.append(
                {
                    "kind": "drop",
                    "a": encoder,
                    "a_adaptation": adaptation,
                    "metric": metric,
                    "estimate": here.estimate[place] - there.estimate[place],
                    "ci_low": low[place],
                    "ci_high": high[place],
                }
            )
    return rows
