"""All tables of the page beside those of scores; here training, the paper, and the audit."""

import pandas as pd

from sonobench.evaluation import Evaluation
from sonobench.report.comparison_tables import comparison_tables
from sonobench.report.comparisons import Comparisons
from sonobench.report.measured_tables import measured_tables
from sonobench.report.numbers import counted, number, signed, with_bounds
from sonobench.report.paper_settings import setting_rows
from sonobench.report.plain_table import PlainTable
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, evaluation_title, spaced

# The paper publishes four decimals.
_OF_PAPER = 4


def plain_tables(
    run: RunFolder, scores: Scores, comparisons: Comparisons, evaluation: Evaluation
) -> dict[str, PlainTable]:
    """Those that have a row, by name."""
    made = [
        *comparison_tables(run, comparisons),
        *measured_tables(run, scores, evaluation),
        _fine_tuning(run),
        _search(run),
        _paper(evaluation.paper),
        _claims(evaluation.claims),
        _settings(run),
        _audit_findings(run),
    ]
    return {table.name: table for table in made if table.rows}


def _fine_tuning(run: RunFolder) -> PlainTable:
    rows, doubtful = list[tuple[str, ...]](), set[int]()
    epochs = pd.DataFrame(columns=["encoder", "adaptation"])
    epochs = epochs if run.finetune is None else run.finetune
    for (encoder, adaptation), table in epochs.groupby(["encoder", "adaptation"], sort=False):
        model = Model(str(encoder), str(adaptation))
        ended = run.training_ended(*model)
        if ended:
            doubtful.add(len(rows))
        best = table[table["best"]].set_index(["seed", "fold"])
        epochs_kept = (best["epoch"].get(training) for training in run.trainings)
        rows.append(
            (
                model.title,
                "; ".join(map(str, ended.values())) or "trained",
                f"{table['learning_rate'].max():.2g}",
                _share(table, "lowest_rate"),
                _share(table, "share_below_1_percent"),
                ", ".join("–" if e is None else str(counted(int(e))) for e in epochs_kept),
                number(float(best["validation_macro_f1"].mean())),
                f"{table['images_per_second'].median():,.1f}",
            )
        )
    return PlainTable(
        "fine_tuning",
        "How fine-tuning ended. Kept epoch: of each fold, counted from 1, whose weights were "
        "tested; – where none was. Learning rates fall from the head to the layers next to the "
        "images: lowest rate as a share of the head's, and parameters that are trained at less "
        "than 1 % of it.",
        (
            "Model",
            "Ended",
            "Highest learning rate",
            "Lowest rate",
            "Parameters below 1 %",
            "Kept epochs",
            "Validation macro F1",
            "Images a second",
        ),
        rows,
        frozenset(doubtful),
    )


def _share(table: pd.DataFrame, column: str) -> str:
    """In percent, the same in all rows; – where an older version did not write it."""
    return f"{100 * table[column].iloc[0]:.2g} %" if column in table else "–"


def _search(run: RunFolder) -> PlainTable:
    tried = run.learning_rate_search
    rows = [
        (
            Model(row["encoder"], row["adaptation"]).title,
            f"{counted(row['fold'])}",
            f"{row['learning_rate']:.2g}",
            number(row["validation_macro_f1"]),
            number(row["validation_nll"]),
            "chosen" if row["chosen"] else "–",
        )
        for row in ([] if tried is None else tried.to_dict("records"))
    ]
    return PlainTable(
        "search",
        "Learning rates that were tried, the same for every encoder, on validation patients of "
        "the fold named.",
        ("Model", "Fold", "Learning rate", "Validation macro F1", "Validation NLL", "Chosen"),
        rows,
    )


def _paper(paper: pd.DataFrame) -> PlainTable:
    rows = [
        (
            Model(row["encoder"], row["adaptation"]).title,
            evaluation_title(row["evaluation"]),
            spaced(row["metric"]).replace("f1", "F1"),
            with_bounds(row["ours"], row["ci_low"], row["ci_high"], _OF_PAPER),
            number(row["theirs"], _OF_PAPER),
            signed(row["difference"], _OF_PAPER),
            "within" if row["within"] else "outside",
        )
        for row in paper.to_dict("records")
    ]
    return PlainTable(
        "paper",
        "Published numbers (arXiv 2605.27796) beside ours. The paper publishes no variance and "
        "does not say how its F1 averages: both averages are shown, and whether its number lies "
        "within our interval.",
        ("Model", "Where", "Metric", "Ours", "Paper", "Difference", "Our interval"),
        rows,
    )


def _claims(claims: pd.DataFrame) -> PlainTable:
    rows = [(row["claim"], row["verdict"], row["reason"]) for row in claims.to_dict("records")]
    return PlainTable(
        "claims",
        "What the paper says, and what this run says of it.",
        ("Claim", "Verdict", "Why"),
        rows,
    )


def _settings(run: RunFolder) -> PlainTable:
    rows = [tuple(map(str, row)) for row in setting_rows(run.protocol)]
    return PlainTable(
        "settings",
        "What the paper makes public of its protocol beside this run's, and what this run does "
        "where the paper does not say; the whole protocol stands below.",
        ("Setting", "This run", "Paper", "Verdict"),
        rows,
    )


def _audit_findings(run: RunFolder) -> PlainTable:
    rows, doubtful = list[tuple[str, ...]](), set[int]()
    for finding in run.audit.get("findings", []):
        if finding["severity"] == "error":
            doubtful.add(len(rows))
        some = finding.get("image_ids", [])
        rows.append(
            (
                spaced(finding["kind"]),
                finding["severity"],
                finding["cohort"],
                finding["message"],
                f"{finding['count']:,}",
                ", ".join(some[:3]) + (" …" if len(some) > 3 else ""),
            )
        )
    return PlainTable(
        "audit_findings",
        "What the audit found, and how many images or patients are concerned.",
        ("Kind", "Severity", "Cohort", "Finding", "Count", "Images, for example"),
        rows,
        frozenset(doubtful),
    )
