"""Ensembles, calibration, groups and label efficiency as tables of the page."""

import math
from collections.abc import Sequence

import pandas as pd

from sonobench.evaluation import TEMPERATURE_BOUNDS, Evaluation
from sonobench.report.numbers import bounds, number, percent, with_bounds
from sonobench.report.plain_table import PlainTable
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import MAIN, Scores, evaluation_title, spaced
from sonobench.report.subgroups import GroupScore, group_scores

_CALIBRATION = {"nll": "NLL", "brier": "Brier score", "ece": "ECE"}


def measured_tables(run: RunFolder, scores: Scores, evaluation: Evaluation) -> list[PlainTable]:
    """All of them, also those without a row."""
    groups = group_scores(evaluation.results)
    level = percent(run.protocol.evaluation.confidence)
    return [
        _ensembles(scores, evaluation.results),
        _calibration(scores, evaluation.results, level),
        _temperatures(scores, evaluation.temperatures),
        _subgroups(evaluation.subgroups, groups),
        _subgroup_scores(scores, groups, level),
        _label_efficiency(scores, evaluation.label_efficiency, level),
    ]


def _main(results: pd.DataFrame, aggregate: str) -> pd.DataFrame:
    return results[
        (results["aggregate"] == aggregate)
        & (results["label_space"] == MAIN.label_space)
        & (results["images"] == MAIN.images)
    ]


def _ensembles(scores: Scores, results: pd.DataFrame) -> PlainTable:
    table = _main(results, "ensemble")
    table = table[(table["metric"] == "macro_f1") & (table["subgroup"] == "all")]
    found = table.set_index(["encoder", "adaptation", "evaluation"]).to_dict("index")
    rows = [
        (
            model.title,
            evaluation_title(evaluation),
            number(row["estimate"]),
            bounds(row["ci_low"], row["ci_high"]),
            number(scores.macro_f1(model, evaluation).estimate),
        )
        for model in scores.models
        for evaluation in scores.evaluations
        if (row := found.get((*model, evaluation)))
    ]
    return PlainTable(
        "ensembles",
        "Macro F1 of the ensemble: probabilities averaged over the trained models of a row.",
        ("Model", "Where", "Ensemble", "Interval", "Mean of its models"),
        rows,
    )


def _calibration(scores: Scores, results: pd.DataFrame, level: str) -> PlainTable:
    """Of all images, then within every group that has them."""
    table = _main(results, "mean_of_folds")
    table = table[table["metric"].isin(list(_CALIBRATION))]
    place = ["encoder", "adaptation", "evaluation", "subgroup", "metric", "calibration"]
    cells = {
        key: with_bounds(estimate, low, high) + ("" if reliable else "†")
        for key, estimate, low, high, reliable in zip(
            table[place].itertuples(index=False, name=None),
            table["estimate"],
            table["ci_low"],
            table["ci_high"],
            table["reliable"],
            strict=True,
        )
    }
    corrected = table[table["calibration"] == "temperature"]
    groups = {
        evaluation: list(dict.fromkeys(corrected.loc[rows, "subgroup"]))
        for evaluation, rows in corrected.groupby("evaluation").groups.items()
    }
    rows = []
    for model in scores.models:
        for evaluation in scores.evaluations:
            for group in groups.get(evaluation, []):
                own = [
                    cells.get((*model, evaluation, group, metric, calibration), "–")
                    for metric in _CALIBRATION
                    for calibration in ("none", "temperature")
                ]
                if any(cell != "–" for cell in own[1::2]):
                    where = evaluation_title(evaluation)
                    where += "" if group == "all" else f", {spaced(group.replace('=', ' ', 1))}"
                    rows.append((model.title, where, *own))
    heads = [
        f"{name}, {how}"
        for name in _CALIBRATION.values()
        for how in ("as trained", "with temperature")
    ]
    return PlainTable(
        "calibration",
        f"Before and after temperature scaling, {level} intervals; lower is better. The "
        "temperature is fitted on the fold's validation patients, on which λ or the epoch was "
        "chosen too. The expected calibration error (15 bins of equal mass) is biased upwards. "
        "† interval not to be relied on.",
        ("Model", "Where", *heads),
        rows,
    )


def _temperatures(scores: Scores, temperatures: pd.DataFrame) -> PlainTable:
    lowest, highest = TEMPERATURE_BOUNDS
    rows = []
    groups = dict(iter(temperatures.groupby(["encoder", "adaptation"], sort=False)))
    for model in scores.models:
        if (table := groups.get(tuple(model))) is not None:
            ordered = table.sort_values(["seed", "fold"])
            rows.append((model.title, ", ".join(map(_temperature, ordered["temperature"]))))
    return PlainTable(
        "temperatures",
        "Temperature of each trained model, fold by fold; above 1 it was too sure of itself. "
        f"≤ {lowest:g} or ≥ {highest:g}: its validation images, all right or no better than "
        "chance, have no best temperature, and the model has no values with one.",
        ("Model", "Temperatures"),
        rows,
    )


def _temperature(value: float) -> str:
    lowest, highest = TEMPERATURE_BOUNDS
    if value in TEMPERATURE_BOUNDS:
        return f"≤ {lowest:g}" if value == lowest else f"≥ {highest:g}"
    return f"{value:.2f}"


def _subgroups(subgroups: pd.DataFrame, groups: Sequence[GroupScore]) -> PlainTable:
    told = {(g.evaluation, g.attribute, g.value): g.measure + g.mark for g in groups}
    rows = [
        (
            f"{spaced(row['attribute'])} {row['value']}",
            evaluation_title(row["evaluation"]),
            f"{row['n_images']:,}",
            f"{row['n_patients']:,}",
            str(row["n_classes"]),
            told.get((row["evaluation"], row["attribute"], row["value"]), "nothing: too small"),
            row["confounded_with"] if isinstance(row["confounded_with"], str) else "–",
        )
        for row in subgroups.to_dict("records")
    ]
    return PlainTable(
        "subgroups",
        "Centres, devices and other attributes, with all of their images. Where one tells another, "
        "what differs between groups may be due to either. † interval not to be relied on.",
        ("Group", "Where", "Images", "Patients", "Classes", "Estimated", "Confounded with"),
        rows,
    )


def _subgroup_scores(scores: Scores, groups: Sequence[GroupScore], level: str) -> PlainTable:
    order = {model: position for position, model in enumerate(scores.models)}
    # The groups stay as they come, and within each the models are in the order of the main table.
    places = {
        place: position
        for position, place in enumerate(
            dict.fromkeys((g.evaluation, g.attribute, g.value) for g in groups)
        )
    }
    ordered = sorted(
        groups, key=lambda g: (places[g.evaluation, g.attribute, g.value], order[g.model])
    )
    rows = [
        (
            f"{found.group}, {evaluation_title(found.evaluation)}",
            found.model.title,
            found.measure,
            number(found.score.estimate) + found.mark,
            bounds(found.score.low, found.score.high),
            f"{found.images:,}",
            f"{found.patients:,}",
        )
        for found in ordered
    ]
    return PlainTable(
        "subgroup_scores",
        f"Every model within every group, {level} intervals over patients; images of classes with "
        "too few images or patients in the group are left out. † interval not to be relied on.",
        ("Group", "Model", "Measure", "Estimate", "Interval", "Images", "Patients"),
        rows,
    )


def _label_efficiency(scores: Scores, curves: pd.DataFrame, level: str) -> PlainTable:
    of_f1 = curves[curves["metric"] == "macro_f1"] if len(curves) else curves
    order = {model.encoder: position for position, model in enumerate(scores.models)}
    rows = [
        (
            row["encoder"],
            evaluation_title(row["evaluation"]),
            f"{row['n_train_patients']:,}",
            number(row["estimate"]),
            bounds(row["ci_low"], row["ci_high"]),
            number(row["draw_sd"]),
            str(row["n_draws"]),
        )
        for row in sorted(
            of_f1.to_dict("records"),
            key=lambda row: (
                order.get(row["encoder"], math.inf),
                scores.evaluations.index(row["evaluation"]),
                row["n_train_patients"],
            ),
        )
    ]
    return PlainTable(
        "label_efficiency",
        f"Macro F1 of linear probes on fewer patients, {level} intervals over test patients. The "
        "deviation is that over draws of training patients.",
        ("Encoder", "Where", "Patients", "Macro F1", "Interval", "sd over draws", "Draws"),
        rows,
    )
