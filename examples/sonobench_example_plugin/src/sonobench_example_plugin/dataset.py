"""A hospital that keeps one folder a patient, with files called by their plane."""

from pathlib import Path

import pandas as pd

from sonobench.datasets import Cohort, DatasetError


def load(name: str, folder: Path) -> Cohort:
    """Read `<patient>/<plane>_<number>.png`; whose names a file `patients.txt` lists.

    Args:
        name: of the dataset in the protocol; ids begin with it.
        folder: of the dataset.

    Raises:
        DatasetError: the list is not there, or a patient has no images.
    """
    listed = folder / "patients.txt"
    if not listed.is_file():
        raise DatasetError(f"{listed}: not there; it lists the patients, one a line")
    rows = []
    for row, patient in enumerate(listed.read_text(encoding="utf-8").splitlines(), 1):
        images = sorted((folder / patient).glob("*_*.png"))
        if not images:
            raise DatasetError(f"{listed}, row {row}: patient '{patient}' has no images")
        for image in images:
            path = image.relative_to(folder).as_posix()
            rows.append(
                {
                    "image_id": f"{name}/{path}",
                    "dataset": name,
                    "path": path,
                    "label": image.stem.split("_")[0],
                    "patient_id": f"{name}/{patient}",
                    "site": None,
                    "device": None,
                    "operator": None,
                    "official_split": None,
                    "row": row,
                }
            )
    return Cohort(name, folder, listed, pd.DataFrame(rows))
