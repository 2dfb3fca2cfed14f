"""The African set: 450 images of five centres, in the archive's own layout.

Sendra-Balcells et al., Sci Rep 13, 2728 (2023), doi 10.5281/zenodo.7540448, CC BY 4.0.
"""

from pathlib import Path

from sonobench.datasets.archive import Archive
from sonobench.datasets.cohort import Cohort, DatasetError
from sonobench.datasets.rows import Problems, filled, inside, one_of, read_rows, samples_of, sound
from sonobench.tables import fault_of_id

ARCHIVE = Archive(
    name="african_planes",
    title="African fetal planes of five centres",
    doi="10.5281/zenodo.7540448",
    record="https://zenodo.org/api/records/7540448",
    file="Zenodo_dataset.tar.xz",
    folder="Zenodo_dataset",
    metadata="African_planes_database.csv",
    metadata_sha256="ae45d482b49bb46e4d3f04e8c0f6f37d092149c530a404979b68f417c20fa4a1",
    images=450,
    patients=127,
    # About 41 MB are published; PNG files do not shrink when packed.
    largest_size=200 * 10**6,
    licence="CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)",
    citation="Sendra-Balcells et al., Generalisability of fetal ultrasound deep learning models "
    "to low-resource imaging settings in five African countries, Scientific Reports 13, 2728 "
    "(2023), doi 10.1038/s41598-023-29490-3",
)
_COLUMNS = ("Patient_num", "Plane", "Train", "Center", "Filename")
_REQUIRED = ("Patient_num", "Plane", "Center", "Filename")


def load(name: str, folder: Path) -> Cohort:
    """Read `African_planes_database.csv`; images lie in `<Center>/<Filename>.png`.

    Patient numbers restart in each country, so a patient is (centre, number). `Train` is 1 for
    the published training part; that split leaks (images shared between its halves), and nothing
    is trained on this cohort here.
    """
    metadata = folder / ARCHIVE.metadata
    if not metadata.is_file():
        raise DatasetError(ARCHIVE.missing(metadata))
    rows, problems = [], Problems(metadata)
    for row, value in read_rows(
        problems, delimiter=",", required=_COLUMNS, file_names=("Filename",)
    ):
        filled(value, _REQUIRED, problems, row)
        sound(fault_of_id, value["Patient_num"], "Patient_num", problems, row)
        path = inside(f"{value['Center']}/{value['Filename']}.png", problems, row)
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
                    value["Train"], {"1": "train", "0": "test"}, "Train", problems, row
                ),
                "row": row,
            }
        )
    samples = samples_of(rows, problems)
    return Cohort(name, folder, metadata, samples, ARCHIVE.images, metadata_sha256=problems.sha256)
