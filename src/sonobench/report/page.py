"""The report as one HTML file: what the template is given, and how it is filled."""

import base64
import hashlib
import logging
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sonobench.protocol import protocol_hash
from sonobench.report.charts import Figure, theme
from sonobench.report.cohorts import class_amounts, cohort_cards, role_amounts
from sonobench.report.confusions import confusion_matrices
from sonobench.report.encoders import admitted, ledger, probe_rows
from sonobench.report.findings import answer, findings
from sonobench.report.material import Material
from sonobench.report.numbers import number, percent
from sonobench.report.pictures import cases, map_data, thumbnails
from sonobench.report.plain_tables import plain_tables
from sonobench.report.tables import further_tables, main_table, per_class_tables

_logger = logging.getLogger("sonobench")

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("page.js", "charts.js", "images.js", "map.js")


@cache
def _environment() -> Environment:
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
        "thousands": lambda count: f"{count:,}",
        "mean": lambda values: number(sum(values) / len(values)) if values else "–",
    }
    # Objects keep their order; `tojson` writes what would end a script as \u003c.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment


def page(material: Material) -> str:
    """The whole page, which needs no network and no file beside it."""
    environment = _environment()
    own = "\n".join((_TEMPLATES / name).read_text("utf-8") for name in _SCRIPTS)
    missing = ""
    try:
        scripts = [_vega(), own]
    except (ImportError, OSError, ValueError) as error:
        missing = f"vl-convert, which brings the library of the charts, cannot be used: {error}"
        _logger.warning("The page's charts are missing: %s. Its tables are complete", missing)
        scripts = [own]
    run, scores, evaluation = material.run, material.scores, material.evaluation
    comparisons, opinions, figures = material.comparisons, material.opinions, material.figures
    roles, folds = role_amounts(run)
    datasets, entries = ledger(run)
    known = cases(run, opinions)
    return environment.get_template("report.html.jinja").render(
        run=run,
        scores=scores,
        protocol=run.protocol,
        protocol_hash=protocol_hash(run.protocol),
        level=percent(run.protocol.evaluation.confidence),
        cards=cohort_cards(run),
        class_amounts=class_amounts(run),
        roles=roles,
        folds=folds,
        answer=answer(run, scores, comparisons),
        # The cohorts' notes stand on their cards.
        findings=[found for found in findings(run, scores) if found.kind != "note"],
        main=main_table(run, scores, comparisons),
        further=further_tables(run, scores, comparisons),
        per_class=per_class_tables(run, scores, comparisons),
        tables=plain_tables(run, scores, comparisons, evaluation),
        matrices=confusion_matrices(run, scores, evaluation.confusions, opinions),
        admitted=admitted(run),
        ledger_datasets=datasets,
        ledger=entries,
        probes=probe_rows(run),
        figures=figures,
        scripts=scripts,
        script_hashes=[_sha256(script) for script in scripts],
        charts={
            "specs": _specs(figures),
            "themes": {"light": theme(dark=False), "dark": theme(dark=True)},
            "missing": missing,
        },
        cases=known,
        thumbnails=thumbnails(run),
        map=map_data(run, known["id"]),
    )


def _specs(figures: dict[str, Figure]) -> dict[str, dict[str, Any]]:
    """Of the charts that are drawn as they are: matrices are tables, the map has its own data."""
    specs: dict[str, dict[str, Any]] = {}
    for figure in figures.values():
        if figure.name not in ("confusion", "map"):
            specs |= figure.specs()
    return specs


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script; it makes `vegaEmbed` known to the others.

    Raises:
        ImportError, OSError, ValueError: vl-convert cannot be loaded, or has no bundle.
    """
    # Only here: a report is whole, but for its charts, where vl-convert cannot be loaded.
    import vl_convert  # noqa: PLC0415

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle


def _sha256(script: str) -> str:
    """As a content security policy names a script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
