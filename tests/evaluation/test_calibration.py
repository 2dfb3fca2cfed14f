"""Temperatures from validation images alone, what they change, and confidence curves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import f1_score

from sonobench.evaluation import evaluate
from sonobench.evaluation.calibration import fit_temperature

CLASSES = ("brain", "femur", "other")
Make = Callable[..., Any]


def with_validation(tables, scale: float = 3.0):
    """Every model also says of the home images, as validation, logits that are too sure."""
    home = tables.predictions[tables.predictions["role"] == "test"]
    names = home["image_id"] + " of validation"
    shown = home.assign(
        role="validation", image_id=names, logits=[scale * value for value in home["logits"]]
    )
    return replace(tables, predictions=pd.concat([tables.predictions, shown]))


def run(tables):
    return evaluate(tables.predictions, tables.samples, tables.settings)


def test_the_temperature_has_the_least_likelihood_loss() -> None:
    generator = np.random.default_rng(0)
    true = generator.integers(0, 3, 200)
    logits = 4 * generator.normal(size=(200, 3))
    logits[np.arange(200), true] += 3

    def loss(temperature: float) -> float:
        return -log_softmax(logits / temperature, axis=1)[np.arange(200), true].mean()

    best = minimize_scalar(loss, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-9}).x
    assert fit_temperature(logits, true) == pytest.approx(best, rel=1e-5)


def test_scaled_logits_have_a_scaled_temperature() -> None:
    generator = np.random.default_rng(1)
    true = generator.integers(0, 3, 50)
    logits = generator.normal(size=(50, 3))
    logits[np.arange(50), true] += 1
    assert fit_temperature(3 * logits, true) == pytest.approx(3 * fit_temperature(logits, true))


def test_a_model_that_is_always_right_and_one_that_is_always_wrong_get_the_bounds() -> None:
    true = np.arange(3)
    assert fit_temperature(np.eye(3), true) == pytest.approx(0.01)
    assert fit_temperature(-np.eye(3), true) == 100


def test_a_temperature_at_a_bound_calibrates_nothing(make_tables: Make) -> None:
    tables = make_tables()
    known = pd.Index(tables.settings.classes)
    with_all = with_validation(tables, scale=1.0)
    held_out = with_all.predictions["role"] == "validation"
    right = held_out & (with_all.predictions["encoder"] == "net")
    certain = [
        np.float32(np.arange(len(known)) == known.get_loc(x))
        for x in with_all.predictions.loc[right, "label"]
    ]
    logits = with_all.predictions["logits"].copy()
    logits[right] = pd.Series(certain, logits.index[right])
    found = run(replace(with_all, predictions=with_all.predictions.assign(logits=logits)))
    at_bound = found.temperatures["temperature"] == 0.01
    assert set(found.temperatures.loc[at_bound, "encoder"]) == {"net"}
    calibrated = found.results[found.results["calibration"] == "temperature"]
    assert set(calibrated["encoder"]) == set(found.temperatures["encoder"]) - {"net"}


def test_temperatures_are_fitted_on_validation_images_alone(make_tables: Make) -> None:
    tables = make_tables()
    one = run(with_validation(tables, scale=1.0)).temperatures
    three = run(with_validation(tables, scale=3.0)).temperatures
    assert len(one) == 2 * 3  # encoders and folds
    assert one["n_images"].tolist() == [48] * 6
    assert one["n_patients"].tolist() == [12] * 6
    np.testing.assert_allclose(three["temperature"], 3 * one["temperature"])


def test_a_temperature_changes_likelihoods_and_never_predicted_classes(make_tables: Make) -> None:
    results = run(with_validation(make_tables())).results
    scaled = results[(results["calibration"] == "temperature") & (results["subgroup"] == "all")]
    assert set(scaled["metric"]) == {"nll", "brier", "ece", "classwise_ece", "aurc"}
    assert set(scaled["images"]) == {"all"}
    assert set(scaled["evaluation"]) == {"in_domain", "abroad"}
    assert (scaled["ci_low"] < scaled["estimate"]).all()
    assert (scaled["estimate"] < scaled["ci_high"]).all()


def test_a_temperature_that_fits_improves_the_likelihood(make_tables: Make) -> None:
    tables = with_validation(make_tables(), scale=1.0)
    sure = [3 * value for value in tables.predictions["logits"]]
    results = run(replace(tables, predictions=tables.predictions.assign(logits=sure))).results
    nll = results[
        (results["metric"] == "nll")
        & (results["evaluation"] == "in_domain")
        & (results["subgroup"] == "all")
        & (results["aggregate"] == "mean_of_folds")
        & (results["images"] == "all")
        & (results["label_space"] == "open")
    ].set_index(["encoder", "calibration"])["estimate"]
    assert nll["net", "temperature"] < nll["net", "none"]


def test_without_validation_rows_of_every_model_nothing_is_calibrated(make_tables: Make) -> None:
    tables = with_validation(make_tables())
    lacking = (tables.predictions["role"] == "validation") & (tables.predictions["fold"] == 1)
    found = run(replace(tables, predictions=tables.predictions[~lacking]))
    assert set(found.results["calibration"]) == {"none"}
    assert set(found.temperatures["fold"]) == {0, 2}


def test_reliability_bins_hold_all_predictions_and_their_mean_accuracy(make_tables: Make) -> None:
    tables = make_tables(encoders=("net",))
    bins = run(tables).reliability.query("evaluation == 'abroad'")
    rows = tables.predictions.query("dataset == 'abroad'")
    right = np.stack(rows["logits"]).argmax(1) == rows["label"].map(CLASSES.index)
    assert bins["n_images"].sum() == len(rows)
    assert np.average(bins["accuracy"], weights=bins["n_images"]) == pytest.approx(right.mean())
    assert (bins["confidence"].diff().dropna() > 0).all()


def test_at_full_coverage_the_risk_is_the_share_of_errors(make_tables: Make) -> None:
    found = run(make_tables(encoders=("net",)))
    curve = found.risk_coverage.query("evaluation == 'abroad'")
    assert len(curve) == 100
    results = found.results.query(
        "evaluation == 'abroad' and metric == 'accuracy' and label_space == 'open' "
        "and aggregate == 'mean_of_folds' and images == 'all' and subgroup == 'all'"
    )
    assert curve["risk"].iloc[-1] == pytest.approx(1 - results["estimate"].iloc[0])


def test_an_ensemble_predicts_by_the_mean_probability_of_its_models(make_tables: Make) -> None:
    tables = make_tables(encoders=("net",))
    rows = tables.predictions.query("dataset == 'home'").sort_values(["fold", "image_id"])
    exact = np.exp(np.stack(rows["logits"]).astype(np.float64))
    mean = (exact / exact.sum(1, keepdims=True)).reshape(3, -1, 3).mean(0)
    true = rows["label"].iloc[: len(mean)]
    expected = f1_score(true, [CLASSES[k] for k in mean.argmax(1)], average="macro")
    found = run(tables).results.query(
        "aggregate == 'ensemble' and evaluation == 'in_domain' and metric == 'macro_f1' "
        "and images == 'all' and label_space == 'open'"
    )
    assert found["estimate"].tolist() == [pytest.approx(expected)]
    assert found["fold_sd"].isna().all()


def test_in_cross_validation_there_is_no_ensemble_in_domain(make_tables: Make) -> None:
    results = run(make_tables(estimand="cross_validation")).results
    assert set(results.loc[results["aggregate"] == "ensemble", "evaluation"]) == {"abroad"}
