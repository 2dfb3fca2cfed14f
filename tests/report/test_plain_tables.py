"""Every number of a plain table is that of the evaluation, in its row and column."""

from dataclasses import replace

import pandas as pd
import pytest

from sonobench.report.comparisons import Comparisons
from sonobench.report.plain_tables import plain_tables
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores


@pytest.fixture(scope="module")
def run(plain_run):
    return RunFolder.read(plain_run.folder)


def tables_of(run, evaluation):
    return plain_tables(
        run,
        Scores.from_results(evaluation.results),
        Comparisons.of(evaluation.comparisons, 0.95),
        evaluation,
    )


@pytest.fixture(scope="module")
def tables(run, plain_run):
    return tables_of(run, plain_run.evaluation)


def cells(table, *row):
    """Cells of the only row that begins so, by heading."""
    [found] = [r for r in table.rows if tuple(r[: len(row)]) == row]
    return dict(zip(table.heads, found, strict=True))


def one(frame, **where):
    """The only row of a table of the evaluation."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    [row] = frame.itertuples()
    return row


MAIN = {"aggregate": "mean_of_folds", "label_space": "open", "images": "all"}


def test_every_model_has_its_estimate_and_interval_within_every_group(tables, plain_run):
    told = cells(tables["subgroup_scores"], "site south, abroad", "net_b, linear probe")
    row = one(
        plain_run.evaluation.results,
        **MAIN,
        encoder="net_b",
        subgroup="site=south",
        calibration="none",
        metric="macro_f1",
    )
    assert told["Measure"] == "macro F1"
    assert told["Estimate"] == f"{row.estimate:.3f}"
    assert told["Interval"] == f"[{row.ci_low:.3f}, {row.ci_high:.3f}]"
    assert (told["Images"], told["Patients"]) == (str(row.n_images), str(row.n_patients))


def test_what_is_estimated_of_a_group_is_said_and_whether_it_can_be_relied_on(run, plain_run):
    results = plain_run.evaluation.results
    north = results["subgroup"] == "site=north"
    results = results[~north | (results["metric"] == "recall[brain]")]
    results = results.assign(reliable=results["subgroup"] != "site=north")
    told = tables_of(run, replace(plain_run.evaluation, results=results))
    estimated = [row[5] for row in told["subgroups"].rows]
    assert estimated == ["recall of brain†", "macro F1"]
    recall = cells(told["subgroup_scores"], "site north, abroad", "net_b, linear probe")
    assert recall["Measure"] == "recall of brain"
    assert recall["Estimate"].endswith("†")


def test_a_run_without_groups_has_no_table_of_them(run, plain_run):
    results = plain_run.evaluation.results
    whole = results[results["subgroup"] == "all"]
    bare = replace(
        plain_run.evaluation, results=whole, subgroups=plain_run.evaluation.subgroups.iloc[:0]
    )
    assert not {"subgroups", "subgroup_scores"} & set(tables_of(run, bare))


def test_a_group_without_an_estimate_is_said_to_be_too_small(run, plain_run):
    results = plain_run.evaluation.results
    results = results[results["subgroup"] != "site=north"]
    told = tables_of(run, replace(plain_run.evaluation, results=results))
    assert [row[5] for row in told["subgroups"].rows] == ["nothing: too small", "macro F1"]


@pytest.mark.parametrize(
    ("where", "subgroup"), [("abroad", "all"), ("abroad, site north", "site=north")]
)
def test_calibration_has_its_interval_before_and_after(tables, plain_run, where, subgroup):
    told = cells(tables["calibration"], "net_b, linear probe", where)
    for calibration, heading in (("none", "as trained"), ("temperature", "with temperature")):
        for metric, name in (("nll", "NLL"), ("brier", "Brier score"), ("ece", "ECE")):
            row = one(
                plain_run.evaluation.results,
                **MAIN,
                encoder="net_b",
                evaluation="abroad",
                subgroup=subgroup,
                calibration=calibration,
                metric=metric,
            )
            mark = "" if row.reliable else "†"
            assert told[f"{name}, {heading}"] == (
                f"{row.estimate:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]{mark}"
            )


def test_ranks_stand_in_a_table(tables, plain_run):
    row = one(
        plain_run.evaluation.comparisons,
        kind="rank",
        a="net_b",
        evaluation="abroad",
        label_space="open",
        images="all",
    )
    told = cells(tables["ranks"], "net_b, linear probe", "abroad")
    assert told["Rank"] == f"{row.estimate:.0f}"
    assert told["May be"] == f"{row.ci_low:.0f} – {row.ci_high:.0f}"
    assert told["Group"] == row.group
    assert [r[1] for r in tables["ranks"].rows] == ["in-domain"] * 4 + ["abroad"] * 4
    assert [r[2] for r in tables["ranks"].rows] == ["1", "2", "3", "4"] * 2


def test_pairs_show_a_p_that_agrees_with_their_verdict(run, plain_run):
    pairs = plain_run.evaluation.comparisons.copy()
    pairs.loc[pairs["kind"] == "pair", "p_holm"] = 0.0498
    told = tables_of(run, replace(plain_run.evaluation, comparisons=pairs))["pairs"]
    assert {(row[4], row[5]) for row in told.rows} == {("0.0498", "differ")}


def test_label_efficiency_stands_in_a_table(run, plain_run):
    curve = pd.DataFrame(
        [
            {
                "encoder": encoder,
                "evaluation": "in_domain",
                "n_train_patients": patients,
                "metric": metric,
                "estimate": 0.5 + patients / 100,
                "ci_low": 0.4,
                "ci_high": 0.8,
                "draw_sd": 0.03,
                "fold_sd": 0.02,
                "n_draws": 5,
            }
            for encoder in ("net_b", "net")
            for patients in (10, 20)
            for metric in ("macro_f1", "accuracy")
        ]
    )
    told = tables_of(run, replace(plain_run.evaluation, label_efficiency=curve))["label_efficiency"]
    assert list(told.rows) == [
        ("net", "in-domain", "10", "0.600", "[0.400, 0.800]", "0.030", "5"),
        ("net", "in-domain", "20", "0.700", "[0.400, 0.800]", "0.030", "5"),
        ("net_b", "in-domain", "10", "0.600", "[0.400, 0.800]", "0.030", "5"),
        ("net_b", "in-domain", "20", "0.700", "[0.400, 0.800]", "0.030", "5"),
    ]


def test_the_papers_numbers_and_ours_have_the_same_decimals(run, plain_run):
    # To three decimals our interval would begin at 0.926 and seem to hold 0.9261.
    paper = pd.DataFrame(
        [
            {
                "encoder": "net",
                "adaptation": "linear_probe",
                "evaluation": "in_domain",
                "metric": "macro_f1",
                "ours": 0.93451,
                "ci_low": 0.92634,
                "ci_high": 0.94122,
                "theirs": 0.9261,
                "difference": 0.00841,
                "within": False,
            }
        ]
    )
    [row] = tables_of(run, replace(plain_run.evaluation, paper=paper))["paper"].rows
    assert row[3:] == ("0.9345 [0.9263, 0.9412]", "0.9261", "+0.0084", "outside")


def test_claims_stand_with_their_verdict_and_its_reason(run, plain_run):
    claims = pd.DataFrame([{"claim": "A beats B", "verdict": "not tested", "reason": "no B"}])
    told = tables_of(run, replace(plain_run.evaluation, claims=claims))["claims"]
    assert list(told.rows) == [("A beats B", "not tested", "no B")]


def test_kept_epochs_are_counted_from_one_and_a_fold_without_one_has_a_dash(run, plain_run):
    epochs = run.finetune.assign(best=run.finetune["epoch"] == 6)
    epochs.loc[epochs["fold"] == 1, "best"] = False
    told = tables_of(replace(run, finetune=epochs), plain_run.evaluation)["fine_tuning"]
    assert cells(told, "net, full fine-tuning")["Kept epochs"] == "7, –, 7"


def test_how_learning_rates_are_spread_is_told_unless_an_older_version_wrote_the_table(
    run, plain_run
):
    epochs = run.finetune.assign(lowest_rate=0.75**41, share_below_1_percent=0.431)
    told = tables_of(replace(run, finetune=epochs), plain_run.evaluation)["fine_tuning"]
    row = cells(told, "net, full fine-tuning")
    assert (row["Lowest rate"], row["Parameters below 1 %"]) == ("0.00075 %", "43 %")
    epochs = epochs.drop(columns=["lowest_rate", "share_below_1_percent"])
    told = tables_of(replace(run, finetune=epochs), plain_run.evaluation)["fine_tuning"]
    assert cells(told, "net, full fine-tuning")["Parameters below 1 %"] == "–"


def test_columns_of_numbers_with_signs_are_numbers(tables):
    heads = dict(zip(tables["calibration"].heads, tables["calibration"].numeric, strict=True))
    assert heads["ECE, as trained"]
    assert not heads["Model"]
