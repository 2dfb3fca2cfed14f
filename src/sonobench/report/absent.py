"""Models of a protocol that have no numbers, and why."""

import re
from dataclasses import dataclass

from sonobench.protocol import EncoderEntry, Training
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Model, Scores, spaced


@dataclass(frozen=True)
class Absent:
    """A model without numbers, and why; an encoder that took no part has no training."""

    name: str
    training: str
    reason: str


def absent_models(run: RunFolder, scores: Scores) -> list[Absent]:
    """Every encoder and adaptation of the protocol that could have a result and has none."""
    skipped = {record["encoder"]: record["reason"] for record in run.manifest["skipped"]}
    absent = []
    for entry in run.protocol.encoders:
        if entry.label in skipped:
            absent.append(Absent(entry.label, "", skipped[entry.label]))
            continue
        for adaptation in _adaptations(run, entry):
            model = Model(entry.label, adaptation)
            if model not in scores.models:
                absent.append(Absent(model.name, model.training, _reason(run, model)))
    return absent


def failure_text(failure: dict[str, str]) -> str:
    """What the report says of a job that failed."""
    return f"failed: {failure['job']}: {failure['error']}"


def _adaptations(run: RunFolder, entry: EncoderEntry) -> list[str]:
    """What is trained on an encoder: nothing by gradient where there is nothing to train."""
    fixed = (
        entry.embeddings is not None
        or entry.name == "pixel_stats"
        or run.certificates.get(entry.label, {}).get("parameters") == 0
    )
    return [
        name
        for name, settings in run.protocol.adaptations_of(entry).items()
        if not (fixed and isinstance(settings, Training))
    ]


def _reason(run: RunFolder, model: Model) -> str:
    if diverged := run.training_ended(*model).get("diverged"):
        return str(diverged)
    failure = _first_failure(run, model)
    return failure_text(failure) if failure else "nothing that was trained on it is finished"


def _first_failure(run: RunFolder, model: Model) -> dict[str, str] | None:
    """The job that left a model without its numbers: its own, or one that its own needed.

    Jobs are named by what they do and by the encoder; its seed and which part it is follow.
    """
    label = rf"{re.escape(model.encoder)}( seed \d+)?"
    own = re.compile(
        rf"(admit|read|linear probe) {label}|embed {label} · .*"
        if model.adaptation == "linear_probe"
        else rf"admit {label}|{re.escape(spaced(model.adaptation))} {label} · .*"
    )
    by_name = {failure["job"]: failure for failure in run.manifest["failures"]}
    failures = [failure for name, failure in by_name.items() if own.fullmatch(name)]
    causes = [by_name.get(failure.get("because_of"), failure) for failure in failures]
    return causes[0] if causes else None
