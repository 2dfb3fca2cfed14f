"""A run in sentences: its answer with the uncertainty, and what to know before using it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from sonobench.evaluation import IN_DOMAIN
from sonobench.report.absent import absent_models, failure_text
from sonobench.report.comparisons import Comparisons, Difference
from sonobench.report.numbers import number, percent, signed
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import MAIN, Model, Score, Scores, evaluation_title


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the numbers must know.

    Attributes:
        kind: `problem` where a number is missing or not to be relied on; `note` is the protocol's
            own on a cohort; `remark` else.
        text: a sentence.
    """

    kind: Literal["problem", "note", "remark"]
    text: str


def answer(run: RunFolder, scores: Scores, comparisons: Comparisons) -> list[str]:
    """Two sentences an evaluation: the best and its interval, and whom it cannot be told from."""
    chosen = [model for model in scores.models if not run.is_control(*model)]
    controls = [model for model in scores.models if run.is_control(*model)]
    if not chosen:
        return ["Only controls have results: there is no encoder to choose."]
    return [
        _answer(evaluation, chosen, controls, run, scores, comparisons)
        for evaluation in scores.evaluations
    ]


def _answer(
    evaluation: str,
    chosen: Sequence[Model],
    controls: Sequence[Model],
    run: RunFolder,
    scores: Scores,
    comparisons: Comparisons,
) -> str:
    def score(model: Model) -> Score:
        return scores.macro_f1(model, evaluation)

    best = max(chosen, key=lambda model: score(model).estimate)
    equal = [model for model in chosen if score(model).estimate == score(best).estimate]
    images, patients = scores.sizes[evaluation, MAIN]
    text = "In-domain, " if evaluation == IN_DOMAIN else f"On {evaluation}, "
    if len(chosen) == 1:
        text += f"{_named(best)}, the only model that is not a control, has a macro F1 of"
    elif len(equal) == 1:
        text += f"{_named(best)} has the highest macro F1 of {len(chosen)} models that are not "
        text += "controls:"
    else:
        text += f"{_listed(equal)} have the same macro F1, the highest of {len(chosen)} models "
        text += "that are not controls:"
    level = percent(run.protocol.evaluation.confidence)
    text += f" {number(score(best).estimate)} ({level} interval"
    text += f" of {_named(best)}" if len(equal) > 1 else ""
    text += f" {number(score(best).low)} to {number(score(best).high)}; "
    text += f"{images:,} images of {patients:,} patients)."
    if len(chosen) > 1:
        text += _rivals(best, chosen, evaluation, scores, comparisons)
    if controls:
        control = max(controls, key=lambda model: score(model).estimate)
        higher = score(control).estimate > score(best).estimate
        text += (
            f" A control is higher: {_named(control)} has {number(score(control).estimate)}"
            if higher
            else f" The highest control, {_named(control)}, has {number(score(control).estimate)}"
        )
        text += f" ({number(score(control).low)} to {number(score(control).high)})"
        match comparisons.separable(best, control, evaluation):
            case True:
                text += ", and differs on the same patients."
            case False:
                text += ", and cannot be told apart on the same patients."
            case None if score(control).overlaps(score(best)):
                text += ", and the intervals of the two overlap."
            case None:
                text += "."
    return text


def _rivals(
    best: Model,
    chosen: Sequence[Model],
    evaluation: str,
    scores: Scores,
    comparisons: Comparisons,
) -> str:
    """Whom the best cannot be told apart from: by paired tests where there are any.

    Nobody is left out: what was not compared on the same patients has an interval, at least.
    """
    others = [model for model in chosen if model != best]
    alike = [model for model in others if model.adaptation == best.adaptation]
    tested = {model: comparisons.separable(best, model, evaluation) for model in alike}
    text, compared = "", {model for model, apart in tested.items() if apart is not None}
    if compared:
        whom = "the others" if len(alike) == len(others) else f"others with {best.training}"
        equal = [model for model in alike if tested[model] is False]
        text = f" Compared with {whom} on the same patients, "
        text += f"{best.name} cannot be told apart from {_listed(equal)}." if equal else ""
        text += "" if equal else f"{best.name} differs from all."
    own = [d for d in comparisons.adaptations if d.evaluation == evaluation and best in (d.a, d.b)]
    text += "".join(_adaptation(difference, comparisons.alpha) for difference in own)
    compared |= {model for difference in own for model in (difference.a, difference.b)}
    return text + _not_compared(best, [m for m in others if m not in compared], evaluation, scores)


def _not_compared(best: Model, others: Sequence[Model], evaluation: str, scores: Scores) -> str:
    """What the intervals say of models with which there is no paired comparison."""
    top = scores.macro_f1(best, evaluation)
    near = [model for model in others if scores.macro_f1(model, evaluation).overlaps(top)]
    if len(near) == 1:
        return (
            f" The interval of {_listed(near)} overlaps with that of {_named(best)}: the two were "
            "not compared on the same patients, and intervals alone cannot tell them apart."
        )
    if near:
        return (
            f" The intervals of {_listed(near)} overlap with that of {_named(best)}: they were not "
            "compared with it on the same patients, and intervals alone cannot tell them apart."
        )
    return (
        f" No interval of a model that was not compared with {_named(best)} overlaps with its own."
        if others
        else ""
    )


def _adaptation(difference: Difference, alpha: float) -> str:
    a, b = difference.a, difference.b
    apart = "" if difference.p < alpha else ", which cannot be told from 0"
    return (
        f" Its {a.training} minus its {b.training}: {signed(difference.estimate)} "
        f"({signed(difference.low)} to {signed(difference.high)}){apart}."
    )


def _named(model: Model) -> str:
    return model.name if model.encoder == "none" else f"{model.name} ({model.training})"


def _listed(models: Sequence[Model]) -> str:
    names = [_named(model) for model in models]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def findings(run: RunFolder, scores: Scores) -> list[Finding]:
    """Problems first, then notes on cohorts, then remarks."""
    datasets = (run.protocol.source, *run.protocol.external)
    notes = [
        Finding("note", f"{dataset.name}: {dataset.note}") for dataset in datasets if dataset.note
    ]
    return [*_problems(run, scores), *notes, *_remarks(run)]


def _problems(run: RunFolder, scores: Scores) -> list[Finding]:
    texts = [
        f"{' '.join(filter(None, [a.name, a.training]))} has no numbers: {a.reason}"
        for a in absent_models(run, scores)
    ]
    texts += [f["message"] for f in run.audit["findings"] if f["kind"] == "not_judged"]
    # What was skipped because of another job says nothing new, nor what is a reason above.
    failures = [failure_text(f) for f in run.manifest["failures"] if not f.get("because_of")]
    texts += [failure for failure in failures if not any(failure in text for text in texts)]
    encoders = sorted({model.encoder for model in scores.models})
    for encoder in encoders:
        if run.is_random_looking(encoder):
            median = run.certificates[encoder]["spectral_distance_median"]
            texts.append(
                f"{encoder}: its weights look random (median spectral distance {number(median)}); "
                "its checkpoint may not hold what it claims"
            )
        if count := run.unconverged(encoder):
            texts.append(
                f"{encoder}: {count} of its chosen probes did not converge; its numbers may be off"
            )
    for model in scores.models:
        texts += [f"{model.title}: {ended}" for ended in run.training_ended(*model).values()]
    for evaluation in scores.evaluations:
        models = [m for m in scores.models if not scores.macro_f1(m, evaluation).reliable]
        if models:
            texts.append(
                f"{evaluation_title(evaluation)}: intervals are not to be relied on; too few "
                "patients carry one of the classes, or a centre or fold has a single patient"
            )
    if unreadable := len(run.audit["left_out"]):
        texts.append(
            f"images that could not be read and were left out: {unreadable}; see the audit"
        )
    return [Finding("problem", text) for text in texts]


def _remarks(run: RunFolder) -> list[Finding]:
    texts = []
    joined = run.protocol.subjects.join_near_duplicates
    alike = ", or nearly the same one," if joined else ""
    for name, cohort in run.audit["cohorts"].items():
        if cohort["duplicate_sets"]:
            texts.append(
                f"{name}: {cohort['images']} images, {cohort['distinct_images']} of them distinct; "
                f"{cohort['patients']} patient ids are {cohort['subjects']} subjects after ids "
                f"that share an image{alike} were merged"
            )
        if cohort["excluded_images"]:
            texts.append(
                f"{name}: {cohort['excluded_images']} images are excluded, as their patients are "
                "tested"
            )
        known = run.audit.get("known_counts", {}).get(name) or {}
        if (published := known.get("published_images")) and published != known["here"]:
            texts.append(f"{name}: {known['here']:,} of {published:,} published images")
    told = "joined_subjects" if joined else "near_duplicates"
    texts += [
        f"{finding['cohort']}: {finding['message']}"
        for finding in run.audit.get("findings", [])
        if finding["kind"] == told
    ]
    shared = run.audit["images_shared_between_cohorts"]
    if shared:
        texts.append(f"{shared} images are in more than one cohort")
    if run.probe is not None and (at_edge := int(run.probe["at_edge"].sum())):
        texts.append(
            f"λ at the edge of its grid in {at_edge} of {int(run.probe['chosen'].sum())} probes: "
            "a wider grid might do better"
        )
    if run.finetune is not None:
        texts += _still_rising(run.finetune)
    return [Finding("remark", text) for text in texts]


def _still_rising(epochs: pd.DataFrame) -> list[str]:
    """Models of which most trainings were best in their last epoch."""
    texts = []
    for (encoder, adaptation), rows in epochs.groupby(["encoder", "adaptation"], sort=False):
        last = rows.sort_values("epoch").groupby(["seed", "fold"])["best"].last()
        if 2 * last.sum() > len(last):
            title = Model(str(encoder), str(adaptation)).title
            texts.append(
                f"{title}: {int(last.sum())} of {len(last)} trainings were best in their last "
                "epoch: more epochs might do better"
            )
    return texts
