"""`sonobench evaluate` and `compare`: predictions made elsewhere, and several runs side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from sonobench.cli.errors import errors, user_errors

if TYPE_CHECKING:
    import pandas as pd

    from sonobench.evaluation import Evaluation

_console = Console()

# Metrics of the printed table, as they are called there; those that a file lacks are left out.
_SHOWN = {
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "macro_auroc": "AUROC",
    "nll": "NLL",
}
# Columns of the written tables that the printed ones have no room for.
_SIZES = ("n_images", "n_patients")
_ABSENT = (
    "no probabilities in the file: no AUROC, average precision, likelihood, Brier score, "
    "calibration, risk-coverage or ensembles"
)


def add_commands(app: typer.Typer) -> None:
    """Make the commands of this module commands of `app`."""
    app.command("evaluate")(evaluate_file)
    app.command("compare")(compare)


def evaluate_file(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet, a row an image and model.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for results.csv, comparisons.csv, ….")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="A,B,C", help="Order of the values in lists."),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=100, help="Of the patient bootstrap.")] = (
        10_000
    ),
    confidence: Annotated[
        float, typer.Option("--confidence", min=0.5, max=0.999, help="Of every interval.")
    ] = 0.95,
) -> None:
    """Evaluate predictions made elsewhere, with patient-level intervals and comparisons.

    FILE has the columns image_id, subject_id (the patient), label and one of:
    logit[CLASS] or probability[CLASS] for every class, logits or probabilities (lists),
    predicted. Further ones that are used: encoder, adaptation, fold, seed, role (validation,
    test, external), dataset, site, device, operator, brain_plane, pixel_sha256.
    """
    from sonobench.evaluation import evaluate, read_predictions_file
    from sonobench.run_tables import write_tables
    from sonobench.tables import TableError

    with user_errors():
        if out is not None and (out / "protocol.yaml").exists():
            raise TableError(
                f"{out} holds a run, whose results would be lost; choose another --out"
            )
        names = [name.strip() for name in classes.split(",")] if classes else None
        given = read_predictions_file(file, names, bootstrap_draws=draws, confidence=confidence)
        with _console.status("evaluating …") as status:
            evaluation = evaluate(
                given.predictions,
                given.samples,
                given.settings,
                on_progress=lambda part: status.update(f"evaluating {part} …"),
            )
        if out is not None:
            write_tables(out, evaluation)
        for remark in given.remarks:
            errors.print(remark, style="yellow", markup=False, highlight=False, soft_wrap=True)
        for row in evaluation.left_out.to_dict("records"):
            errors.print(
                f"{row['evaluation']} cannot be judged and is left out: {row['reason']}",
                style="yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        for name in evaluation.results["evaluation"].unique():
            _console.print(_scores(evaluation, name))
        if not given.settings.probabilities:
            _console.print(_ABSENT, style="dim")
        _console.print(
            "groups: models that share a letter do not differ significantly (Holm)", style="dim"
        )
        if out is not None:
            _console.print(f"tables: {out}", markup=False, soft_wrap=True)


def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, two or more.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for scores.csv, differences.csv, ….")
    ] = None,
) -> None:
    """Set several runs beside each other: does the ranking depend on the recipe?"""
    from sonobench.evaluation import RunTables, compare_runs, unjudged, without
    from sonobench.preflight import evaluation_settings
    from sonobench.run_tables import read_run
    from sonobench.tables import TableError, csv_text, replace_file

    with user_errors():
        if len(folders) < 2:
            raise TableError("compare: expected the folders of two runs or more")
        runs: dict[str, RunTables] = {}
        for name, folder in zip(_names(folders), folders, strict=True):
            protocol, samples, predictions = read_run(folder)
            settings = evaluation_settings(protocol, samples)
            settings = without(settings, unjudged(predictions, samples, settings))
            runs[name] = RunTables(predictions, samples, settings)
        with _console.status("comparing …"):
            found = compare_runs(runs)
        tables = {
            "scores": found.scores,
            "differences": found.differences,
            "agreement": found.agreement,
        }
        if out is not None:
            for name, frame in tables.items():
                replace_file(out / f"{name}.csv", csv_text(frame).encode())
        main = {
            "scores": "macro F1 on the images in common, open classes",
            "differences": "paired differences of macro F1, a − b, from the same draws of patients",
            "agreement": "do two runs rank encoders alike? Kendall's τ, 1 for the same order",
        }
        for name, title in main.items():
            frame = tables[name]
            if "metric" in frame:
                frame = frame[frame["metric"] == "macro_f1"].drop(
                    columns=["metric", *_SIZES], errors="ignore"
                )
            if not frame.empty:
                _console.print(_table(title, frame))
        for note in found.notes:
            _console.print(note, style="dim", markup=False)
        if out is not None:
            _console.print(f"tables: {out}", markup=False, soft_wrap=True)


def _names(folders: list[Path]) -> list[str]:
    """The folders' own names, or their paths where two have the same."""
    from sonobench.tables import TableError

    repeated = [folder for folder in folders if folders.count(folder) > 1]
    if repeated:
        raise TableError(f"{repeated[0]}: given twice; compare a run with another one")
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _scores(evaluation: "Evaluation", name: str) -> RichTable:
    """Metrics of every model in an evaluation, with intervals and groups."""
    results = evaluation.results
    rows = results[
        (results["evaluation"] == name)
        & (results["aggregate"] == "mean_of_folds")
        & (results["subgroup"] == "all")
        & (results["calibration"] == "none")
        & (results["label_space"] == "open")
        & (results["images"] == "all")
    ]
    ranks = evaluation.comparisons.query(
        "kind == 'rank' and label_space == 'open' and images == 'all' and evaluation == @name"
    )
    groups = ranks.set_index(["a", "a_adaptation"])["group"].to_dict()
    shown = [metric for metric in _SHOWN if metric in set(rows["metric"])]
    size = rows.iloc[0]
    title = f"{name}: {size['n_images']} images of {size['n_patients']} patients"
    table = _drawn(title, [""], [*(_SHOWN[metric] for metric in shown), "group"])
    best = rows[rows["metric"] == "macro_f1"].sort_values("estimate", ascending=False)
    numbers = {
        (row["encoder"], row["adaptation"], row["metric"]): _with_interval(
            row["estimate"], row["ci_low"], row["ci_high"]
        )
        for row in rows.to_dict("records")
    }
    for encoder, adaptation in best[["encoder", "adaptation"]].itertuples(index=False):
        cells = [numbers[encoder, adaptation, metric] for metric in shown]
        group = groups.get((encoder, adaptation), "")
        table.add_row(Text(f"{encoder}\n{adaptation}"), *cells, group)
    return table


def _table(title: str, frame: "pd.DataFrame") -> RichTable:
    """A frame whose interval stands beside its number."""
    value = next(name for name in ("estimate", "kendall_tau") if name in frame)
    names = [name for name in frame if name not in (value, "ci_low", "ci_high")]
    table = _drawn(title, [*map(str, names)], [value.replace("_", " ")])
    for row in frame.to_dict("records"):
        cells = [
            f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for name in names
        ]
        table.add_row(*map(Text, cells), _with_interval(row[value], row["ci_low"], row["ci_high"]))
    return table


def _drawn(title: str, names: list[str], numbers: list[str]) -> RichTable:
    """An empty table; where there is too little room, names break and numbers do not."""
    table = RichTable(
        title=Text(title),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_justify="left",
    )
    for name in names:
        table.add_column(name, overflow="fold", min_width=6)
    for number in numbers:
        table.add_column(number, no_wrap=True)
    return table


def _with_interval(estimate: float, low: float, high: float) -> str:
    return f"{estimate:.4f}\n{low:.3f}–{high:.3f}"
