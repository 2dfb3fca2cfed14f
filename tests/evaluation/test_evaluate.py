"""From predictions to results: what is estimated, for whom, and what leaves the numbers alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from sonobench.evaluation import evaluate

CLASSES = ("brain", "femur", "other")
KEY = ["encoder", "adaptation", "evaluation", "label_space", "images", "metric"]
Make = Callable[..., Any]


def run(tables, **settings):
    return evaluate(tables.predictions, tables.samples, replace(tables.settings, **settings))


def row(results: pd.DataFrame, **key: str) -> pd.Series:
    usual = {
        "encoder": "net",
        "evaluation": "in_domain",
        "label_space": "open",
        "images": "all",
        "metric": "macro_f1",
        "aggregate": "mean_of_folds",
        "subgroup": "all",
        "calibration": "none",
    }
    chosen = results
    for column, value in {**usual, **key}.items():
        chosen = chosen[chosen[column] == value]
    (position,) = range(len(chosen))
    return chosen.iloc[position]


def probabilities(logits: pd.Series) -> np.ndarray:
    exact = np.stack(logits.to_list()).astype(np.float64)
    powers = np.exp(exact)
    return powers / powers.sum(1, keepdims=True)


def predicted(logits: pd.Series, classes: tuple[str, ...] = CLASSES) -> list[str]:
    values = np.stack(logits.to_list())[:, [CLASSES.index(name) for name in classes]]
    return [classes[index] for index in values.argmax(1)]


# The table


def test_results_have_exactly_the_columns_of_results_csv(make_tables: Make) -> None:
    assert list(run(make_tables()).results.columns) == [
        "encoder",
        "adaptation",
        "aggregate",
        "evaluation",
        "label_space",
        "images",
        "subgroup",
        "calibration",
        "metric",
        "estimate",
        "ci_low",
        "ci_high",
        "fold_sd",
        "seed_sd",
        "redrawn_share",
        "reliable",
        "n_images",
        "n_patients",
    ]


def test_every_model_has_every_evaluation_label_space_and_set_of_images(make_tables: Make) -> None:
    results = run(make_tables()).results
    macro = results[(results["metric"] == "macro_f1") & (results["subgroup"] == "all")]
    assert set(macro["calibration"]) == {"none"}
    macro = macro[macro["aggregate"] == "mean_of_folds"]
    assert list(
        macro[["evaluation", "images", "label_space", "encoder"]].itertuples(index=False, name=None)
    ) == [
        (evaluation, images, space, encoder)
        for evaluation in ("in_domain", "abroad")
        for images in ("all", "distinct")
        for space in ("open", "closed")
        for encoder in ("net", "twin")
    ]


def test_an_external_cohort_has_metrics_of_its_declared_classes_only(make_tables: Make) -> None:
    results = run(make_tables()).results
    metrics = set(results.loc[results["evaluation"] == "abroad", "metric"])
    assert "f1[femur]" in metrics
    assert "f1[other]" not in metrics


def test_images_and_patients_are_counted(make_tables: Make) -> None:
    abroad = row(run(make_tables()).results, evaluation="abroad")
    # Ten subjects with 3, 4, 5, 3, 4, 5, 3, 4, 5, 3 images.
    assert (abroad["n_patients"], abroad["n_images"]) == (10, 39)


# What is estimated


def test_the_estimate_is_the_mean_over_folds_and_seeds(make_tables: Make) -> None:
    tables = make_tables(seeds=(1, 2))
    rows = tables.predictions.query("encoder == 'net' and dataset == 'home'")
    by_model = rows.groupby(["fold", "seed"]).apply(
        lambda of: f1_score(of["label"], predicted(of["logits"]), average="macro")
    )
    result = row(run(tables).results)
    assert result["estimate"] == pytest.approx(by_model.mean())
    assert result["fold_sd"] == pytest.approx(by_model.groupby("fold").mean().std())
    assert result["seed_sd"] == pytest.approx(by_model.groupby("seed").mean().std())


def test_a_single_seed_has_no_deviation(make_tables: Make) -> None:
    result = row(run(make_tables()).results)
    assert np.isnan(result["seed_sd"])
    assert result["fold_sd"] > 0


def test_open_and_closed_label_spaces_are_scikit_learns_with_and_without_masked_logits(
    make_tables: Make,
) -> None:
    tables = make_tables()
    rows = tables.predictions.query("encoder == 'net' and dataset == 'abroad'")
    results = run(tables).results
    for space, classes in (("open", CLASSES), ("closed", CLASSES[:2])):
        by_fold = rows.groupby("fold").apply(
            lambda of, classes=classes: f1_score(
                of["label"], predicted(of["logits"], classes), labels=CLASSES[:2], average="macro"
            )
        )
        result = row(results, evaluation="abroad", label_space=space)
        assert result["estimate"] == pytest.approx(by_fold.mean())


def test_in_domain_and_with_all_classes_open_and_closed_are_the_same(make_tables: Make) -> None:
    results = run(make_tables()).results.query("evaluation == 'in_domain'")
    spaces = [
        results[results["label_space"] == space].drop(columns="label_space").reset_index(drop=True)
        for space in ("open", "closed")
    ]
    pd.testing.assert_frame_equal(*spaces)


def test_nll_is_the_mean_log_loss_over_folds_within_its_interval(make_tables: Make) -> None:
    tables = make_tables()
    rows = tables.predictions.query("encoder == 'net' and dataset == 'home'")
    by_fold = rows.groupby("fold").apply(
        lambda of: log_loss(of["label"], probabilities(of["logits"]), labels=CLASSES)
    )
    result = row(run(tables).results, metric="nll")
    assert result["estimate"] == pytest.approx(by_fold.mean(), abs=1e-7)
    assert result["ci_low"] < result["estimate"] < result["ci_high"]


def test_validation_rows_are_left_aside(make_tables: Make) -> None:
    tables = make_tables()
    shown = tables.predictions.query("fold == 0").assign(role="validation", fold=17)
    more = replace(tables, predictions=pd.concat([tables.predictions, shown]))
    pd.testing.assert_frame_equal(run(tables).results, run(more).results)


def test_in_cross_validation_the_estimate_is_the_mean_of_the_folds_own_test_images(
    make_tables: Make,
) -> None:
    tables = make_tables(estimand="cross_validation")
    rows = tables.predictions.query("encoder == 'net' and dataset == 'home'")
    by_fold = rows.groupby("fold").apply(
        lambda of: accuracy_score(of["label"], predicted(of["logits"]))
    )
    pooled = accuracy_score(rows["label"], predicted(rows["logits"]))
    result = row(run(tables).results, metric="accuracy")
    assert result["estimate"] == pytest.approx(by_fold.mean())
    assert result["estimate"] != pytest.approx(pooled)
    assert result["n_images"] == 48  # 12 subjects with 3, 4, 5, 3, ... images


# Duplicates


def test_of_identical_images_the_distinct_keep_the_smallest_image_id(make_tables: Make) -> None:
    tables = make_tables()
    samples = tables.samples.copy()
    # Subject 00 has brain, femur, other; the same picture twice would be the same class twice.
    twins = samples["image_id"].isin(["home/01_0", "home/01_3"])
    samples.loc[twins, "pixel_sha256"] = "the same"
    assert samples.loc[twins, "label"].nunique() == 1
    without = tables.predictions["image_id"] != "home/01_3"
    marked = run(replace(tables, samples=samples)).results
    left_out = run(replace(tables, predictions=tables.predictions[without])).results
    distinct = row(marked, images="distinct")
    assert distinct["n_images"] == row(marked)["n_images"] - 1
    pd.testing.assert_series_equal(
        distinct.drop("images"), row(left_out).drop("images"), check_names=False
    )


def test_images_without_a_hash_are_distinct(make_tables: Make) -> None:
    tables = make_tables()
    results = run(replace(tables, samples=tables.samples.assign(pixel_sha256=None))).results
    assert row(results, images="distinct")["n_images"] == row(results)["n_images"]


# Intervals


def test_identical_models_have_identical_intervals(make_tables: Make) -> None:
    tables = make_tables(encoders=("net",))
    copy = tables.predictions.assign(encoder="copy")
    results = run(replace(tables, predictions=pd.concat([tables.predictions, copy]))).results
    of = {
        name: part.drop(columns="encoder").reset_index(drop=True)
        for name, part in results.groupby("encoder")
    }
    pd.testing.assert_frame_equal(of["net"], of["copy"])


def test_models_come_from_the_same_draws_whichever_others_there_are(make_tables: Make) -> None:
    tables = make_tables()
    alone = replace(tables, predictions=tables.predictions.query("encoder == 'net'"))
    both = run(tables).results.query("encoder == 'net'").reset_index(drop=True)
    pd.testing.assert_frame_equal(both, run(alone).results)


def test_a_perfect_model_has_an_interval_below_1_only(make_tables: Make) -> None:
    tables = make_tables(encoders=("net",))
    perfect = [
        np.float32(10) * (np.arange(3) == CLASSES.index(label))
        for label in tables.predictions["label"]
    ]
    results = run(replace(tables, predictions=tables.predictions.assign(logits=perfect))).results
    result = row(results)
    assert (result["estimate"], result["ci_high"]) == (1.0, 1.0)
    # Clopper and Pearson for 12 of 12 subjects: 0.025^(1/12) = 0.735; as subjects differ in their
    # number of images they count for a little fewer.
    assert 0.7 < result["ci_low"] < 0.735


def test_a_class_that_a_model_never_predicts_has_f1_0_and_an_interval(make_tables: Make) -> None:
    tables = make_tables(encoders=("majority",))
    always = [np.array([1, 0, 0], dtype=np.float32)] * len(tables.predictions)
    results = run(replace(tables, predictions=tables.predictions.assign(logits=always))).results
    for metric in ("f1[femur]", "precision[femur]", "recall[femur]"):
        result = row(results, encoder="majority", metric=metric)
        assert result["estimate"] == result["ci_low"] == 0
        assert 0 < result["ci_high"] < 1
    assert row(results, encoder="majority", metric="recall[brain]")["estimate"] == 1


def test_strata_are_the_sites_abroad_and_none_at_home(make_tables: Make) -> None:
    tables = make_tables()
    moved = replace(tables, samples=tables.samples.assign(site="one"))
    before, after = run(tables).results, run(moved).results
    assert row(before)["ci_low"] == row(after)["ci_low"]
    assert row(before, evaluation="abroad")["ci_low"] != row(after, evaluation="abroad")["ci_low"]


def test_subjects_without_a_site_are_one_stratum(make_tables: Make) -> None:
    tables = make_tables()
    unknown = run(replace(tables, samples=tables.samples.assign(site=None))).results
    single = run(replace(tables, samples=tables.samples.assign(site="one"))).results
    pd.testing.assert_frame_equal(unknown, single)


def test_a_centre_may_lack_a_class_that_the_cohort_has(make_tables: Make) -> None:
    tables = make_tables()
    south = tables.samples["image_id"].where(
        (tables.samples["dataset"] == "abroad")
        & (tables.samples["site"] == "south")
        & (tables.samples["label"] == "femur")
    )
    kept = ~tables.predictions["image_id"].isin(south.dropna())
    result = row(
        run(replace(tables, predictions=tables.predictions[kept])).results,
        evaluation="abroad",
        metric="f1[femur]",
    )
    assert result["n_patients"] == 10
    assert result["ci_low"] < result["estimate"] < result["ci_high"]


def test_in_cross_validation_patients_are_resampled_within_their_fold(make_tables: Make) -> None:
    tables = make_tables(estimand="cross_validation")
    # Fold 0 always right, the others always wrong at home: subjects of a fold are all alike, so
    # that only resampling across folds could move the mean.
    right = (tables.predictions["fold"] == 0).to_numpy()
    logits = [
        np.float32(CLASSES.index(label) == np.arange(3)) * (1 if good else -1)
        for label, good in zip(tables.predictions["label"], right, strict=True)
    ]
    result = row(
        run(replace(tables, predictions=tables.predictions.assign(logits=logits))).results,
        metric="nll",
    )
    assert result["ci_low"] == pytest.approx(result["estimate"])
    assert result["ci_high"] == pytest.approx(result["estimate"])


# Reliability


def test_a_class_of_few_subjects_makes_its_cohort_unreliable(make_tables: Make) -> None:
    tables = make_tables()
    # Class other at home is left to one of 12 subjects: (11/12)^12 = 35 % of draws lack it.
    rare = (
        (tables.predictions["label"] == "other")
        & (tables.predictions["dataset"] == "home")
        & (tables.predictions["subject_id"] != "home/00")
    )
    results = run(replace(tables, predictions=tables.predictions[~rare])).results
    at_home, abroad = row(results), row(results, evaluation="abroad")
    # Of 200 draws: a standard error of 3.4 points.
    assert at_home["redrawn_share"] == pytest.approx((11 / 12) ** 12, abs=0.14)
    assert not at_home["reliable"]
    assert abroad["redrawn_share"] == 0
    assert abroad["reliable"]


def test_a_centre_of_one_subject_makes_its_cohort_unreliable(make_tables: Make) -> None:
    tables = make_tables()
    alone = tables.samples["subject_id"] == "abroad/04"
    samples = tables.samples.assign(site=tables.samples["site"].mask(alone, "west"))
    results = run(replace(tables, samples=samples)).results
    assert not row(results, evaluation="abroad")["reliable"]
    assert row(results)["reliable"]


# What must not matter


def test_the_order_of_rows_does_not_matter(make_tables: Make) -> None:
    tables = make_tables(seeds=(1, 2))
    shuffled = replace(
        tables,
        predictions=tables.predictions.sample(frac=1, random_state=0),
        samples=tables.samples.sample(frac=1, random_state=1),
    )
    before, after = run(tables), run(shuffled)
    pd.testing.assert_frame_equal(before.results, after.results, check_exact=True)
    pd.testing.assert_frame_equal(before.confusions, after.confusions)


def test_names_of_subjects_do_not_matter_while_their_order_stays(make_tables: Make) -> None:
    tables = make_tables()
    renamed = replace(
        tables,
        predictions=tables.predictions.assign(
            subject_id="subject " + tables.predictions["subject_id"]
        ),
        samples=tables.samples.assign(subject_id="subject " + tables.samples["subject_id"]),
    )
    pd.testing.assert_frame_equal(run(tables).results, run(renamed).results, check_exact=True)


def test_names_of_encoders_do_not_matter(make_tables: Make) -> None:
    tables = make_tables()
    swapped = replace(
        tables,
        predictions=tables.predictions.replace({"encoder": {"net": "twin", "twin": "net"}}),
    )
    before = run(tables).results.set_index(KEY).sort_index()
    after = run(swapped).results.replace({"encoder": {"net": "twin", "twin": "net"}})
    pd.testing.assert_frame_equal(before, after.set_index(KEY).sort_index(), check_exact=True)


def test_another_seed_of_the_bootstrap_moves_bootstrap_intervals_only(make_tables: Make) -> None:
    tables = make_tables()
    one, other = run(tables, seed=0).results, run(tables, seed=1).results
    assert row(one, metric="nll")["ci_low"] != row(other, metric="nll")["ci_low"]
    assert row(one)["ci_low"] == row(other)["ci_low"]


# Confusion matrices


def test_confusions_count_every_image_of_every_fold(make_tables: Make) -> None:
    tables = make_tables(seeds=(1, 2))
    confusions = run(tables).confusions
    assert list(confusions.columns) == [
        "encoder",
        "adaptation",
        "evaluation",
        "label_space",
        "images",
        "fold",
        "seed",
        "true",
        "predicted",
        "count",
    ]
    rows = tables.predictions.query(
        "encoder == 'net' and dataset == 'abroad' and fold == 1 and seed == 2"
    )
    said = pd.Series(predicted(rows["logits"]), index=rows.index)
    one = confusions.query(
        "encoder == 'net' and evaluation == 'abroad' and fold == 1 and seed == 2"
        " and images == 'all' and label_space == 'open'"
    )
    # Two declared classes in rows, three that can be predicted in columns.
    assert len(one) == 2 * 3
    for cell in one.itertuples():
        expected = ((rows["label"] == cell.true) & (said == cell.predicted)).sum()
        assert cell.count == expected


def test_in_the_closed_label_space_only_declared_classes_are_predicted(make_tables: Make) -> None:
    confusions = run(make_tables()).confusions
    closed = confusions.query("evaluation == 'abroad' and label_space == 'closed'")
    assert set(closed["predicted"]) == {"brain", "femur"}
