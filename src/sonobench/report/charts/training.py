"""How training went: curves over epochs, paths over λ, and over the number of patients."""

import altair as alt
import pandas as pd

from sonobench.report.charts.figure import Figure, Panel, encoder_channels
from sonobench.report.charts.scores import encoder_order
from sonobench.report.numbers import counted
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, evaluation_title, spaced


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
        ended = run.training_ended(*model).values()
        doubt = ", ".join(f"{e.count} of {e.of} {spaced(e.status)}" for e in ended)
        title = f"{model.title} ({doubt})" if doubt else model.title
        curve = rows.assign(
            fold=[
                f"fold {counted(fold)}, seed {seed}"
                for fold, seed in zip(rows["fold"], rows["seed"], strict=True)
            ],
            epoch=rows["epoch"].map(counted),
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
        "epoch whose weights were kept. A line ends early where no better epoch came or it "
        "diverged.",
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
        values = long.groupby(["kind", "epoch"])["value"]
        frame = values.agg(["mean", "min", "max", "count"]).reset_index()
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
                alt.Tooltip("count:Q", title="folds"),
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
        "Mean over the folds that reached an epoch, shaded from the smallest to the largest. "
        "Validation rising while training falls is overfitting. Label smoothing is part of the "
        "training loss only.",
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
                fold=frame["fold"].map(counted),
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


def label_efficiency(run: RunFolder, scores: Scores, curves: pd.DataFrame) -> Figure:
    """Macro F1 over the number of training patients."""
    panels = []
    chosen = curves[curves["metric"] == "macro_f1"] if len(curves) else curves
    for evaluation in scores.evaluations:
        frame = chosen[chosen["evaluation"] == evaluation]
        if frame.empty:
            continue
        columns = ["encoder", "n_train_patients", "estimate", "ci_low", "ci_high", "n_draws"]
        channels = encoder_channels(encoder_order(run, scores), frame["encoder"])
        base = alt.Chart(frame[columns].round(4), height=260).encode(
            x=alt.X("n_train_patients:Q", title="training patients (logarithmic)")
            .scale(type="log", nice=False)
            .axis(values=sorted(frame["n_train_patients"].unique().tolist()), format="d"),
            color=channels["color"],
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
        points = base.mark_point(filled=True, opacity=1).encode(
            y="estimate:Q", shape=channels["shape"]
        )
        panels.append(Panel(evaluation_title(evaluation), band + line + points))
    return Figure(
        "label_efficiency",
        "How many patients does it take?",
        "Macro F1 of the linear probe when fewer patients are trained on; the band is the interval "
        "over test patients. A curve that still rises would gain from more patients.",
        tuple(panels),
    )
