"""Paired comparisons, drops and ranks as tables of the page."""

from sonobench.report.comparisons import Comparisons
from sonobench.report.numbers import p_value, percent, signed, signed_bounds
from sonobench.report.plain_table import PlainTable
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import evaluation_title


def comparison_tables(run: RunFolder, comparisons: Comparisons) -> list[PlainTable]:
    """All of them, also those without a row."""
    level = percent(run.protocol.evaluation.confidence)
    return [_pairs(comparisons, level), _adaptations(comparisons), *_others(comparisons, level)]


def _pairs(comparisons: Comparisons, level: str) -> PlainTable:
    rows = [
        (
            pair.title,
            evaluation_title(pair.evaluation),
            signed(pair.estimate),
            signed_bounds(pair.low, pair.high),
            p_value(pair.p, comparisons.alpha),
            "differ" if pair.p < comparisons.alpha else "not separable",
        )
        for pair in comparisons.pairs
    ]
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
            signed_bounds(pair.low, pair.high),
            p_value(pair.p, comparisons.alpha),
        )
        for pair in comparisons.adaptations
    ]
    return PlainTable(
        "adaptations",
        "What another adaptation of the same encoder changes, on the same patients; p after Holm's "
        "correction over the encoders.",
        ("Difference", "Where", "Macro F1", "Interval", "p"),
        rows,
    )


def _others(comparisons: Comparisons, level: str) -> list[PlainTable]:
    drops = [
        (
            drop.model.title,
            evaluation_title(drop.evaluation),
            signed(drop.estimate),
            signed_bounds(drop.low, drop.high),
        )
        for drop in comparisons.drops
    ]
    ranks = [
        (
            standing.model.title,
            evaluation_title(standing.evaluation),
            str(standing.rank),
            f"{standing.low} – {standing.high}",
            standing.group or "–",
        )
        for standing in comparisons.standings
    ]
    return [
        PlainTable(
            "drops",
            f"In-domain minus external macro F1, {level} intervals. The cohorts' patients are "
            "independent.",
            ("Model", "External cohort", "Drop", "Interval"),
            drops,
        ),
        PlainTable(
            "ranks",
            "Rank by macro F1 among the models of an adaptation, and the ranks that paired "
            "comparisons do not rule out. Models that share a letter cannot be told apart.",
            ("Model", "Where", "Rank", "May be", "Group"),
            ranks,
        ),
    ]
