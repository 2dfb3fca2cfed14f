"""What cannot be evaluated is refused, with the model, the image and what to do."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sonobench.evaluation import EvaluationSettings, evaluate, inputs
from sonobench.evaluation.cohort import cohorts
from sonobench.tables import TableError

Make = Callable[..., Any]


def refuse(tables, *words: str, **changes: pd.DataFrame) -> None:
    changed = replace(tables, **changes)
    with pytest.raises(TableError) as caught:
        evaluate(changed.predictions, changed.samples, changed.settings)
    for word in words:
        assert word in str(caught.value)


def changed_logits(predictions: pd.DataFrame, image_id: str, logits: list[float]) -> pd.DataFrame:
    chosen = (
        (predictions["image_id"] == image_id)
        & (predictions["encoder"] == "twin")
        & (predictions["fold"] == 2)
    )
    values = [
        np.float32(logits) if here else value
        for here, value in zip(chosen, predictions["logits"], strict=True)
    ]
    return predictions.assign(logits=values)


def without(predictions: pd.DataFrame, query: str) -> pd.DataFrame:
    return predictions.drop(predictions.query(query).index)


@pytest.mark.parametrize("column", ["subject_id", "logits", "label", "fold"])
def test_a_missing_column_is_named(make_tables: Make, column: str) -> None:
    tables = make_tables()
    refuse(tables, column, predictions=tables.predictions.drop(columns=column))


def test_a_missing_subject_is_not_guessed(make_tables: Make) -> None:
    tables = make_tables()
    predictions = tables.predictions.assign(
        subject_id=tables.predictions["subject_id"].where(tables.predictions.index != 3)
    )
    refuse(tables, "row 3", "subject_id", predictions=predictions)


def test_a_repeated_prediction_is_refused(make_tables: Make) -> None:
    tables = make_tables()
    twice = pd.concat([tables.predictions, tables.predictions.iloc[[4]]])
    refuse(tables, "repeats", "image_id=home/01_1", predictions=twice)


def test_logits_of_another_length_name_their_model_and_image(make_tables: Make) -> None:
    tables = make_tables()
    short = changed_logits(tables.predictions, "home/03_1", [1.0, 2.0])
    refuse(tables, "'twin'", "fold 2", "'home/03_1'", "expected 3 logits", predictions=short)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_name_their_model_and_image(
    make_tables: Make, value: float
) -> None:
    tables = make_tables()
    broken = changed_logits(tables.predictions, "abroad/03_1", [1.0, value, 0.0])
    refuse(tables, "'twin'", "fold 2", "'abroad/03_1'", "finite", predictions=broken)


def test_predictions_of_validation_images_alone_are_refused(make_tables: Make) -> None:
    tables = make_tables()
    validation = tables.predictions.assign(role="validation")
    refuse(tables, "role test or external", "none", predictions=validation)


def test_an_image_that_samples_do_not_have_is_named(make_tables: Make) -> None:
    tables = make_tables()
    fewer = tables.samples[tables.samples["image_id"] != "home/02_0"]
    refuse(tables, "'home/02_0'", "not in samples", samples=fewer)


@pytest.mark.parametrize("column", ["label", "subject_id", "dataset"])
def test_tables_that_disagree_on_an_image_are_refused(make_tables: Make, column: str) -> None:
    tables = make_tables()
    values = tables.samples[column].mask(tables.samples["image_id"] == "home/02_0", "femur")
    samples = tables.samples.assign(**{column: values})
    refuse(tables, "'home/02_0'", column, "'femur' in samples", samples=samples)


def test_a_label_that_the_cohort_does_not_declare_is_refused(make_tables: Make) -> None:
    tables = make_tables()
    relabelled = {
        name: frame.assign(label=frame["label"].mask(frame["image_id"] == "abroad/01_1", "other"))
        for name, frame in (("predictions", tables.predictions), ("samples", tables.samples))
    }
    refuse(tables, "'abroad/01_1'", "'other'", "declared for abroad (brain, femur)", **relabelled)


def test_a_dataset_without_declared_classes_is_refused(make_tables: Make) -> None:
    tables = make_tables()
    settings = replace(tables.settings, declared={})
    refuse(tables, "role external", "dataset 'abroad'", settings=settings)


@pytest.mark.parametrize("estimand", ["held_out", "cross_validation"])
def test_a_cohort_without_an_image_of_a_declared_class_is_left_out_and_others_are_judged(
    make_tables: Make, estimand: str
) -> None:
    tables = make_tables(estimand=estimand)
    fewer = without(tables.predictions, "dataset == 'abroad' and label == 'femur'")
    found = evaluate(fewer, tables.samples, tables.settings)
    assert found.left_out["evaluation"].tolist() == ["abroad"]
    assert "'femur'" in found.left_out["reason"][0]
    whole = evaluate(tables.predictions, tables.samples, tables.settings).results
    pd.testing.assert_frame_equal(found.results, whole[whole["evaluation"] == "in_domain"])


def test_in_cross_validation_a_fold_without_a_class_leaves_the_in_domain_evaluation_out(
    make_tables: Make,
) -> None:
    tables = make_tables(estimand="cross_validation")
    fewer = without(tables.predictions, "dataset == 'home' and label == 'femur' and fold == 1")
    found = evaluate(fewer, tables.samples, tables.settings)
    assert found.left_out["evaluation"].tolist() == ["in_domain"]
    assert "fold 1 of" in found.left_out["reason"][0]
    assert set(found.results["evaluation"]) == {"abroad"}
    assert "drop" not in set(found.comparisons["kind"])


def test_a_fold_whose_only_image_of_a_class_is_a_copy_leaves_the_evaluation_out(
    make_tables: Make,
) -> None:
    tables = make_tables(estimand="cross_validation")
    copied = tables.samples["dataset"].eq("home") & tables.samples["label"].eq("femur")
    samples = tables.samples.assign(
        pixel_sha256=tables.samples["pixel_sha256"].mask(copied, "one picture")
    )
    found = evaluate(tables.predictions, samples, tables.settings)
    assert found.left_out["reason"][0].startswith("of its distinct images: ")


def test_where_no_cohort_can_be_judged_nothing_is_and_all_reasons_are_told(
    make_tables: Make,
) -> None:
    tables = make_tables()
    fewer = without(tables.predictions, "label == 'femur'")
    refuse(tables, "nothing to judge", "in_domain: ", "abroad: ", "'femur'", predictions=fewer)


def test_a_model_without_a_cohort_is_refused(make_tables: Make) -> None:
    tables = make_tables()
    fewer = without(tables.predictions, "dataset == 'abroad' and encoder == 'twin'")
    refuse(tables, "'twin'", "abroad", "the whole cohort", predictions=fewer)


def test_a_model_without_a_fold_is_refused(make_tables: Make) -> None:
    tables = make_tables(seeds=(1, 2))
    fewer = without(tables.predictions, "encoder == 'net' and fold == 1 and seed == 2")
    refuse(tables, "'net'", "fold 1, seed 2", predictions=fewer)


def test_a_model_without_an_image_is_refused(make_tables: Make) -> None:
    tables = make_tables()
    fewer = without(
        tables.predictions, "encoder == 'net' and fold == 1 and image_id == 'home/05_2'"
    )
    refuse(tables, "'net'", "fold 1", "'home/05_2'", "same images", predictions=fewer)


@pytest.mark.parametrize("other", ["east", "north"])
def test_subjects_of_the_same_two_sites_are_a_stratum_of_their_own(
    make_tables: Make, other: str
) -> None:
    tables = make_tables()
    elsewhere = tables.samples["image_id"].isin(["abroad/01_1", "abroad/03_1"])
    samples = tables.samples.assign(site=tables.samples["site"].mask(elsewhere, other))
    rows = inputs.tested_rows(tables.predictions, samples, tables.settings)
    abroad = next(c for c in cohorts(*rows, tables.settings) if c.evaluation == "abroad")
    both = abroad.strata[[1, 3]]
    assert both[0] == both[1]
    assert both[0] not in abroad.strata[[0, 2, 4, 5, 6, 7, 8, 9]]
    assert len(set(abroad.strata)) == 3
    results = evaluate(tables.predictions, samples, tables.settings).results
    assert results.loc[results["subgroup"] == "all", "reliable"].all()


def test_a_single_subject_of_two_sites_is_marked_as_any_stratum_of_one(make_tables: Make) -> None:
    tables = make_tables()
    elsewhere = tables.samples["image_id"] == "abroad/01_1"
    samples = tables.samples.assign(site=tables.samples["site"].mask(elsewhere, "east"))
    results = evaluate(tables.predictions, samples, tables.settings).results
    of_whole = results[results["subgroup"] == "all"].groupby("evaluation")["reliable"].all()
    assert of_whole.to_dict() == {"in_domain": True, "abroad": False}


def test_an_image_without_a_site_leaves_its_subject_in_the_site_of_the_others(
    make_tables: Make,
) -> None:
    tables = make_tables()
    unknown = tables.samples["image_id"] == "abroad/01_1"
    samples = tables.samples.assign(site=tables.samples["site"].mask(unknown, None))
    rows = inputs.tested_rows(tables.predictions, samples, tables.settings)
    abroad = next(c for c in cohorts(*rows, tables.settings) if c.evaluation == "abroad")
    assert abroad.strata.tolist() == [0, 1] * 5


def test_in_cross_validation_an_image_is_tested_in_one_fold(make_tables: Make) -> None:
    tables = make_tables()
    settings = replace(tables.settings, estimand="cross_validation")
    refuse(tables, "'home/00_0'", "two test folds", settings=settings)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("classes", ("brain",), "classes"),
        ("classes", ("brain", "brain"), "classes"),
        ("declared", {"abroad": ("brain", "liver")}, "liver"),
        ("declared", {"abroad": ()}, "none"),
        ("declared", {"home": ("brain",)}, "'home'"),
        ("declared", {"in_domain": ("brain",)}, "'in_domain'"),
        ("estimand", "holdout", "'holdout'"),
        ("bootstrap_draws", 0, "bootstrap_draws"),
        ("confidence", 95, "confidence"),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: object, words: str) -> None:
    fine = {"classes": ("brain", "femur"), "source": "home"}
    with pytest.raises(ValueError, match=words):
        EvaluationSettings(**{**fine, setting: value})
