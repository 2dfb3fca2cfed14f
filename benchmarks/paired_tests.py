"""How often paired tests of equally good encoders find a difference, in simulated cohorts.

Encoders err with the same probabilities; on some images all err together, on others each for
itself, and the five trained models of an encoder share part of their errors. Wanted: differences
found at the level 0.05 in 4.5 to 5.5 % of pairs, and after Holm's correction in at most 5.5 % of
cohorts any. The percentile bootstrap stands beside for contrast.
"""

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.coverage import (
    CONFIDENCE,
    DRAWS,
    MODELS,
    SHARED,
    Population,
    error_probability,
    images_of,
    shift_of,
    wrong_predictions,
)
from sonobench.evaluation import bootstrap_statistic, draw_subjects, jackknife_replicates
from sonobench.evaluation.comparisons import Compared, paired
from sonobench.evaluation.counts import subject_confusions
from sonobench.evaluation.metrics import COMPARED, drawn_metrics
from sonobench.evaluation.ranking import holm

ENCODERS = 5
# Share of images on which all encoders err together.
ALIKE = 0.4

Values = npt.NDArray[np.float64]


def levels(population: Population, repetitions: int) -> dict[str, float]:
    """Share of pairs, and of cohorts after Holm's correction, with a difference at macro F1."""
    generator = np.random.default_rng(1)
    strata = np.repeat(np.arange(len(population.subjects)), population.subjects)
    declared = np.arange(population.class_shares.shape[1])
    shift = shift_of(population)
    weights = draw_subjects(
        strata, np.ones((strata.size, 1), dtype=np.bool_), DRAWS, generator
    ).weights
    pairs = list(combinations(range(ENCODERS), 2))
    found = dict.fromkeys(("pairs", "cohorts", "percentile_pairs", "percentile_cohorts"), 0.0)
    for _ in range(repetitions):
        counts = _counts(population, strata, shift, generator)

        def mean(confusions: npt.NDArray[Any]) -> Values:
            values: Values = drawn_metrics(confusions, declared)[..., : len(COMPARED)]
            return values

        models = {
            encoder: Compared(
                mean(own.sum(1)).mean(0),
                jackknife_replicates(own, mean, strata),
                own.mean(0),
                strata,
            )
            for encoder, own in enumerate(counts)
        }
        rows = pd.DataFrame(paired(models, pairs, CONFIDENCE)).query("metric == 'macro_f1'")
        found["pairs"] += (rows["p"] < 1 - CONFIDENCE).mean()
        found["cohorts"] += bool((rows["p_holm"] < 1 - CONFIDENCE).any())
        p = _percentile_p(weights, counts, pairs, mean)
        found["percentile_pairs"] += (p < 1 - CONFIDENCE).mean()
        found["percentile_cohorts"] += bool((holm(p) < 1 - CONFIDENCE).any())
    return {name: float(total / repetitions) for name, total in found.items()}


def _counts(
    population: Population,
    strata: npt.NDArray[np.intp],
    shift: float,
    generator: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Confusion counts of one cohort, (encoders, models, S, K, K)."""
    subject, true, effects = images_of(population, strata, generator)
    probability = error_probability(population, shift, effects)[:, true, subject]
    of_all = generator.random(true.size)
    of_encoder = generator.random((ENCODERS, 1, true.size))
    own = generator.random((ENCODERS, MODELS, true.size))
    alike = generator.random(true.size) < ALIKE
    shared = generator.random((ENCODERS, 1, true.size)) < SHARED
    wrong = np.where(alike, of_all, np.where(shared, of_encoder, own)) < probability
    n_classes = population.class_shares.shape[1]
    predicted = np.where(wrong, wrong_predictions(true, n_classes, generator), true)
    return np.array(
        [
            [subject_confusions(subject, true, of, strata.size, n_classes) for of in models]
            for models in predicted
        ]
    )


def _percentile_p(
    weights: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
    pairs: list[tuple[int, int]],
    mean: Any,
) -> Values:
    """min(1, 2 min(1 + #{d <= 0}, 1 + #{d >= 0}) / (B + 1)) of macro F1 (Davison and Hinkley)."""
    drawn = bootstrap_statistic(
        weights, np.moveaxis(counts, 2, 0), lambda sums: mean(sums)[..., 0].mean(-1)
    )
    one, other = np.transpose(pairs)
    difference = drawn[:, one] - drawn[:, other]
    below, above = (1 + (difference <= 0).sum(0)), (1 + (difference >= 0).sum(0))
    p: Values = np.minimum(1, 2 * np.minimum(below, above) / (len(drawn) + 1))
    return p
