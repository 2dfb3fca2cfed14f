"""The curve over the number of training patients, against the evaluation of the same models."""

from collections.abc import Callable

import pandas as pd
import pytest

from sonobench.evaluation import evaluate
from sonobench.evaluation.label_efficiency import label_efficiency

KEY = ["encoder", "evaluation", "metric"]
NUMBERS = ["estimate", "ci_low", "ci_high", "fold_sd"]


def test_a_point_of_the_curve_is_the_evaluation_of_all_images_copies_included(
    make_tables: Callable,  # type: ignore[type-arg]
) -> None:
    tables = make_tables(seeds=(0, 1))
    samples = tables.samples.copy()
    # Two of the images at home are the same picture, so that the distinct ones are one fewer.
    twins = samples["image_id"].isin(["home/01_0", "home/01_3"])
    samples.loc[twins, "pixel_sha256"] = "the same"
    curve = label_efficiency([(8, tables.predictions)], samples, tables.settings)
    results = evaluate(tables.predictions, samples, tables.settings).results
    results = results[
        (results["label_space"] == "open") & (results["aggregate"] == "mean_of_folds")
    ]
    every, distinct = (
        results[results["images"] == images].set_index(KEY) for images in ("all", "distinct")
    )
    found = curve.set_index(KEY)
    pd.testing.assert_frame_equal(
        found[NUMBERS], every.loc[found.index, NUMBERS], check_dtype=False, check_exact=False
    )
    home = found.index[found.index.get_level_values("evaluation") == "in_domain"]
    assert (found.loc[home, "estimate"] != distinct.loc[home, "estimate"]).any()
    assert set(curve["n_train_patients"]) == {8}
    assert set(curve["n_draws"]) == {2}


def test_a_curve_rises_from_few_patients_to_many(make_tables: Callable) -> None:  # type: ignore[type-arg]
    tables = make_tables()
    numbers = [(32, tables.predictions), (8, tables.predictions)]
    curve = label_efficiency(numbers, tables.samples, tables.settings)
    assert set(curve["n_train_patients"]) == {8, 32}
    for _, points in curve.groupby(["encoder", "evaluation"]):
        assert points["n_train_patients"].is_monotonic_increasing


def test_without_predictions_the_curve_is_empty(make_tables: Callable) -> None:  # type: ignore[type-arg]
    tables = make_tables()
    assert label_efficiency([], tables.samples, tables.settings).empty


@pytest.mark.parametrize("draws", [1, 3])
def test_the_deviation_over_draws_needs_several(make_tables: Callable, draws: int) -> None:  # type: ignore[type-arg]
    tables = make_tables(seeds=tuple(range(draws)))
    curve = label_efficiency([(8, tables.predictions)], tables.samples, tables.settings)
    assert curve["draw_sd"].notna().all() == (draws > 1)
