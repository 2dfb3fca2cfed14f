"""Macro F1 drawn: with its interval, at home against abroad, in ranks, against speed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from sonobench.evaluation import IN_DOMAIN
from sonobench.report.charts.figure import GREY, SHAPES, Figure, Panel
from sonobench.report.numbers import percent
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import TRAININGS, Model, Scores, evaluation_title

CONTROL = "control"
# Their colours are the theme's ordinal range, the last one grey.
ROLES = [*TRAININGS.values(), CONTROL]
# Height of a mark's row, in pixels.
_ROW = 17


def role(run: RunFolder, model: Model) -> str:
    """What colours a model: how it was adapted, or that it is a control."""
    return CONTROL if run.is_control(*model) else model.training


def role_channels(roles: Iterable[str]) -> dict[str, Any]:
    """Colour and shape of every role, the same in all plots; a legend where there are several."""
    present = [name for name in ROLES if name in set(roles)]
    legend = alt.Legend(title=None, values=present) if len(present) > 1 else None
    shapes = alt.Scale(domain=ROLES, range=SHAPES[: len(ROLES)])
    return {
        "color": alt.Color("role:N", scale=alt.Scale(domain=ROLES, range="ordinal")).legend(legend),
        "shape": alt.Shape("role:N", scale=shapes).legend(legend),
    }


def encoder_order(run: RunFolder, scores: Scores) -> list[str]:
    """Encoders in the order of their colours: the best first, controls last."""
    names = list(dict.fromkeys(m.encoder for m in scores.models if m.encoder != "none"))
    return sorted(names, key=lambda name: name in run.controls)


def named(models: Sequence[Model]) -> list[str]:
    """Rows of a plot: encoders in the order of the models, each once."""
    return list(dict.fromkeys(model.name for model in models))


def within_row(models: Sequence[Model]) -> dict[Model, float]:
    """Place of every model within its encoder's row, counted from the row's middle."""
    order = list(dict.fromkeys(model.training for model in models))
    found = dict[Model, float]()
    for name in named(models):
        own = sorted((m for m in models if m.name == name), key=lambda m: order.index(m.training))
        found |= {model: place - (len(own) - 1) / 2 for place, model in enumerate(own)}
    return found


def rows_of(models: Sequence[Model]) -> dict[str, Any]:
    """Position of a model: its encoder's row, its place `within` it."""
    names, furthest = named(models), max(within_row(models).values(), default=0.0) + 0.5
    return {
        "y": alt.Y("encoder:N", sort=names, title=None, axis=alt.Axis(grid=True, ticks=False)),
        "yOffset": alt.YOffset("within:Q", scale=alt.Scale(domain=[-furthest, furthest])),
    }


def _height(models: Sequence[Model]) -> int:
    """Of a plot with a row an encoder and within it one an adaptation, in pixels."""
    within = int(2 * max(within_row(models).values(), default=0.0)) + 1
    return len(named(models)) * max(20, _ROW * within)


def share_axis(values: pd.DataFrame, below: float = 0.0, above: float = 0.0) -> alt.Scale:
    """A scale in tenths that holds all values, with so much room below and above."""
    numbers = values.to_numpy(np.float64)
    low, high = float(np.nanmin(numbers)) - below, float(np.nanmax(numbers)) + above
    start = min(math.floor(10 * low), 9)
    end = min(max(math.ceil(10 * high), start + 1), 10)
    return alt.Scale(domain=[start / 10, end / 10], zero=False)


def interval_tooltip(*first: str) -> list[alt.Tooltip]:
    """Names, the estimate and both ends of its interval."""
    return [
        *(alt.Tooltip(f"{field}:N", title=title) for field, title in (f.split("|") for f in first)),
        alt.Tooltip("estimate:Q", title="macro F1", format=".3f"),
        alt.Tooltip("low:Q", title="interval from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
    ]


_MODEL_TOOLTIP = ("encoder|encoder", "adaptation|adaptation")


def forest(run: RunFolder, scores: Scores) -> Figure:
    """Of all images; in both label spaces where they differ."""
    frames = {}
    for evaluation in scores.evaluations:
        for variant in scores.variants(evaluation):
            if variant.images == "all":
                closed = ", closed label space" if variant.label_space == "closed" else ""
                frames[evaluation_title(evaluation) + closed] = pd.DataFrame(
                    [
                        {
                            "encoder": model.name,
                            "adaptation": model.training,
                            "role": role(run, model),
                            "within": within_row(scores.models)[model],
                            "estimate": score.estimate,
                            "low": score.low,
                            "high": score.high,
                        }
                        for model in scores.models
                        if (score := scores.get(model, evaluation, variant, "macro_f1"))
                    ]
                )
    ends = pd.concat(frames.values())[["estimate", "low", "high"]]
    scale = share_axis(ends)
    panels = []
    for title, frame in frames.items():
        base = alt.Chart(frame, height=_height(scores.models)).encode(**rows_of(scores.models))
        channels = role_channels(frame["role"])
        x = alt.X("low:Q", scale=scale, title="macro F1", axis=alt.Axis(tickCount=6))
        tooltip = interval_tooltip(*_MODEL_TOOLTIP)
        lines = base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
            x=x, x2="high:Q", color=channels["color"], tooltip=tooltip
        )
        points = base.mark_point(filled=True, opacity=1, size=70).encode(
            x=alt.X("estimate:Q", scale=scale), tooltip=tooltip, **channels
        )
        panels.append(Panel(title, lines + points))
    level = percent(run.protocol.evaluation.confidence)
    return Figure(
        "forest",
        "Macro F1 of every model, with its uncertainty",
        f"Further right is better. The mark is the mean over the trained models, the line its "
        f"{level} interval over patients; grey rows are controls that any encoder should beat.",
        tuple(panels),
    )


def drops(run: RunFolder, scores: Scores) -> Figure:
    """In-domain and external macro F1 of every model that is not a control, joined."""
    models = [model for model in scores.models if not run.is_control(*model)]
    panels = []
    for evaluation in scores.external if models else ():
        where = evaluation_title(evaluation)
        frame = pd.DataFrame(
            [
                {
                    "encoder": model.name,
                    "adaptation": model.training,
                    "within": within_row(models)[model],
                    "home": scores.macro_f1(model, IN_DOMAIN).estimate,
                    "external": scores.macro_f1(model, evaluation).estimate,
                }
                for model in models
            ]
        )
        frame["drop"] = frame["home"] - frame["external"]
        ends = frame[["home", "external"]]
        scale = share_axis(ends, below=0.02)
        base = alt.Chart(frame, height=_height(models)).encode(
            **rows_of(models),
            tooltip=[
                alt.Tooltip("encoder:N"),
                alt.Tooltip("adaptation:N"),
                alt.Tooltip("home:Q", title="in-domain", format=".3f"),
                alt.Tooltip("external:Q", title="external", format=".3f"),
                alt.Tooltip("drop:Q", format="+.3f"),
            ],
        )
        line = base.mark_rule(strokeWidth=2).encode(
            x=alt.X("home:Q", scale=scale), x2="external:Q", **_dashes(models)
        )
        places = ["in-domain", where]
        ends_of = frame.melt(["encoder", "adaptation"], ["home", "external"], "place", "value")
        ends_of["place"] = ends_of["place"].map({"home": "in-domain", "external": where})
        ends_of = ends_of.merge(frame)
        points = (
            base.properties(data=ends_of)
            .mark_point(filled=True, opacity=1, size=75)
            .encode(
                x=alt.X("value:Q", scale=scale, title="macro F1", axis=alt.Axis(tickCount=6)),
                color=alt.Color("place:N", scale=alt.Scale(domain=places)).legend(title=None),
                shape=alt.Shape("place:N", scale=alt.Scale(domain=places, range=SHAPES[:2])).legend(
                    title=None
                ),
            )
        )
        text = base.mark_text(align="left", dx=8).encode(
            x=alt.value("width"), text=alt.Text("drop:Q", format="+.3f")
        )
        panels.append(Panel(f"in-domain against {where}", line + points + text))
    return Figure(
        "drops",
        "What is lost abroad",
        "Each line joins a model's macro F1 at home (circle) and abroad (square); the number is "
        "the drop, in-domain minus external. Each macro F1 is the mean over its own cohort's "
        "classes: where those differ, so does what is asked, and a model can also gain.",
        tuple(panels),
    )


def _dashes(models: Sequence[Model]) -> dict[str, Any]:
    """Dashes of every adaptation, where there are several."""
    present = [name for name in TRAININGS.values() if name in {model.training for model in models}]
    scale = alt.Scale(domain=present, range=[[1, 0], [7, 3], [2, 3], [7, 3, 2, 3]][: len(present)])
    dashes = alt.StrokeDash("adaptation:N", scale=scale).legend(title=None)
    return {"strokeDash": dashes} if len(present) > 1 else {}


def ranks(run: RunFolder, scores: Scores, comparisons: pd.DataFrame) -> Figure:
    """Ranks that each model may have, and the letters of its group, within its adaptation."""
    chosen = comparisons[
        (comparisons["kind"] == "rank")
        & (comparisons["label_space"] == "open")
        & (comparisons["images"] == "all")
        & (comparisons["metric"] == "macro_f1")
    ]
    trainings = {m.adaptation: m.training for m in scores.models}
    panels = []
    for evaluation in scores.evaluations:
        frame = chosen[
            (chosen["evaluation"] == evaluation) & chosen["a_adaptation"].isin(list(trainings))
        ].rename(columns={"a": "encoder", "ci_low": "low", "ci_high": "high"})
        for adaptation, ranked in frame.groupby("a_adaptation", sort=False):
            if len(ranked) < 2:
                continue
            rows = ranked.sort_values(["estimate", "encoder"])[
                ["encoder", "estimate", "low", "high", "group"]
            ]
            models = [Model(encoder, str(adaptation)) for encoder in rows["encoder"]]
            rows = rows.assign(role=[role(run, model) for model in models])
            scale = alt.Scale(domain=[0.6, len(rows) + 0.4], nice=False, zero=False)
            axis = alt.Axis(values=list(range(1, len(rows) + 1)), format="d")
            tooltip = [
                alt.Tooltip("encoder:N"),
                alt.Tooltip("estimate:Q", title="rank", format=".0f"),
                alt.Tooltip("low:Q", title="may be from", format=".0f"),
                alt.Tooltip("high:Q", title="to", format=".0f"),
                alt.Tooltip("group:N"),
            ]
            base = alt.Chart(rows, height=20 * len(rows)).encode(
                y=alt.Y("encoder:N", sort=list(rows["encoder"]), title=None).axis(ticks=False),
                tooltip=tooltip,
            )
            channels = role_channels(rows["role"])
            line = base.mark_rule(strokeWidth=3, strokeCap="round").encode(
                x=alt.X("low:Q", scale=scale, axis=axis, title="rank (1 is best)"),
                x2="high:Q",
                color=channels["color"],
            )
            points = base.mark_point(filled=True, opacity=1, size=80).encode(
                x=alt.X("estimate:Q", scale=scale), **channels
            )
            letters = base.mark_text(align="left", dx=8).encode(
                x=alt.value("width"), text="group:N"
            )
            title = f"{evaluation_title(evaluation)}, {trainings[str(adaptation)]}"
            panels.append(Panel(title, line + points + letters))
    return Figure(
        "ranks",
        "Which ranks each model may have",
        "The mark is the rank on these patients, the line all ranks that paired comparisons cannot "
        "rule out. Models that share a letter cannot be told apart.",
        tuple(panels),
    )


def cost(run: RunFolder, scores: Scores) -> Figure:
    """Macro F1 against speed, for encoders whose speed was measured at admission."""
    measured = {
        label: certificate
        for label, certificate in run.certificates.items()
        if certificate.get("images_a_second") and certificate.get("parameters")
    }
    models = [m for m in scores.models if m.encoder in measured and not run.is_control(*m)]
    panels = []
    for evaluation in scores.evaluations if models else ():
        frame = pd.DataFrame(
            [
                {
                    "encoder": model.encoder,
                    "role": model.training,
                    "speed": measured[model.encoder]["images_a_second"],
                    "millions": measured[model.encoder]["parameters"] / 1e6,
                    "estimate": scores.macro_f1(model, evaluation).estimate,
                }
                for model in models
            ]
        )
        scale = share_axis(frame[["estimate"]], below=0.02, above=0.01)
        base = alt.Chart(frame, height=260).encode(
            x=alt.X(
                "speed:Q",
                scale=alt.Scale(
                    type="log",
                    domain=[frame["speed"].min() / 1.7, frame["speed"].max() * 2.2],
                    nice=False,
                ),
                title="images a second, embedding (logarithmic)",
                axis=alt.Axis(format="~g", labelOverlap=True, tickCount=5),
            ),
            y=alt.Y("estimate:Q", scale=scale, title="macro F1"),
        )
        bubbles = base.mark_point(filled=True, opacity=0.75).encode(
            color=role_channels(frame["role"])["color"],
            size=alt.Size(
                "millions:Q",
                scale=alt.Scale(range=[60, 700], domainMin=0),
                title="million parameters",
            ).legend(
                values=_round_values(frame["millions"].max()),
                symbolFillColor=GREY,
                symbolStrokeWidth=0,
            ),
            tooltip=[
                alt.Tooltip("encoder:N"),
                alt.Tooltip("role:N", title="adaptation"),
                alt.Tooltip("estimate:Q", title="macro F1", format=".3f"),
                alt.Tooltip("speed:Q", title="images a second", format=".1f"),
                alt.Tooltip("millions:Q", title="million parameters", format=".1f"),
            ],
        )
        # Names above and below in turn, so that neighbours in speed do not overlap.
        ordered = frame.sort_values(["speed", "estimate"]).drop_duplicates("encoder", keep="last")
        above = base.properties(data=ordered.iloc[::2]).mark_text(dy=-17, fontSize=10)
        lowest = frame.sort_values("estimate").drop_duplicates("encoder")
        below = base.properties(
            data=lowest[lowest["encoder"].isin(ordered["encoder"].iloc[1::2])]
        ).mark_text(dy=18, fontSize=10)
        names = above.encode(text="encoder:N") + below.encode(text="encoder:N")
        panels.append(Panel(evaluation_title(evaluation), bubbles + names))
    devices = sorted({str(measured[m.encoder].get("device", "cpu")) for m in models})
    return Figure(
        "cost",
        "What accuracy costs",
        "Up is more accurate, right is faster; the larger the bubble, the more parameters. Speed "
        f"is that of one timed batch at admission, on {' and '.join(devices)}, as a guide only.",
        tuple(panels),
    )


def _round_values(most: float) -> list[float]:
    """Two round numbers for a legend of sizes."""
    top = 10 ** math.floor(math.log10(most))
    return [top / 2, top] if most < 2 * top else [top, top * (most // top)]
