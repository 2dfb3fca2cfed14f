"""Which settings of a protocol are those of the paper, which differ, and which it does not name.

What arXiv 2605.27796v1 makes public of its protocol: four ultrasound foundation models against
ResNet50, EfficientNet-V2 and DINOv3; linear probing and full fine-tuning of each; 5-fold
patient-level cross-validation on a Spanish set; tests in-domain and on an African cohort; F1.
"""

from typing import Any, Literal, NamedTuple

from sonobench.evaluation import PAPER_MODELS
from sonobench.protocol import FETAL_PLANES, LinearProbe, Protocol, Training
from sonobench.report.numbers import percent
from sonobench.report.scores import spaced

Verdict = Literal["same", "different", "paper does not say"]

_UNKNOWN = "not public"


class SettingRow(NamedTuple):
    """One setting: what this run does, what the paper says, and whether that is the same."""

    setting: str
    ours: str
    paper: str
    verdict: Verdict


def setting_rows(protocol: Protocol) -> list[SettingRow]:
    """Compare a protocol with what the paper makes public of its own.

    Args:
        protocol: of the run.

    Returns:
        Rows the paper speaks of first; then those on which it does not say anything.
    """
    return [*_public(protocol), *_unsaid(protocol)]


def _public(protocol: Protocol) -> list[SettingRow]:
    loaders = [dataset.loader for dataset in protocol.external]
    names = [entry.name for entry in protocol.encoders]
    absent = [name for name in PAPER_MODELS if name not in names]
    held = [name for name in PAPER_MODELS if name in names]
    adapted = [
        spaced(name)
        for name in ("linear_probe", "full_finetune")
        if getattr(protocol.adaptations, name) is not None
    ]
    return [
        _row(
            "training cohort",
            f"{protocol.source.name} ({protocol.source.loader})",
            "the Spanish set, FETAL_PLANES_DB",
            protocol.source.loader == "fetal_planes_db",
        ),
        _row(
            "external cohort",
            ", ".join(dataset.name for dataset in protocol.external) or "none",
            "the African set",
            "african_planes" in loaders,
        ),
        _row(
            "classes",
            ", ".join(protocol.classes),
            "the six of FETAL_PLANES_DB",
            set(protocol.classes) == set(FETAL_PLANES),
        ),
        _row(
            "folds",
            f"{protocol.split.folds}, patient-level",
            "5, patient-level",
            protocol.split.folds == 5,
        ),
        _row(
            "encoders",
            f"{', '.join(held) or 'none of the study'}"
            + (f"; without {', '.join(absent)}" if absent and held else ""),
            "USFM, MOFO, UltraSAM, FetalCLIP, ResNet50, EfficientNet-V2, DINOv3",
            not absent,
        ),
        _row(
            "adaptations",
            ", ".join(adapted) or "neither",
            "linear probe, full finetune",
            len(adapted) == 2,
        ),
    ]


def _unsaid(protocol: Protocol) -> list[SettingRow]:
    official = protocol.split.scheme == "official_test"
    rows = {
        "in-domain test": "the published test patients, the other patients in folds"
        if official
        else "each fold in turn, validation patients from the others",
        "averaging of F1": "macro (primary), weighted beside it",
        "external label space": "open (primary) and closed; classes declared for the cohort",
        "images with identical pixels": spaced(protocol.duplicates),
        "patients with nearly identical images": "count as one"
        if protocol.subjects.join_near_duplicates
        else "reported",
        "seeds": ", ".join(map(str, protocol.seeds)),
        "uncertainty": f"{percent(protocol.evaluation.confidence)} intervals over patients",
        "input sizes": ", ".join(
            f"{entry.label} at {entry.size}" for entry in protocol.encoders if entry.size
        )
        or "each encoder's own",
        "sizes of EfficientNet-V2 and DINOv3": ", ".join(
            entry.label
            for entry in protocol.encoders
            if entry.name is not None and entry.name.startswith(("efficientnetv2", "dinov3"))
        )
        or "neither is run",
    }
    for name in ("linear_probe", "full_finetune"):
        settings = getattr(protocol.adaptations, name)
        if settings is not None:
            rows[f"{spaced(name)}: settings"] = _settings(settings)
    return [
        SettingRow(setting, ours, _UNKNOWN, "paper does not say") for setting, ours in rows.items()
    ]


def _settings(settings: LinearProbe | Training) -> str:
    """Every setting of an adaptation, and what solves or optimises it."""
    optimiser = "AdamW" if isinstance(settings, Training) else "L-BFGS"
    return "; ".join([optimiser, *_told(settings.model_dump(mode="json"))])


def _told(settings: dict[str, Any]) -> list[str]:
    told = []
    for name, value in settings.items():
        if isinstance(value, dict):
            told.append(f"{spaced(name)}: {', '.join(_told(value))}")
        elif isinstance(value, list) and value:
            told.append(f"{spaced(name)} {len(value)} from {value[0]:g} to {value[-1]:g}")
        else:
            told.append(f"{spaced(name)} {'none' if value is None or value == [] else value}")
    return told


def _row(setting: str, ours: str, paper: str, same: bool) -> SettingRow:
    return SettingRow(setting, ours, paper, "same" if same else "different")
