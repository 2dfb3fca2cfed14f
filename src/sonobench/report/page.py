"""The report as one HTML file: what the template is given, and how it is filled."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sonobench.protocol import protocol_hash
from sonobench.report.cohorts import class_amounts, cohort_cards, gallery, role_amounts
from sonobench.report.encoders import admitted, ledger, probe_rows
from sonobench.report.figures import confusion_matrices, forest
from sonobench.report.findings import answer, findings, left_out
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores
from sonobench.report.tables import (
    MARKS,
    further_tables,
    interval,
    main_table,
    number,
    per_class_tables,
    percent,
)

_TEMPLATES = Path(__file__).parent / "templates"


def page(run: RunFolder, scores: Scores, confusions: pd.DataFrame) -> str:
    """The whole page, which needs no network, no script and no file beside it."""
    # Everything is escaped: labels, paths and ids are the user's.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "interval": interval,
        "thousands": lambda count: f"{count:,}",
    }
    template = environment.get_template("report.html.jinja")
    return template.render(_context(run, scores, confusions))


def _context(run: RunFolder, scores: Scores, confusions: pd.DataFrame) -> dict[str, Any]:
    roles, folds = role_amounts(run)
    datasets, entries = ledger(run)
    return {
        "run": run,
        "scores": scores,
        "protocol": run.protocol,
        "protocol_hash": protocol_hash(run.protocol),
        "level": percent(run.protocol.evaluation.confidence),
        "marks": MARKS,
        "cards": cohort_cards(run),
        "class_amounts": class_amounts(run),
        "roles": roles,
        "folds": folds,
        "gallery": gallery(run),
        "answer": answer(run, scores),
        # The cohorts' notes stand on their cards.
        "findings": [found for found in findings(run, scores) if found.kind != "note"],
        "left_out": left_out(run, scores),
        "main": main_table(run, scores),
        "further": further_tables(run, scores),
        "per_class": per_class_tables(run, scores),
        "forest": forest(run, scores),
        "matrices": confusion_matrices(run, scores, confusions),
        "admitted": admitted(run),
        "ledger_datasets": datasets,
        "ledger": entries,
        "probes": probe_rows(run),
    }
