"""Tables of the page beside those of scores: a caption, headings and rows of text."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sonobench.evaluation import IN_DOMAIN, Evaluation
from sonobench.report.comparisons import Comparisons
from sonobench.report.paper_settings import setting_rows
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, evaluation_title, spaced
from sonobench.report.tables import number, percent, signed

_NUMBER = re.compile(r"–|(< )?[-−+\d\[][-−+\d.,e\[\] →–]*")


@dataclass(frozen=True)
class PlainTable:
    """A table of text.

    Attributes:
        name: unique in the page.
        caption: what it shows.
        heads: of the columns; the first one names the row.
        rows: cells as text.
        doubtful: rows to look at.
    """

    name: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    doubtful: frozenset[int] = frozenset()

    @property
    def numeric(self) -> list[bool]:
        """Of every column, whether all of its cells are numbers or intervals."""
        return [
            all(_NUMBER.fullmatch(cell) for cell in cells) for cells in zip(*self.rows, strict=True)
        ]


def plain_tables(
    run: RunFolder, scores: Scores, comparisons: Comparisons, evaluation: Evaluation
) -> dict[str, PlainTable]:
    """Those that have a row, by name."""
    made = [
        _pairs(run, comparisons),
        _adaptations(comparisons),
        _drops(comparisons),
        _ensembles(scores, evaluation.results),
        _calibration(scores, evaluation.results),
        _temperatures(scores, evaluation.temperatures),
        _subgroups(evaluation.subgroups),
        _fine_tuning(run),
        _search(run),
        _paper(evaluation.paper),
        _claims(evaluation.claims),
        _settings(run),
        _audit_findings(run),
    ]
    return {table.name: table for table in made if table.rows}


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"[{signed(low)}, {signed(high)}]"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _pairs(run: RunFolder, comparisons: Comparisons) -> PlainTable:
    pairs = comparisons.pairs
    rows = [
        (
            pair.title,
            evaluation_title(pair.evaluation),
            signed(pair.estimate),
            _range(pair.low, pair.high),
            _p(pair.p),
            "differ" if pair.p < comparisons.alpha else "not separable",
        )
        for pair in pairs
    ]
    level = percent(run.protocol.evaluation.confidence)
    return PlainTable(
        "pairs",
        f"Differences in macro F1 on the same patients, {level} intervals, p after Holm's "
        "correction over all pairs of an adaptation and evaluation.",
        ("Difference", "Where", "Macro F1", "Interval", "p", "Verdict"),
        rows,
    )


def _adaptations(comparisons: Comparisons) -> PlainTable:
    rows = [
        (
            pair.title,
            evaluation_title(pair.evaluation),
            signed(pair.estimate),
            _range(pair.low, pair.high),
            _p(pair.p),
        )
        for pair in comparisons.adaptations
    ]
    return PlainTable(
        "adaptations",
        "What another adaptation of the same encoder changes, on the same patients.",
        ("Difference", "Where", "Macro F1", "Interval", "p"),
        rows,
    )


def _drops(comparisons: Comparisons) -> PlainTable:
    rows = [
        (
            drop.model.title,
            evaluation_title(drop.evaluation),
            signed(drop.estimate),
            _range(drop.low, drop.high),
        )
        for drop in comparisons.drops
    ]
    return PlainTable(
        "drops",
        "In-domain minus external macro F1. The cohorts' patients are drawn independently.",
        ("Model", "External cohort", "Drop", "Interval"),
        rows,
    )


def _whole(results: pd.DataFrame, aggregate: str, calibration: str) -> pd.DataFrame:
    return results[
        (results["aggregate"] == aggregate)
        & (results["calibration"] == calibration)
        & (results["subgroup"] == "all")
        & (results["label_space"] == "open")
        & (results["images"] == "all")
    ].set_index(["encoder", "adaptation", "evaluation", "metric"])


def _ensembles(scores: Scores, results: pd.DataFrame) -> PlainTable:
    ensemble = dict(_whole(results, "ensemble", "none").to_dict("index"))
    rows = []
    for model in scores.models:
        for evaluation in scores.evaluations:
            key = (*model, evaluation, "macro_f1")
            if row := ensemble.get(key):
                single = scores.macro_f1(model, evaluation).estimate
                rows.append(
                    (
                        model.title,
                        evaluation_title(evaluation),
                        number(row["estimate"]),
                        f"[{number(row['ci_low'])}, {number(row['ci_high'])}]",
                        number(single),
                    )
                )
    return PlainTable(
        "ensembles",
        "Macro F1 of the ensemble: probabilities averaged over the trained models of a row.",
        ("Model", "Where", "Ensemble", "Interval", "Mean of its models"),
        rows,
    )


def _calibration(scores: Scores, results: pd.DataFrame) -> PlainTable:
    before = _whole(results, "mean_of_folds", "none")["estimate"]
    after = _whole(results, "mean_of_folds", "temperature")["estimate"]
    metrics = [m for m in ("nll", "brier", "ece") if m in set(after.index.get_level_values(3))]
    rows = [
        (
            model.title,
            evaluation_title(evaluation),
            *(
                f"{number(before.get((*model, evaluation, m), math.nan))} → "
                f"{number(after.get((*model, evaluation, m), math.nan))}"
                for m in metrics
            ),
        )
        for model in scores.models
        for evaluation in scores.evaluations
        if metrics and (*model, evaluation, metrics[0]) in after.index
    ]
    names = {"nll": "NLL", "brier": "Brier score", "ece": "ECE"}
    return PlainTable(
        "calibration",
        "Before and after temperature scaling; lower is better. The temperature is fitted on the "
        "fold's validation patients, on which λ or the epoch was chosen too. The expected "
        "calibration error (15 bins of equal mass) is biased upwards.",
        ("Model", "Where", *(names[m] for m in metrics)),
        rows,
    )


def _temperatures(scores: Scores, temperatures: pd.DataFrame) -> PlainTable:
    rows = []
    groups = dict(iter(temperatures.groupby(["encoder", "adaptation"], sort=False)))
    for model in scores.models:
        if (table := groups.get(tuple(model))) is not None:
            ordered = table.sort_values(["seed", "fold"])
            rows.append((model.title, ", ".join(f"{t:.2f}" for t in ordered["temperature"])))
    return PlainTable(
        "temperatures",
        "Temperature of each trained model, fold by fold; above 1 it was too sure of itself.",
        ("Model", "Temperatures"),
        rows,
    )


def _subgroups(subgroups: pd.DataFrame) -> PlainTable:
    rows = [
        (
            f"{spaced(row['attribute'])} {row['value']}",
            evaluation_title(row["evaluation"]),
            f"{row['n_images']:,}",
            f"{row['n_patients']:,}",
            str(row["n_classes"]),
            "yes" if row["shown"] else "too small for an estimate",
            row["confounded_with"] if isinstance(row["confounded_with"], str) else "–",
        )
        for row in subgroups.to_dict("records")
    ]
    return PlainTable(
        "subgroups",
        "Centres, devices and other attributes. Where one tells another, what differs between "
        "groups may be due to either.",
        ("Group", "Where", "Images", "Patients", "Classes", "Estimated", "Confounded with"),
        rows,
    )


def _fine_tuning(run: RunFolder) -> PlainTable:
    rows, doubtful = list[tuple[str, ...]](), set[int]()
    epochs = pd.DataFrame(columns=["encoder", "adaptation"])
    epochs = epochs if run.finetune is None else run.finetune
    for (encoder, adaptation), table in epochs.groupby(["encoder", "adaptation"], sort=False):
        model = Model(str(encoder), str(adaptation))
        status, why = run.training_status(*model)
        if status != "trained":
            doubtful.add(len(rows))
        best = table[table["best"]]
        rows.append(
            (
                model.title,
                status.replace("_", " ") + (f": {why}" if why else ""),
                f"{table['learning_rate'].max():.2g}",
                ", ".join(str(epoch) for epoch in best.sort_values(["seed", "fold"])["epoch"]),
                number(float(best["validation_macro_f1"].mean())),
                f"{table['images_per_second'].median():,.1f}",
            )
        )
    return PlainTable(
        "fine_tuning",
        "How fine-tuning ended. Kept epoch: of each fold, whose weights were tested.",
        (
            "Model",
            "Ended",
            "Highest learning rate",
            "Kept epochs",
            "Validation macro F1",
            "Images a second",
        ),
        rows,
        frozenset(doubtful),
    )


def _search(run: RunFolder) -> PlainTable:
    tried = run.learning_rate_search
    rows = [
        (
            Model(row["encoder"], row["adaptation"]).title,
            f"{row['fold'] + 1}",
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
            "in-domain" if row["evaluation"] == IN_DOMAIN else row["evaluation"],
            spaced(row["metric"]).replace("f1", "F1"),
            f"{number(row['ours'])} [{number(row['ci_low'])}, {number(row['ci_high'])}]",
            f"{row['theirs']:.4f}",
            signed(row["difference"]),
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
        "Every setting of the protocol beside what the paper makes public of its own.",
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
