"""Tables of samples whose faults are known, and the audit of them."""

from typing import Any

import numpy as np
import pandas as pd

from sonobench.datasets import audit, make_splits, merge_subjects
from sonobench.protocol import Split

RNG = np.random.default_rng(0)


def cohort(patients: int = 30, name: str = "home", **columns: object) -> pd.DataFrame:
    """Three images a patient, one a class; every third patient is a test patient."""
    rows = [
        {
            "image_id": f"{name}/{patient:03d}_{position}",
            "dataset": name,
            "path": f"{RNG.integers(10**9):09d}.png",
            "label": label,
            "patient_id": f"{name}/{patient:03d}",
            "site": None,
            "device": None,
            "operator": None,
            "official_split": "test" if patient % 3 == 2 else "train",
            "row": 3 * patient + position + 2,
            "pixel_sha256": RNG.bytes(32).hex(),
            "perceptual_hash": RNG.bytes(32).hex(),
            "width": 640,
            "height": 480,
            "mean_intensity": RNG.normal(50, 5),
            "text_marks": 0,
            "caliper_marks": 0,
            "coloured_share": 0.0,
        }
        for patient in range(patients)
        for position, label in enumerate(("abdomen", "brain", "femur"))
    ]
    return pd.DataFrame(rows).assign(**columns)


def audited(samples: pd.DataFrame, split: Split | None = None, **settings: Any) -> dict[str, Any]:
    samples = samples.reset_index(drop=True)
    samples = samples.assign(subject_id=merge_subjects(samples))
    splits = make_splits(samples, "home", split or Split())
    published = dict.fromkeys(samples["dataset"].unique())
    return audit(samples, splits, {}, **{"source": "home", "published": published} | settings)


def found(result: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [finding for finding in result["findings"] if finding["kind"] == kind]


def one(result: dict[str, Any], kind: str) -> dict[str, Any]:
    findings = found(result, kind)
    assert len(findings) == 1, result["findings"]
    return findings[0]
