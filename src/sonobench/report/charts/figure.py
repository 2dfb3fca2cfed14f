"""A figure of panels, how it is coloured in light and dark, and its charts for papers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

Chart = alt.Chart | alt.LayerChart

# Okabe and Ito's colours for the colour-blind without yellow and black, and two of Tol's.
_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#b5589a", "#c98500", "#3a9bd9", "#332288", "#882255"]
_DARK = ["#5ab4f0", "#ff9558", "#3ccfa4", "#eba3cf", "#f2c14e", "#a9d8ff", "#b3a8ff", "#ff9fb8"]
# One ramp for both modes: its texts are dark below the middle and white above.
RAMP = ["#e3eefa", "#9cc4e8", "#4a8fc7", "#1c5f9f", "#0b3f75"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
GREY = "#7d8894"
# What looks alike in all panels of a file.
_SHARED = ("color", "shape", "strokeDash", "size")
# Width of a panel in a file, in pixels.
_WIDTH = 380


@dataclass(frozen=True)
class Panel:
    """One chart of a figure.

    Attributes:
        title: what it is of.
        chart: without a width.
        choice: the model or encoder it belongs to, where a reader chooses one; else empty.
    """

    title: str
    chart: Chart
    choice: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts that answer one question.

    Attributes:
        name: of its files and of its place in the page.
        title: what it shows.
        says: one line that tells a stranger how to read it.
        panels: side by side; all charts of a choice are seen together.
        chooses: what a reader chooses (`model`, `encoder`); empty where all panels are shown.
    """

    name: str
    title: str
    says: str
    panels: tuple[Panel, ...]
    chooses: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """In the order of the panels; one empty choice where there is nothing to choose."""
        return tuple(dict.fromkeys(panel.choice for panel in self.panels))

    def specs(self) -> dict[str, dict[str, Any]]:
        """Vega-Lite of every panel by its place in the page, as wide as there is room."""
        return {
            f"{self.name}-{position}": panel.chart.properties(width="container").to_dict(
                validate=False
            )
            for position, panel in enumerate(self.panels)
        }


def encoder_channels(encoders: Sequence[str], present: Iterable[str]) -> dict[str, Any]:
    """Colour, shape and dashes of every encoder, the same in all plots; a legend of those here.

    Args:
        encoders: of the run, in the order of their colours.
        present: of the plot.
    """
    domain, there = list(encoders), set(present)
    legend = alt.Legend(title=None, values=[name for name in domain if name in there])
    scale = alt.Scale(domain=domain)
    shapes = alt.Scale(domain=domain, range=(SHAPES * len(domain))[: len(domain)])
    return {
        "color": alt.Color("encoder:N", scale=scale).legend(legend),
        "shape": alt.Shape("encoder:N", scale=shapes).legend(legend),
        "strokeDash": alt.StrokeDash("encoder:N", scale=scale).legend(legend),
    }


def static_specs(figure: Figure, stems: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and Vega-Lite specifications of a figure's files for papers, one a choice.

    Args:
        figure: what to draw.
        stems: what is appended to the name for each choice, in order.
    """
    for choice, stem in zip(figure.choices, stems, strict=True):
        title = f"{figure.title}: {choice}" if choice else figure.title
        yield (
            figure.name + stem,
            {
                "title": {
                    "text": title,
                    "subtitle": _lines(figure.says),
                    "anchor": "start",
                    "offset": 14,
                },
                "columns": 2,
                "spacing": 36,
                "resolve": {"scale": dict.fromkeys(_SHARED, "shared")},
                "config": theme(dark=False) | {"background": "white"},
                **_side_by_side([panel for panel in figure.panels if panel.choice == choice]),
            },
        )


def _side_by_side(panels: Sequence[Panel]) -> dict[str, Any]:
    """Vega-Lite of charts beside each other. (Altair's own way copies each of them five times.)"""
    specs = [
        panel.chart.properties(width=_WIDTH, title=panel.title).to_dict(validate=False)
        for panel in panels
    ]
    datasets = {name: rows for spec in specs for name, rows in spec.pop("datasets", {}).items()}
    whole = {"$schema": specs[0]["$schema"], "datasets": datasets, "concat": specs}
    for spec in specs:
        del spec["$schema"], spec["config"]
    return whole


def theme(dark: bool) -> dict[str, Any]:
    """Vega's configuration: colours, fonts and places of axes and legends."""
    ink, muted, line = (
        ("#e4e8ec", "#a0abb7", "#39434e") if dark else ("#1b2129", "#566270", "#dde2e7")
    )
    colours = _DARK if dark else _LIGHT
    return {
        "aria": False,
        "background": "transparent",
        "font": "Liberation Sans, Arial, Helvetica, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": muted,
            "titleColor": ink,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 190,
            "titlePadding": 8,
        },
        "axisY": {"labelColor": ink},
        "axisQuantitative": {"labelOverlap": "greedy", "labelSeparation": 5},
        # Classes above a heat map; the page turns them upright where it is narrow.
        "axisTop": {"labelAngle": -30},
        "legend": {
            "orient": "bottom",
            "direction": "horizontal",
            "columns": 3,
            "labelColor": ink,
            "titleColor": muted,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelLimit": 260,
            "symbolLimit": 60,
            "symbolOpacity": 1,
            "offset": 12,
        },
        "title": {
            "color": ink,
            "subtitleColor": muted,
            "fontSize": 13,
            # One font a file: a PDF with two has them in no order.
            "fontWeight": "normal",
            "subtitleFontSize": 11,
            "anchor": "start",
        },
        "range": {
            "category": colours,
            "ordinal": [*colours[:4], GREY],
            "ramp": RAMP,
            "heatmap": RAMP,
            "symbol": SHAPES,
        },
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": muted},
        "mark": {"color": colours[0]},
        "point": {"filled": True, "size": 60},
    }


def _lines(text: str, width: int = 110) -> list[str]:
    """A sentence on lines that a figure has room for."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
