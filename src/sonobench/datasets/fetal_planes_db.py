"""FETAL_PLANES_DB: 12,400 images of 1,792 patients of Barcelona, in the archive's own layout.

Burgos-Artizzu et al., Sci Rep 10, 10200 (2020), doi 10.5281/zenodo.3904280, CC BY 4.0.
"""

from pathlib import Path

import pandas as pd

from sonobench.datasets.cohort import Cohort, DatasetError, one_of, read_rows

FOLDER = "FETAL_PLANES_DB"
METADATA = "FETAL_PLANES_DB_data.csv"
_COLUMNS = (
    "Image_name",
    "Patient_num",
    "Plane",
    "Brain_plane",
    "Operator",
    "US_Machine",
    "Train",
)


def load(name: str, folder: Path) -> Cohort:
    """Read `FETAL_PLANES_DB_data.csv`; images lie in `Images/<Image_name>.png`.

    The published file separates by ';', and its last header and last fields end in a space.
    `Train` is 1 for the published training patients and 0 for the test patients.
    """
    metadata = folder / METADATA
    if not metadata.is_file():
        raise DatasetError(
            f"{metadata}: not there. Unpack FETAL_PLANES_ZENODO.zip (doi 10.5281/zenodo.3904280) "
            f"into the folder {FOLDER} of the data root."
        )
    rows = []
    for row, value in read_rows(metadata, delimiter=";", required=_COLUMNS):
        path = f"Images/{value['Image_name']}.png"
        rows.append(
            {
                "image_id": f"{name}/{path}",
                "dataset": name,
                "path": path,
                "label": value["Plane"],
                "patient_id": f"{name}/Barcelona/{value['Patient_num']}",
                "site": "Barcelona",
                "device": value["US_Machine"],
                "operator": value["Operator"],
                "official_split": one_of(
                    value["Train"], {"1": "train", "0": "test"}, "Train", metadata, row
                ),
                "brain_plane": value["Brain_plane"],
                "row": row,
            }
        )
    return Cohort(name, folder, metadata, pd.DataFrame(rows))
