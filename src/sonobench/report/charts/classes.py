"""Classes drawn: F1 of each as a heat map, and who is taken for whom."""

from typing import Any

import altair as alt
import pandas as pd

from sonobench.report.charts.figure import RAMP, Figure, Panel
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import MAIN, Scores, evaluation_title

_UNIT = alt.Scale(domain=[0, 1], range=RAMP, interpolate="rgb")
# Where the ramp is dark enough for white text.
_DARK_FROM = 0.55


def _contrast(field: str) -> Any:
    return alt.condition(f"datum.{field} > {_DARK_FROM}", alt.value("#fff"), alt.value("#10202f"))


def class_heat_map(run: RunFolder, scores: Scores) -> Figure:
    """F1 of every declared class and model."""
    panels = []
    rows = [f"{m.name} · {m.training}" for m in scores.models]
    for evaluation in scores.evaluations:
        frame = pd.DataFrame(
            [
                {"model": f"{model.name} · {model.training}", "class": name, "f1": score.estimate}
                | {"low": score.low, "high": score.high}
                for model in scores.models
                for name in run.protocol.classes
                if (score := scores.of.get((model, evaluation, MAIN, f"f1[{name}]")))
            ]
        )
        base = alt.Chart(frame, height=24 * len(rows)).encode(
            x=alt.X("class:N", sort=list(run.protocol.classes), title=None).axis(
                orient="top", ticks=False, labelLimit=120, domain=False
            ),
            y=alt.Y("model:N", sort=rows, title=None).axis(ticks=False, domain=False),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("class:N"),
                alt.Tooltip("f1:Q", title="F1", format=".3f"),
                alt.Tooltip("low:Q", title="interval from", format=".3f"),
                alt.Tooltip("high:Q", title="to", format=".3f"),
            ],
        )
        cells = base.mark_rect(stroke="white", strokeWidth=1).encode(
            color=alt.Color("f1:Q", scale=_UNIT, title="F1").legend(
                format=".1f", gradientLength=160, values=[0, 0.5, 1]
            )
        )
        numbers = base.mark_text(fontSize=11).encode(
            text=alt.Text("f1:Q", format=".2f"), color=_contrast("f1")
        )
        panels.append(Panel(evaluation_title(evaluation), cells + numbers))
    return Figure(
        "classes",
        "Which classes are easy, which are hard",
        "Each cell is the F1 of one class; the darker, the better. A row that is dark but for one "
        "cell is a model that fails on one class.",
        tuple(panels),
    )


def confusion_matrices(run: RunFolder, scores: Scores, confusions: pd.DataFrame) -> Figure:
    """Of every model, all images, open label space, summed over the trained models."""
    chosen = confusions[(confusions["label_space"] == "open") & (confusions["images"] == "all")]
    groups = dict(iter(chosen.groupby(["encoder", "adaptation", "evaluation"], sort=False)))
    order = list(run.protocol.classes)
    panels = []
    for model in scores.models:
        for evaluation in scores.evaluations:
            frame = (
                groups[(*model, evaluation)]
                .groupby(["true", "predicted"], sort=False)["count"]
                .sum()
                .reset_index()
            )
            total = frame.groupby("true")["count"].transform("sum")
            frame["share"] = (frame["count"] / total.where(total > 0, 1)).round(4)
            base = alt.Chart(frame, height=34 * frame["true"].nunique()).encode(
                x=alt.X("predicted:N", sort=order, title="predicted class").axis(
                    labelAngle=-30, ticks=False, labelLimit=110, domain=False
                ),
                y=alt.Y("true:N", sort=order, title="true class").axis(ticks=False, domain=False),
                tooltip=[
                    alt.Tooltip("true:N"),
                    alt.Tooltip("predicted:N"),
                    alt.Tooltip("count:Q", title="predictions", format=","),
                    alt.Tooltip("share:Q", title="share of the true class", format=".1%"),
                ],
            )
            cells = base.mark_rect(stroke="white", strokeWidth=1).encode(
                color=alt.Color("share:Q", scale=_UNIT, title="share of the true class").legend(
                    format=".0%", gradientLength=160, values=[0, 0.5, 1]
                )
            )
            shares = base.mark_text(fontSize=11, dy=-5).encode(
                text=alt.Text("share:Q", format=".1%"), color=_contrast("share")
            )
            counts = base.mark_text(fontSize=9, dy=8).encode(
                text=alt.Text("count:Q", format=","), color=_contrast("share")
            )
            panels.append(Panel(evaluation_title(evaluation), cells + shares + counts, model.title))
    return Figure(
        "confusion",
        "Who is taken for whom",
        "Rows are true classes, columns what was predicted; the diagonal is right. Shares are of "
        "the row, below them counts over all trained models.",
        tuple(panels),
        chooses="model",
    )
