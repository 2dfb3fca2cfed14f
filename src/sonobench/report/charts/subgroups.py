"""Macro F1 by centre, device and other attributes."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from sonobench.report.charts.figure import Figure, Panel, encoder_channels
from sonobench.report.charts.scores import encoder_order, share_axis
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, evaluation_title, spaced
from sonobench.report.subgroups import GroupScore, group_scores


def subgroups(run: RunFolder, scores: Scores, results: pd.DataFrame) -> Figure:
    """One row a value, one mark an encoder that is not a control."""
    groups = [g for g in group_scores(results) if not run.is_control(*g.model)]
    encoders = encoder_order(run, scores)
    panels = []
    for adaptation in dict.fromkeys(model.adaptation for model in scores.models):
        own = [group for group in groups if group.model.adaptation == adaptation]
        training = Model("", adaptation).training
        for evaluation, kind, measure in dict.fromkeys(
            (g.evaluation, g.attribute, g.measure) for g in own
        ):
            drawn = [
                g
                for g in own
                if (g.evaluation, g.attribute, g.measure) == (evaluation, kind, measure)
            ]
            title = f"{evaluation_title(evaluation)} by {spaced(kind)}, {training}"
            panels.append(Panel(title, _forest(drawn, measure, encoders)))
    return Figure(
        "subgroups",
        "Does it hold in every centre and on every device?",
        "Macro F1 (recall, where a group is one class) with its interval in each group; † is not "
        "to be relied on. Groups may differ in classes and patients: compare models within a row "
        "before rows.",
        tuple(panels),
    )


def _forest(groups: Sequence[GroupScore], measure: str, encoders: list[str]) -> alt.LayerChart:
    frame = pd.DataFrame(
        [
            {
                "row": f"{group.value}{group.mark} ({group.patients} patients)",
                "value": group.value,
                "encoder": group.model.encoder,
                "estimate": group.score.estimate,
                "low": group.score.low,
                "high": group.score.high,
                "n_images": group.images,
                "n_patients": group.patients,
            }
            for group in groups
        ]
    )
    scale = share_axis(frame[["estimate", "low", "high"]])
    present = [encoder for encoder in encoders if encoder in set(frame["encoder"])]
    channels = encoder_channels(encoders, present)
    base = alt.Chart(frame, height=frame["row"].nunique() * (12 * len(present) + 12)).encode(
        y=alt.Y("row:N", title=None).axis(ticks=False, labelLimit=210, grid=True),
        yOffset=alt.YOffset("encoder:N", sort=present),
        color=channels["color"],
        tooltip=[
            alt.Tooltip("value:N", title="group"),
            alt.Tooltip("encoder:N"),
            alt.Tooltip("estimate:Q", title=measure, format=".3f"),
            alt.Tooltip("low:Q", title="interval from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("n_images:Q", title="images", format=","),
            alt.Tooltip("n_patients:Q", title="patients", format=","),
        ],
    )
    x = alt.X("low:Q", scale=scale, title=measure, axis=alt.Axis(tickCount=6))
    lines = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q")
    points = base.mark_point(filled=True, opacity=1, size=45).encode(
        x=alt.X("estimate:Q", scale=scale), shape=channels["shape"]
    )
    chart: alt.LayerChart = lines + points
    return chart
