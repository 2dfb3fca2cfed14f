"""Each encoder's features in two dimensions."""

import altair as alt
import numpy as np
import pandas as pd

from sonobench.report.charts.figure import SHAPES, Figure, Panel
from sonobench.report.run_folder import RunFolder

# Points of a map: so many can be told apart, and a page stays light.
MOST_POINTS = 3000
COLOURED_BY = ("label", "dataset", "device", "site")


def map_points(run: RunFolder) -> pd.DataFrame:
    """Images of the maps with what colours them: those with a picture, the rest spread evenly."""
    if run.projection is None:
        return pd.DataFrame(columns=["image_id", *COLOURED_BY])
    there = set(run.projection["image_id"])
    rows = run.samples[run.samples["image_id"].isin(there)]
    pictured = rows["image_id"].isin(list(run.thumbnails)).to_numpy()
    others = np.flatnonzero(~pictured)
    room = max(0, MOST_POINTS - int(pictured.sum()))
    if len(others) > room:
        others = others[np.linspace(0, len(others) - 1, room).astype(int)] if room else others[:0]
    kept = np.sort(np.concatenate([np.flatnonzero(pictured)[:MOST_POINTS], others]))
    points = rows.iloc[kept][["image_id", *COLOURED_BY]].reset_index(drop=True)
    return points.assign(**{name: points[name].fillna("not known") for name in ("device", "site")})


def embedding_map(run: RunFolder) -> Figure:
    """Principal components one and two of every encoder's features, coloured by class."""
    panels = []
    points = map_points(run)
    order = [entry.label for entry in run.protocol.encoders]
    groups = {} if run.projection is None else dict(iter(run.projection.groupby("encoder")))
    for encoder in sorted(groups, key=lambda e: order.index(str(e)) if e in order else len(order)):
        places = groups[encoder]
        frame = points.merge(places[["image_id", "x", "y"]], on="image_id")
        frame = frame.assign(x=frame["x"].round(2), y=frame["y"].round(2))
        explained = 100 * float(places["explained"].iloc[0])
        classes = list(run.protocol.classes)
        colour = alt.Color("label:N", scale=alt.Scale(domain=classes)).legend(title=None)
        chart = (
            alt.Chart(frame[["x", "y", "label"]], height=420)
            .mark_point(filled=True, size=16, opacity=1)
            .encode(
                x=alt.X("x:Q", title="first principal component").axis(labels=False, ticks=False),
                y=alt.Y("y:Q", title="second principal component").axis(labels=False, ticks=False),
                color=colour,
                shape=alt.Shape(
                    "label:N",
                    scale=alt.Scale(domain=classes, range=(SHAPES * 3)[: len(classes)]),
                ).legend(title=None),
            )
        )
        title = f"{explained:.0f} % of the variance of its features"
        panels.append(Panel(title, chart, str(encoder)))
    return Figure(
        "map",
        "How each encoder sees the images",
        "One point an image; neighbours have similar features. Two components are a shadow of "
        "many: classes that overlap here may still be separable.",
        tuple(panels),
        chooses="encoder",
    )
