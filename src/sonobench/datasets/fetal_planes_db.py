"""FETAL_PLANES_DB: 12,400 images of 1,792 patients of Barcelona, in the archive's own layout.

Burgos-Artizzu et al., Sci Rep 10, 10200 (2020), doi 10.5281/zenodo.3904280, CC BY 4.0.
"""

from pathlib import Path

from sonobench.datasets.archive import Archive
from sonobench.datasets.cohort import Cohort, DatasetError
from sonobench.datasets.rows import Problems, filled, inside, one_of, read_rows, samples_of, sound
from sonobench.tables import fault_of_id

ARCHIVE = Archive(
    name="fetal_planes_db",
    title="FETAL_PLANES_DB",
    doi="10.5281/zenodo.3904280",
    record="https://zenodo.org/api/records/3904280",
    file="FETAL_PLANES_ZENODO.zip",
    folder="FETAL_PLANES_DB",
    metadata="FETAL_PLANES_DB_data.csv",
    metadata_sha256="18f8250244dd7ee312b6444fdc5285f4adca47f784d4a68d991464b4a15c3679",
    images=12_400,
    patients=1_792,
    # About 2.1 GB are published; PNG files do not shrink when packed.
    largest_size=4 * 10**9,
    licence="CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)",
    citation="Burgos-Artizzu et al., Evaluation of deep convolutional neural networks for "
    "automatic classification of common maternal fetal ultrasound planes, Scientific Reports 10, "
    "10200 (2020), doi 10.1038/s41598-020-67076-5",
)
_COLUMNS = (
    "Image_name",
    "Patient_num",
    "Plane",
    "Brain_plane",
    "Operator",
    "US_Machine",
    "Train",
)
_REQUIRED = ("Image_name", "Patient_num", "Plane")


def load(name: str, folder: Path) -> Cohort:
    """Read `FETAL_PLANES_DB_data.csv`; images lie in `Images/<Image_name>.png`.

    The published file separates by ';', and its last header and last fields end in a space.
    `Train` is 1 for the published training patients and 0 for the test patients.
    """
    metadata = folder / ARCHIVE.metadata
    if not metadata.is_file():
        raise DatasetError(ARCHIVE.missing(metadata))
    rows, problems = [], Problems(metadata)
    for row, value in read_rows(
        problems, delimiter=";", required=_COLUMNS, file_names=("Image_name",)
    ):
        filled(value, _REQUIRED, problems, row)
        sound(fault_of_id, value["Patient_num"], "Patient_num", problems, row)
        plane = value["Brain_plane"]
        path = inside(f"Images/{value['Image_name']}.png", problems, row)
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
                    value["Train"], {"1": "train", "0": "test"}, "Train", problems, row
                ),
                # Of brain images only: elsewhere there is no such plane to make a subgroup of.
                "brain_plane": None if plane == "Not A Brain" else plane,
                "row": row,
            }
        )
    samples = samples_of(rows, problems)
    return Cohort(
        name,
        folder,
        metadata,
        samples,
        ARCHIVE.images,
        impersonal=("brain_plane",),
        metadata_sha256=problems.sha256,
    )
