"""The African set: 450 images of five centres, in the archive's own layout.

Sendra-Balcells et al., Sci Rep 13, 2728 (2023), doi 10.5281/zenodo.7540448, CC BY 4.0.
"""

from pathlib import Path

import pandas as pd

from sonobench.datasets.cohort import Cohort, DatasetError, one_of, read_rows

FOLDER = "Zenodo_dataset"
METADATA = "African_planes_database.csv"
_COLUMNS = ("Patient_num", "Plane", "Train", "Center", "Filename")


def load(name: str, folder: Path) -> Cohort:
    """Read `African_planes_database.csv`; images lie in `<Center>/<Filename>.png`.

    Patient numbers restart in each country, so a patient is (centre, number). `Train` is 1 for
    the published training part; that split leaks (images shared between its halves), and nothing
    is trained on this cohort here.
    """
    metadata = folder / METADATA
    if not metadata.is_file():
        raise DatasetError(
            f"{metadata}: not there. Unpack Zenodo_dataset.tar.xz (doi 10.5281/zenodo.7540448) "
            f"into the data root, so that it makes the folder {FOLDER}."
        )
    rows = []
    for row, value in read_rows(metadata, delimiter=",", required=_COLUMNS):
        path = f"{value['Center']}/{value['Filename']}.png"
        rows.append(
            {
                "image_id": f"{name}/{path}",
                "dataset": name,
                "path": path,
                "label": value["Plane"],
                "patient_id": f"{name}/{value['Center']}/{value['Patient_num']}",
                "site": value["Center"],
                "device": None,
                "operator": None,
                "official_split": one_of(
                    value["Train"], {"1": "train", "0": "test"}, "Train", metadata, row
                ),
                "row": row,
            }
        )
    return Cohort(name, folder, metadata, pd.DataFrame(rows))
