"""Two small cohorts and what a few models say of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from sonobench.evaluation import EvaluationSettings

CLASSES = ("brain", "femur", "other")
FOLDS = 3


@dataclass(frozen=True)
class Tables:
    predictions: pd.DataFrame
    samples: pd.DataFrame
    settings: EvaluationSettings


def _samples() -> pd.DataFrame:
    """12 home subjects with all three classes; 10 abroad, at two sites, without class other."""
    rows = [
        (dataset, f"{dataset}/{subject:02d}", f"{dataset}/{subject:02d}_{k}", label, site)
        for dataset, subjects, labels in (("home", 12, CLASSES), ("abroad", 10, CLASSES[:2]))
        for subject in range(subjects)
        for site in (("north", "south")[subject % 2],)
        # Subjects differ in their number of images: 3, 4 or 5.
        for k, label in enumerate((labels * 3)[: 3 + subject % 3])
    ]
    samples = pd.DataFrame(rows, columns=["dataset", "subject_id", "image_id", "label", "site"])
    return samples.assign(
        path=samples["image_id"] + ".png",
        pixel_sha256="hash of " + samples["image_id"],
        patient_id=samples["subject_id"],
        device="",
        operator="",
        official_split="",
    )


def _predictions(
    samples: pd.DataFrame, encoders: tuple[str, ...], seeds: tuple[int, ...], cross_validation: bool
) -> pd.DataFrame:
    generator = np.random.default_rng(7)
    true = samples["label"].map(CLASSES.index).to_numpy()
    is_home = (samples["dataset"] == "home").to_numpy()
    fold_of = samples["subject_id"].str[-2:].astype(int).to_numpy() % FOLDS
    parts = []
    for encoder in encoders:
        for fold in range(FOLDS):
            for seed in seeds:
                logits = generator.normal(size=(len(samples), len(CLASSES))).astype(np.float32)
                logits[np.arange(len(samples)), true] += 1
                tested = ~is_home | (fold_of == fold) if cross_validation else is_home | ~is_home
                part = samples[["dataset", "image_id", "subject_id", "label"]].assign(
                    encoder=encoder,
                    adaptation="linear_probe",
                    role=np.where(is_home, "test", "external"),
                    fold=fold,
                    seed=seed,
                    logits=list(logits),
                )
                parts.append(part[tested])
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def make_tables() -> Callable[..., Tables]:
    def make(
        encoders: tuple[str, ...] = ("net", "twin"),
        seeds: tuple[int, ...] = (0,),
        estimand: Literal["held_out", "cross_validation"] = "held_out",
    ) -> Tables:
        samples = _samples()
        return Tables(
            _predictions(samples, encoders, seeds, estimand == "cross_validation"),
            samples,
            EvaluationSettings(
                classes=CLASSES,
                source="home",
                declared={"abroad": CLASSES[:2]},
                estimand=estimand,
                bootstrap_draws=200,
            ),
        )

    return make
