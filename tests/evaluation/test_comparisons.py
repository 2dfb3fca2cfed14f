"""What comparisons must say of models whose order is known, and what must leave them alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind, ttest_rel

from sonobench.evaluation import IN_DOMAIN, evaluate, jackknife_replicates
from sonobench.evaluation.comparisons import Compared, comparisons, paired

CLASSES = ("brain", "femur", "other")
Make = Callable[..., Any]


def run(tables):
    return evaluate(tables.predictions, tables.samples, tables.settings)


def chosen(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    usual = {"label_space": "open", "images": "all", "metric": "macro_f1"}
    for column, value in (usual | where).items():
        table = table[table[column] == value]
    return table


def only(table: pd.DataFrame, **where: str) -> pd.Series:
    rows = chosen(table, **where)
    assert len(rows) == 1
    return rows.iloc[0]


def with_copy(tables, change: Callable[[pd.DataFrame], pd.DataFrame]):
    original = tables.predictions[tables.predictions["encoder"] == "net"]
    changed = change(original.assign(encoder="other net"))
    return replace(tables, predictions=pd.concat([original, changed]))


def certain(labels: pd.Series) -> list[np.ndarray]:
    return [np.float32(9) * (np.arange(3) == CLASSES.index(label)) for label in labels]


def test_two_identical_models_differ_by_0_with_p_1_and_share_a_group(make_tables: Make) -> None:
    found = run(with_copy(make_tables(), lambda copy: copy)).comparisons
    for evaluation in (IN_DOMAIN, "abroad"):
        pair = only(found, kind="pair", evaluation=evaluation)
        assert pair[["estimate", "ci_low", "ci_high"]].tolist() == [0, 0, 0]
        assert pair[["p", "p_holm"]].tolist() == [1, 1]
        ranks = chosen(found, kind="rank", evaluation=evaluation)
        assert ranks["group"].tolist() == ["a", "a"]
        assert ranks["estimate"].tolist() == [1, 1]
        assert ranks[["ci_low", "ci_high"]].to_numpy().tolist() == [[1, 2], [1, 2]]


def test_a_model_with_one_more_patient_right_is_before_the_other(make_tables: Make) -> None:
    def better(copy: pd.DataFrame) -> pd.DataFrame:
        patient = copy["subject_id"].isin(["home/05"])
        logits = np.where(patient, pd.Series(certain(copy["label"]), copy.index), copy["logits"])
        return copy.assign(logits=logits)

    found = run(with_copy(make_tables(), better)).comparisons
    pair = only(found, kind="pair", evaluation=IN_DOMAIN)
    assert (pair["a"], pair["b"]) == ("net", "other net")
    assert pair["estimate"] < 0
    # One patient in whom they differ tells nothing.
    assert pair["ci_low"] < pair["estimate"] < 0 < pair["ci_high"]
    assert pair["p"] == 1
    ranks = chosen(found, kind="rank", evaluation=IN_DOMAIN).set_index("a")
    assert ranks["estimate"].to_dict() == {"net": 2, "other net": 1}


def test_a_model_that_is_always_right_is_significantly_before_one_that_guesses(
    make_tables: Make,
) -> None:
    found = run(
        with_copy(make_tables(), lambda copy: copy.assign(logits=certain(copy["label"])))
    ).comparisons
    ranks = chosen(found, kind="rank", evaluation=IN_DOMAIN).set_index("a")
    assert ranks["group"].to_dict() == {"net": "b", "other net": "a"}
    assert ranks.loc["other net", ["ci_low", "ci_high"]].tolist() == [1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_changes_no_table(make_tables: Make, seed: int) -> None:
    tables, generator = make_tables(), np.random.default_rng(seed)
    shuffled = replace(
        tables,
        predictions=tables.predictions.iloc[generator.permutation(len(tables.predictions))],
        samples=tables.samples.iloc[generator.permutation(len(tables.samples))],
    )
    before, after = run(tables), run(shuffled)
    for name in ("results", "comparisons", "reliability", "risk_coverage", "subgroups"):
        pd.testing.assert_frame_equal(getattr(before, name), getattr(after, name), check_exact=True)


def test_encoders_in_another_order_give_the_same_differences_with_the_other_sign(
    make_tables: Make,
) -> None:
    tables = make_tables()
    swap = {"net": "twin", "twin": "net"}
    swapped = replace(tables, predictions=tables.predictions.replace({"encoder": swap}))
    one = only(run(tables).comparisons, kind="pair", evaluation=IN_DOMAIN)
    two = only(run(swapped).comparisons, kind="pair", evaluation=IN_DOMAIN)
    assert one["estimate"] == -two["estimate"]
    assert one["ci_low"] == pytest.approx(-two["ci_high"])
    assert one["p"] == two["p"]


def test_a_drop_is_in_domain_less_external(make_tables: Make) -> None:
    found = run(make_tables())
    results = chosen(found.results, aggregate="mean_of_folds", subgroup="all", calibration="none")
    at = results[results["encoder"] == "net"].set_index("evaluation")["estimate"]
    drop = only(found.comparisons, kind="drop", a="net")
    assert drop["evaluation"] == "abroad"
    assert drop["b"] is None
    assert drop["estimate"] == pytest.approx(at[IN_DOMAIN] - at["abroad"])
    assert drop["ci_low"] < drop["estimate"] < drop["ci_high"]
    assert np.isnan(drop["p"])


def test_full_fine_tuning_is_compared_with_linear_probing_of_the_same_encoder(
    make_tables: Make,
) -> None:
    tables = make_tables()
    net = tables.predictions[tables.predictions["encoder"] == "net"]
    tuned = net.assign(adaptation="full_finetune", logits=certain(net["label"]))
    found = run(replace(tables, predictions=pd.concat([tables.predictions, tuned]))).comparisons
    row = only(found, kind="adaptation", evaluation=IN_DOMAIN)
    assert row[["a", "a_adaptation", "b", "b_adaptation"]].tolist() == [
        "net",
        "full_finetune",
        "net",
        "linear_probe",
    ]
    assert row["estimate"] > 0
    assert row["p_holm"] == row["p"]


def test_holm_counts_the_pairs_of_one_adaptation_and_cohort_and_macro_f1_alone() -> None:
    generator = np.random.default_rng(0)
    models = {
        (encoder, adaptation): Compared(
            np.full(3, 0.5 + shift),
            0.5 + shift + generator.normal(0, 0.001, (60, 3)),
            generator.random((60, 2, 2)),
            np.zeros(60, dtype=np.intp),
        )
        for encoder, shift in (("a", 0.0), ("b", 0.02), ("c", 0.04))
        for adaptation in ("linear_probe", "full_finetune")
    }
    table = comparisons({(IN_DOMAIN, "open", "all"): models}, 0.95)
    pairs = table[(table["kind"] == "pair") & (table["a_adaptation"] == "linear_probe")]
    macro = pairs[pairs["metric"] == "macro_f1"]
    assert macro["p_holm"].min() == pytest.approx(3 * macro["p"].min())
    assert pairs.loc[pairs["metric"] != "macro_f1", "p_holm"].isna().all()


def one_image_each(right: np.ndarray, strata: np.ndarray | None = None) -> Compared:
    """Of two classes and one image a subject: whether it is right; accuracy is what is compared."""
    counts = np.zeros((1, len(right), 2, 2), dtype=np.int64)
    counts[0, np.arange(len(right)), 0, 1 - right.astype(int)] = 1
    strata = np.zeros(len(right), dtype=np.intp) if strata is None else strata

    def accuracy(confusions):
        return np.repeat((confusions[..., 0, 0] / confusions.sum((-2, -1)))[..., None], 3, axis=-1)

    replicates = jackknife_replicates(counts, accuracy, strata)
    return Compared(accuracy(counts.sum(1)).mean(0), replicates, counts.mean(0), strata)


def difference(a: Compared, b: Compared) -> dict[str, Any]:
    return next(iter(paired({"a": a, "b": b}, [("a", "b")], 0.95)))


@pytest.mark.parametrize("seed", range(5))
def test_with_one_image_a_patient_a_pair_has_the_paired_t_test_of_accuracy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.random(80) < 0.8, generator.random(80) < 0.6
    row = difference(one_image_each(a), one_image_each(b))
    expected = ttest_rel(a.astype(float), b.astype(float))
    interval = expected.confidence_interval(0.95)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))


def test_with_one_image_a_patient_a_drop_has_welchs_t_interval() -> None:
    generator = np.random.default_rng(0)
    here, there = generator.random(200) < 0.9, generator.random(30) < 0.7
    models = [{("net", "linear_probe"): one_image_each(right)} for right in (here, there)]
    variants = [(IN_DOMAIN, "open", "all"), ("abroad", "open", "all")]
    table = comparisons(dict(zip(variants, models, strict=True)), 0.95)
    drop = only(table, kind="drop", metric="accuracy")
    expected = ttest_ind(here.astype(float), there.astype(float), equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (drop["ci_low"], drop["ci_high"]) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("differ", range(7))
def test_p_is_not_below_what_the_number_of_differing_patients_allows(differ: int) -> None:
    a = np.arange(200) < 120 + differ
    row = difference(one_image_each(a), one_image_each(np.arange(200) < 120))
    assert row["p"] >= min(1, 2 / 2**differ)
    assert (row["p"] < 0.05) == (row["ci_low"] > 0)


def test_six_patients_give_no_p_below_2_in_64_and_no_letters() -> None:
    right, wrong = np.ones(6, dtype=bool), np.zeros(6, dtype=bool)
    models = {
        ("good", "linear_probe"): one_image_each(right),
        ("bad", "linear_probe"): one_image_each(wrong),
    }
    table = comparisons({(IN_DOMAIN, "open", "all"): models}, 0.95)
    assert only(table, kind="pair")["p"] == 2 / 64
    assert chosen(table, kind="rank")["group"].isna().all()


def test_patients_who_are_each_the_only_one_of_their_site_tell_nothing_of_a_difference() -> None:
    sites = np.arange(12)
    right = np.arange(12) < 8
    row = difference(one_image_each(right, sites), one_image_each(~right, sites))
    assert (row["ci_low"], row["ci_high"], row["p"]) == (-1, 1, 1)


def test_an_evaluation_of_one_model_has_no_pairs_and_no_ranks(make_tables: Make) -> None:
    found = run(make_tables(encoders=("net",))).comparisons
    assert set(found["kind"]) == {"drop"}
