"""Calibration drawn: whether a probability means what it says, and what caution buys."""

import altair as alt
import pandas as pd

from sonobench.report.charts.figure import SHAPES, Figure, Panel, encoder_channels
from sonobench.report.charts.scores import encoder_order
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, evaluation_title

_CALIBRATION = {"none": "as trained", "temperature": "with temperature"}


def reliability(scores: Scores, bins: pd.DataFrame) -> Figure:
    """Accuracy against confidence in bins of equal mass, before and after temperature."""
    groups = dict(iter(bins.groupby(["encoder", "adaptation", "evaluation"], sort=False)))
    unit = alt.Scale(domain=[0, 1], nice=False)
    order = list(_CALIBRATION.values())
    panels = []
    for model in scores.models:
        for evaluation in scores.evaluations:
            if (*model, evaluation) not in groups or model.adaptation == "majority_class":
                continue
            frame = groups[(*model, evaluation)]
            frame = frame.assign(
                calibration=frame["calibration"].map(_CALIBRATION),
                confidence=frame["confidence"].round(4),
                accuracy=frame["accuracy"].round(4),
            )[["calibration", "bin", "confidence", "accuracy", "n_images"]]
            ideal = (
                alt.Chart(pd.DataFrame({"at": [0, 1]}))
                .mark_line(strokeDash=[4, 4], strokeWidth=1, color="#7d8894")
                .encode(x=alt.X("at:Q", scale=unit), y=alt.Y("at:Q", scale=unit))
            )
            base = alt.Chart(frame, height=260).encode(
                x=alt.X("confidence:Q", scale=unit, title="confidence (largest probability)"),
                y=alt.Y("accuracy:Q", scale=unit, title="share that is right"),
                color=alt.Color("calibration:N", scale=alt.Scale(domain=order)).legend(title=None),
                order="bin:Q",
                tooltip=[
                    alt.Tooltip("calibration:N"),
                    alt.Tooltip("confidence:Q", format=".3f"),
                    alt.Tooltip("accuracy:Q", title="share right", format=".3f"),
                    alt.Tooltip("n_images:Q", title="predictions", format=","),
                ],
            )
            points = base.mark_point(filled=True, opacity=1).encode(
                shape=alt.Shape(
                    "calibration:N", scale=alt.Scale(domain=order, range=SHAPES[:2])
                ).legend(title=None)
            )
            chart = ideal + base.mark_line(strokeWidth=1.5) + points
            panels.append(Panel(evaluation_title(evaluation), chart, model.title))
    return Figure(
        "reliability",
        "Does a probability mean what it says?",
        "On the dashed line, what is said with 80 % confidence is right in 80 % of cases; below it "
        "the model is too sure of itself. A temperature fitted on validation patients is meant to "
        "correct it; the numbers say whether it does.",
        tuple(panels),
        chooses="model",
    )


def risk_coverage(run: RunFolder, scores: Scores, curves: pd.DataFrame) -> Figure:
    """Error of what is kept, against the share that is kept, surest first."""
    panels = []
    chosen = curves[curves["calibration"] == "none"]
    encoders = encoder_order(run, scores)
    for evaluation in scores.evaluations:
        for adaptation in dict.fromkeys(m.adaptation for m in scores.models):
            frame = chosen[
                (chosen["evaluation"] == evaluation)
                & (chosen["adaptation"] == adaptation)
                & ~chosen["encoder"].map(lambda e, a=adaptation: run.is_control(e, a))
            ]
            if frame.empty:
                continue
            channels = encoder_channels(encoders, frame["encoder"])
            frame = frame[["encoder", "coverage", "risk"]].round(4)
            chart = (
                alt.Chart(frame, height=260)
                .mark_line(strokeWidth=2)
                .encode(
                    x=alt.X("coverage:Q", title="share of images that is answered").axis(
                        format=".0%"
                    ),
                    y=alt.Y("risk:Q", title="share of these that is wrong").axis(format=".1%"),
                    color=channels["color"],
                    strokeDash=channels["strokeDash"],
                    tooltip=[
                        alt.Tooltip("encoder:N"),
                        alt.Tooltip("coverage:Q", title="answered", format=".0%"),
                        alt.Tooltip("risk:Q", title="of these wrong", format=".2%"),
                    ],
                )
            )
            title = f"{evaluation_title(evaluation)}, {Model('', adaptation).training}"
            panels.append(Panel(title, chart))
    return Figure(
        "risk_coverage",
        "What if the model may abstain?",
        "From right to left the least certain images are handed to a person. The faster a curve "
        "falls, the better a model knows when it is wrong.",
        tuple(panels),
    )
