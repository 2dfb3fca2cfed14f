"""How training went: curves over epochs, paths over λ, and over the number of patients."""

import altair as alt
import pandas as pd

from sonobench.report.charts.figure import SHAPES, Figure, Panel
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, evaluation_title


def _curves(run: RunFolder) -> list[tuple[str, str, pd.DataFrame]]:
    """Epochs of every fine-tuned model: encoder, title and rows, in the protocol's order."""
    if run.finetune is None:
        return []
    order = {entry.label: position for position, entry in enumerate(run.protocol.encoders)}
    groups = sorted(
        run.finetune.groupby(["encoder", "adaptation"], sort=False),
        key=lambda item: (str(item[0][1]), order.get(str(item[0][0]), len(order))),
    )
    curves = []
    for (encoder, adaptation), rows in groups:
        model = Model(str(encoder), str(adaptation))
        ended = rows.loc[rows["status"] != "trained", "status"].unique()
        doubt = f" ({', '.join(str(status).replace('_', ' ') for status in ended)})"
        title = f"{model.title}{doubt if len(ended) else ''}"
        curve = rows.assign(
            fold=[
                f"fold {fold}, seed {seed}"
                for fold, seed in zip(rows["fold"], rows["seed"], strict=True)
            ]
        )
        curves.append((str(encoder), title, curve))
    return curves


def fine_tuning(run: RunFolder) -> Figure:
    """Macro F1 on validation patients after every epoch, one line a fold."""
    panels = []
    for _, title, rows in _curves(run):
        frame = rows[["fold", "epoch", "validation_macro_f1", "best"]].round(4)
        base = alt.Chart(frame, height=180).encode(
            x=alt.X("epoch:Q", title="epoch").axis(format="d", tickMinStep=1),
            y=alt.Y("validation_macro_f1:Q", title="macro F1, validation").scale(zero=False),
            detail="fold:N",
            tooltip=[
                alt.Tooltip("fold:N", title="model"),
                alt.Tooltip("epoch:Q"),
                alt.Tooltip("validation_macro_f1:Q", title="macro F1", format=".3f"),
            ],
        )
        lines = base.mark_line(strokeWidth=1.5, opacity=0.7)
        chosen = base.mark_point(filled=True, opacity=1).transform_filter("datum.best")
        panels.append(Panel(title, lines + chosen))
    return Figure(
        "fine_tuning",
        "Did fine-tuning converge?",
        "One line a fold: macro F1 on its validation patients after each epoch. The mark is the "
        "epoch whose weights were kept. A line that breaks off diverged.",
        tuple(panels),
    )


def losses(run: RunFolder) -> Figure:
    """Training loss and validation NLL over epochs, the mean over folds and its range."""
    names = {"train_loss": "training loss", "validation_nll": "validation NLL"}
    panels = []
    for _, title, rows in _curves(run):
        long = rows.melt(["fold", "epoch"], list(names), "kind", "value").dropna(subset=["value"])
        if long.empty:
            continue
        long["kind"] = long["kind"].map(names)
        frame = long.groupby(["kind", "epoch"])["value"].agg(["mean", "min", "max"]).reset_index()
        kinds = alt.Color("kind:N", scale=alt.Scale(domain=list(names.values()))).legend(title=None)
        base = alt.Chart(frame.round(4), height=160).encode(
            x=alt.X("epoch:Q", title="epoch").axis(format="d", tickMinStep=1),
            color=kinds,
            tooltip=[
                alt.Tooltip("kind:N", title="curve"),
                alt.Tooltip("epoch:Q"),
                alt.Tooltip("mean:Q", format=".3f"),
                alt.Tooltip("min:Q", title="smallest", format=".3f"),
                alt.Tooltip("max:Q", title="largest", format=".3f"),
            ],
        )
        band = base.mark_area(opacity=0.2).encode(y=alt.Y("min:Q", title="loss"), y2="max:Q")
        line = base.mark_line(strokeWidth=2).encode(
            y="mean:Q",
            strokeDash=alt.StrokeDash(
                "kind:N", scale=alt.Scale(domain=list(names.values()))
            ).legend(title=None),
        )
        panels.append(Panel(title, band + line))
    return Figure(
        "losses",
        "Loss over epochs",
        "Mean over folds, shaded from the smallest to the largest. Validation rising while "
        "training falls is overfitting. Label smoothing is part of the training loss only.",
        tuple(panels),
    )


def regularisation_path(run: RunFolder) -> Figure:
    """Validation NLL of the linear probe over λ, one line a fold."""
    panels = []
    if run.probe is not None:
        order = [entry.label for entry in run.protocol.encoders]
        groups = dict(iter(run.probe.groupby("encoder", sort=False)))
        for encoder in sorted(
            groups, key=lambda e: order.index(str(e)) if e in order else len(order)
        ):
            frame = groups[encoder][["fold", "seed", "penalty", "validation_nll", "chosen"]]
            frame = frame.assign(
                model=frame["fold"].astype(str) + "/" + frame["seed"].astype(str),
                validation_nll=frame["validation_nll"].round(4),
            )
            base = alt.Chart(frame, height=170).encode(
                x=alt.X("penalty:Q", title="λ (logarithmic): strong on the right")
                .scale(type="log")
                .axis(format="~e", labelOverlap=True, tickCount=6),
                y=alt.Y("validation_nll:Q", title="NLL, validation").scale(zero=False),
                detail="model:N",
                tooltip=[
                    alt.Tooltip("fold:Q"),
                    alt.Tooltip("penalty:Q", title="λ", format=".3g"),
                    alt.Tooltip("validation_nll:Q", title="NLL", format=".3f"),
                ],
            )
            lines = base.mark_line(strokeWidth=1.5, opacity=0.7)
            chosen = base.mark_point(filled=True, opacity=1).transform_filter("datum.chosen")
            panels.append(Panel(str(encoder), lines + chosen))
    return Figure(
        "regularisation_path",
        "How strongly each probe is regularised",
        "One line a fold: negative log-likelihood on its validation patients, lower is better. "
        "The mark is the λ that was chosen; at the edge of the grid a wider one might do better.",
        tuple(panels),
    )


def label_efficiency(scores: Scores, curves: pd.DataFrame) -> Figure:
    """Macro F1 over the number of training patients."""
    panels = []
    chosen = curves[curves["metric"] == "macro_f1"] if len(curves) else curves
    for evaluation in scores.evaluations:
        frame = chosen[chosen["evaluation"] == evaluation]
        if frame.empty:
            continue
        there = set(frame["encoder"])
        order = [e for e in dict.fromkeys(m.encoder for m in scores.models) if e in there]
        columns = ["encoder", "n_train_patients", "estimate", "ci_low", "ci_high", "n_draws"]
        base = alt.Chart(frame[columns].round(4), height=260).encode(
            x=alt.X("n_train_patients:Q", title="training patients (logarithmic)")
            .scale(type="log", nice=False)
            .axis(values=sorted(frame["n_train_patients"].unique().tolist()), format="d"),
            color=alt.Color("encoder:N", scale=alt.Scale(domain=order)).legend(title=None),
            tooltip=[
                alt.Tooltip("encoder:N"),
                alt.Tooltip("n_train_patients:Q", title="training patients"),
                alt.Tooltip("estimate:Q", title="macro F1", format=".3f"),
                alt.Tooltip("ci_low:Q", title="interval from", format=".3f"),
                alt.Tooltip("ci_high:Q", title="to", format=".3f"),
                alt.Tooltip("n_draws:Q", title="draws of patients"),
            ],
        )
        band = base.mark_area(opacity=0.07).encode(
            y=alt.Y("ci_low:Q", title="macro F1").scale(zero=False), y2="ci_high:Q"
        )
        line = base.mark_line(strokeWidth=2).encode(y="estimate:Q")
        shapes = alt.Scale(domain=order, range=(SHAPES * 3)[: len(order)])
        points = base.mark_point(filled=True, opacity=1).encode(
            y="estimate:Q", shape=alt.Shape("encoder:N", scale=shapes).legend(title=None)
        )
        panels.append(Panel(evaluation_title(evaluation), band + line + points))
    return Figure(
        "label_efficiency",
        "How many patients does it take?",
        "Macro F1 of the linear probe when fewer patients are trained on; the band is the interval "
        "over test patients. A curve that still rises would gain from more patients.",
        tuple(panels),
    )
