"""What is drawn is what the results say, on scales and in colours that mean the same everywhere."""

from dataclasses import replace

import pandas as pd
import pytest

from sonobench.report.charts import FIGURES, figures
from sonobench.report.charts.calibration import risk_coverage
from sonobench.report.charts.scores import share_axis
from sonobench.report.charts.subgroups import subgroups
from sonobench.report.charts.training import fine_tuning, label_efficiency, losses
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores


@pytest.fixture(scope="module")
def run(plain_run):
    return RunFolder.read(plain_run.folder)


@pytest.fixture(scope="module")
def scores(plain_run):
    return Scores.from_results(plain_run.evaluation.results)


def drawn(panel):
    """Data of a panel, one row a mark."""
    [data] = [layer.data for layer in [panel.chart] if isinstance(layer.data, pd.DataFrame)] or [
        panel.chart.layer[0].data
    ]
    return data


def domains(figure):
    """Colour scales of all panels."""
    found = []
    for panel in figure.panels:
        spec = panel.chart.to_dict(validate=False)
        layers = spec.get("layer", [spec])
        found += [
            tuple(layer["encoding"]["color"]["scale"]["domain"])
            for layer in layers
            if "color" in layer["encoding"]
        ]
    return set(found)


def results(plain_run, **where):
    usual = {"aggregate": "mean_of_folds", "calibration": "none", "label_space": "open"}
    rows = plain_run.evaluation.results
    for column, value in (usual | {"images": "all"} | where).items():
        rows = rows[rows[column] == value]
    return rows


def test_the_forest_draws_every_model_at_its_estimate_and_interval(plain_run):
    panels = plain_run.drawn["forest"].panels
    assert [panel.title for panel in panels] == [
        "in-domain",
        "abroad",
        "abroad, closed label space",
    ]
    expected = results(plain_run, evaluation="abroad", subgroup="all", metric="macro_f1")
    expected = expected.sort_values("estimate")
    found = drawn(panels[1]).sort_values("estimate")
    assert found["low"].tolist() == expected["ci_low"].tolist()
    assert found["estimate"].tolist() == expected["estimate"].tolist()
    assert found["high"].tolist() == expected["ci_high"].tolist()


def test_groups_are_drawn_with_their_own_estimates_and_numbers_of_patients(plain_run):
    [probed] = [p for p in plain_run.drawn["subgroups"].panels if "linear probe" in p.title]
    [row] = results(plain_run, encoder="net_b", subgroup="site=north", metric="macro_f1").to_dict(
        "records"
    )
    frame = drawn(probed)
    [mark] = frame[(frame["encoder"] == "net_b") & (frame["value"] == "north")].to_dict("records")
    assert (mark["estimate"], mark["low"], mark["high"]) == (
        row["estimate"],
        row["ci_low"],
        row["ci_high"],
    )
    assert mark["row"] == f"north ({row['n_patients']} patients)"


def test_a_group_whose_interval_is_not_reliable_carries_a_sign(plain_run, run, scores):
    doubtful = plain_run.evaluation.results.copy()
    doubtful.loc[doubtful["subgroup"] == "site=north", "reliable"] = False
    figure = subgroups(run, scores, doubtful)
    rows = {row for panel in figure.panels for row in drawn(panel)["row"]}
    assert {row[: row.index("(") - 1] for row in rows} == {"north†", "south"}


def test_a_group_of_a_single_class_is_drawn_by_its_recall(plain_run, run, scores):
    table = plain_run.evaluation.results
    north = table["subgroup"] == "site=north"
    table = table[~north | (table["metric"] == "recall[brain]")]
    figure = subgroups(run, scores, table)
    titles = {
        tuple(drawn(panel)["value"].unique()): panel.chart.to_dict(validate=False)["layer"][0][
            "encoding"
        ]["x"]["title"]
        for panel in figure.panels
    }
    assert titles == {("south",): "macro F1", ("north",): "recall of brain"}


def test_an_encoder_has_one_colour_in_all_panels(plain_run, run, scores):
    # The fine-tuned encoder is alone in its panels.
    coloured = {name: domains(plain_run.drawn[name]) for name in ("subgroups", "risk_coverage")}
    order = ("net", "net_b", "pixel_stats", "random:net")
    assert coloured == {"subgroups": {order}, "risk_coverage": {order}}
    curve = pd.DataFrame(
        [
            {"encoder": encoder, "evaluation": "in_domain", "metric": "macro_f1"}
            | {"n_train_patients": n, "estimate": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n_draws": 3}
            for encoder in ("net_b", "pixel_stats")
            for n in (10, 20)
        ]
    )
    assert domains(label_efficiency(run, scores, curve)) == {order}


def test_curves_of_caution_are_those_of_the_evaluation(plain_run, run, scores):
    curves = plain_run.evaluation.risk_coverage
    [panel] = [
        p for p in risk_coverage(run, scores, curves).panels if p.title == "abroad, linear probe"
    ]
    frame = drawn(panel)
    own = curves[
        (curves["encoder"] == "net_b")
        & (curves["evaluation"] == "abroad")
        & (curves["calibration"] == "none")
    ]
    found = frame[frame["encoder"] == "net_b"]
    assert found["risk"].tolist() == own["risk"].round(4).tolist()


def test_a_share_is_never_drawn_on_a_scale_beyond_one():
    scale = share_axis(pd.DataFrame({"high": [0.7, 1.0]}), above=0.01)
    assert scale.domain == [0.7, 1.0]


def test_epochs_and_folds_are_counted_from_one(run):
    frame = drawn(fine_tuning(run).panels[0])
    assert set(frame["fold"]) == {"fold 1, seed 0", "fold 2, seed 0", "fold 3, seed 0"}
    assert (frame["epoch"].min(), frame["epoch"].max()) == (1, 12)


def test_a_loss_says_over_how_many_folds_it_is_a_mean(run):
    early = run.finetune[(run.finetune["fold"] != 0) | (run.finetune["epoch"] < 4)]
    frame = drawn(losses(replace(run, finetune=early)).panels[0]).set_index(["kind", "epoch"])
    assert frame.loc[("training loss", 4), "count"] == 3
    assert frame.loc[("training loss", 5), "count"] == 2


def test_a_curve_says_how_many_of_its_trainings_ended_badly(run):
    epochs = run.finetune.copy()
    epochs.loc[epochs["fold"] == 1, "status"] = "at_chance"
    [panel] = fine_tuning(replace(run, finetune=epochs)).panels
    assert panel.title == "net, full fine-tuning (1 of 3 at chance)"


def test_every_figure_has_a_name_that_the_report_knows_as_its_own(plain_run, run, scores):
    assert set(figures(run, scores, plain_run.evaluation)) <= set(FIGURES)
    assert len(set(FIGURES)) == len(FIGURES)
