"""Tiny real hospitals: folders of real PNG files with a manifest, and benchmarks on them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import sonobench

CLASSES = ("abdomen", "brain", "femur")


WriteProtocol = Callable[..., Path]

# In this process: starting workers costs more than these tiny tasks.
run_tiny = partial(sonobench.run, workers=1)


def write_hospital(
    folder: Path,
    *,
    patients: int = 10,
    classes: tuple[str, ...] = CLASSES,
    sites: tuple[str, ...] = ("north",),
    published_split: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """One image a patient and class: a bright bar whose position is the class, on speckle."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for patient in range(patients):
        site = sites[patient % len(sites)]
        for position, label in enumerate(classes):
            pixels = rng.rayleigh(30, (40, 48))
            pixels[6 + 10 * position : 12 + 10 * position] += rng.uniform(20, 120)
            path = f"images/{patient:03d}_{rng.integers(10**6):06d}.png"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / path)
            row = {"path": path, "label": label, "patient_id": f"p{patient:03d}", "site": site}
            if published_split:
                row["split"] = "test" if patient % 3 == 2 else "train"
            rows.append(row)
    manifest = pd.DataFrame(rows)
    manifest.to_csv(folder / "manifest.csv", index=False)
    return manifest


# For engines: every job may be a process that imports everything, so few of them.
PROBED_AND_FINETUNED = {
    "external": [],
    "encoders": [
        {"name": "pixel_stats", "adaptations": ["linear_probe"]},
        {"name": "random:timm:test_efficientnet", "adaptations": ["full_finetune"]},
    ],
    "adaptations": {
        "linear_probe": {},
        "full_finetune": {"epochs": 2, "batch_size": 4, "micro_batch": 4, "warmup_epochs": 0},
    },
}


def bytes_of_results(run: Path) -> dict[str, bytes]:
    """Content of a run's results and of all its predictions, by name."""
    files = [run / "results.csv", *(run / "predictions").iterdir()]
    return {file.name: file.read_bytes() for file in files}


def macro_f1(run: sonobench.Run, **where: str) -> float:
    chosen = run.results
    usual = {"label_space": "open", "images": "all", "subgroup": "all", "metric": "macro_f1"}
    where = usual | {"aggregate": "mean_of_folds", "calibration": "none"} | where
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1
    return float(chosen["estimate"].iloc[0])


def edit(hospitals: Path, cohort: str = "home") -> pd.DataFrame:
    return pd.read_csv(hospitals / cohort / "manifest.csv", dtype=str)


def refused(protocol: Path, out: Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run_tiny(protocol, out)
