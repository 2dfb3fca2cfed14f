"""What comparisons must say of models whose order is known, and what must leave them alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sonobench.evaluation import IN_DOMAIN, evaluate
from sonobench.evaluation.comparisons import Drawn, comparisons

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
    # Never worse, and alike where the patient is not drawn: (11/12)^12 = 35 % of draws.
    assert pair["ci_low"] < pair["ci_high"] <= 0
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
        (encoder, adaptation): Drawn(
            np.full(3, 0.5 + shift), 0.5 + shift + generator.normal(0, 0.01, (999, 3))
        )
        for encoder, shift in (("a", 0.0), ("b", 0.02), ("c", 0.04))
        for adaptation in ("linear_probe", "full_finetune")
    }
    table = comparisons({(IN_DOMAIN, "open", "all"): models}, 0.95)
    pairs = table[(table["kind"] == "pair") & (table["a_adaptation"] == "linear_probe")]
    macro = pairs[pairs["metric"] == "macro_f1"]
    assert macro["p_holm"].min() == pytest.approx(3 * macro["p"].min())
    assert pairs.loc[pairs["metric"] != "macro_f1", "p_holm"].isna().all()


def test_an_evaluation_of_one_model_has_no_pairs_and_no_ranks(make_tables: Make) -> None:
    found = run(make_tables(encoders=("net",))).comparisons
    assert set(found["kind"]) == {"drop"}
