"""Tiny real hospitals: folders of real PNG files with a manifest."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

CLASSES = ("abdomen", "brain", "femur")


WriteProtocol = Callable[..., Path]


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
