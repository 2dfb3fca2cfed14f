"""Macro F1 by centre, device and other attributes."""

import altair as alt
import pandas as pd

from sonobench.report.charts.figure import SHAPES, Figure, Panel
from sonobench.report.charts.scores import share_axis
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, evaluation_title, spaced


def subgroups(run: RunFolder, scores: Scores, results: pd.DataFrame) -> Figure:
    """One row a value, one mark an encoder that is not a control."""
    rows = results[
        (results["aggregate"] == "mean_of_folds")
        & (results["calibration"] == "none")
        & (results["label_space"] == "open")
        & (results["images"] == "all")
        & (results["metric"] == "macro_f1")
        & (results["subgroup"] != "all")
        & results["estimate"].notna()
    ]
    if not rows.empty:
        attribute = rows["subgroup"].str.split("=", n=1, expand=True)
        rows = rows.assign(attribute=attribute[0], value=attribute[1])
    panels = []
    for model_adaptation in dict.fromkeys(m.adaptation for m in scores.models):
        encoders = [
            m.encoder
            for m in scores.models
            if m.adaptation == model_adaptation and not run.is_control(*m)
        ]
        of_adaptation = rows[
            (rows["adaptation"] == model_adaptation) & rows["encoder"].isin(encoders)
        ]
        if of_adaptation.empty:
            continue
        for (evaluation, kind), table in of_adaptation.groupby(
            ["evaluation", "attribute"], sort=False
        ):
            training = Model("", model_adaptation).training
            title = f"{evaluation_title(str(evaluation))} by {spaced(str(kind))}, {training}"
            panels.append(Panel(title, _forest(table, encoders)))
    return Figure(
        "subgroups",
        "Does it hold in every centre and on every device?",
        "Macro F1 with its interval within each centre or device. Groups may differ in their "
        "classes and patients, so compare models within a row before rows with one another.",
        tuple(panels),
    )


def _forest(frame: pd.DataFrame, encoders: list[str]) -> alt.LayerChart:
    frame = frame.rename(columns={"ci_low": "low", "ci_high": "high"})
    frame = frame[["encoder", "value", "estimate", "low", "high", "n_images", "n_patients"]]
    sizes = frame.drop_duplicates("value").set_index("value")
    frame = frame.assign(
        row=[
            f"{value} ({patients} patients)"
            for value, patients in zip(
                frame["value"], sizes.loc[frame["value"], "n_patients"], strict=True
            )
        ]
    )
    ends = frame[["estimate", "low", "high"]]
    scale = share_axis(ends)
    base = alt.Chart(frame, height=len(sizes) * (12 * len(encoders) + 12)).encode(
        y=alt.Y("row:N", title=None).axis(ticks=False, labelLimit=210, grid=True),
        yOffset=alt.YOffset("encoder:N", sort=encoders),
        color=alt.Color("encoder:N", scale=alt.Scale(domain=encoders)).legend(title=None),
        tooltip=[
            alt.Tooltip("value:N", title="group"),
            alt.Tooltip("encoder:N"),
            alt.Tooltip("estimate:Q", title="macro F1", format=".3f"),
            alt.Tooltip("low:Q", title="interval from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("n_images:Q", title="images", format=","),
            alt.Tooltip("n_patients:Q", title="patients", format=","),
        ],
    )
    x = alt.X("low:Q", scale=scale, title="macro F1", axis=alt.Axis(tickCount=6))
    lines = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q")
    shapes = alt.Scale(domain=encoders, range=(SHAPES * 3)[: len(encoders)])
    points = base.mark_point(filled=True, opacity=1, size=45).encode(
        x=alt.X("estimate:Q", scale=scale),
        shape=alt.Shape("encoder:N", scale=shapes).legend(title=None),
    )
    chart: alt.LayerChart = lines + points
    return chart
