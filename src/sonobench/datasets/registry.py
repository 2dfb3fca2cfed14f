"""From a dataset of a protocol to its cohort: the loaders there are, and what all have to hold."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from sonobench.datasets import african_planes, fetal_planes_db, manifest
from sonobench.datasets.archive import Archive
from sonobench.datasets.cohort import Cohort, DatasetError
from sonobench.datasets.rows import Problems, read_rows, sound
from sonobench.protocol import Dataset
from sonobench.protocol.section import unknown_key
from sonobench.tables import fault_of_class, look_alike, normalized

Loader = Callable[[str, Path], Cohort]

ARCHIVES: dict[str, Archive] = {
    module.ARCHIVE.name: module.ARCHIVE for module in (fetal_planes_db, african_planes)
}
_PUBLISHED: dict[str, Loader] = {
    "fetal_planes_db": fetal_planes_db.load,
    "african_planes": african_planes.load,
}
_ENTRY_POINTS = "sonobench.datasets"
# Columns in which no loader may leave a value out, and those that may be empty.
_NEEDED = ("row", "image_id", "dataset", "path", "label", "patient_id")
_TEXTS = ("label", "patient_id")
_KNOWN = ("site", "device", "operator", "official_split")


def load_cohort(dataset: Dataset, data_root: Path, phantom: Path | None = None) -> Cohort:
    """Read a dataset of a protocol.

    Args:
        dataset: which loader, and where.
        data_root: what relative paths are relative to.
        phantom: folder that `write_phantom` filled; for loader `phantom` only.

    Raises:
        DatasetError: no such loader; metadata missing or wrong, with file and row; not as many
            images or patients as published, and the dataset is not said to be partial, or partial
            and without a single image.
    """
    cohort = _load(dataset, data_root, phantom)
    _refuse_gaps(cohort, dataset.loader)
    # A loader that an installed package brings may have spelled them otherwise.
    named = {column: cohort.samples[column].map(normalized) for column in _TEXTS}
    alike = tuple(map(tuple, look_alike(named["patient_id"].unique())))
    cohort = replace(
        cohort,
        samples=cohort.samples.assign(**named),
        look_alike=alike,
        metadata_sha256=cohort.metadata_sha256 or _sha256(cohort.metadata),
    )
    repeated = cohort.samples[cohort.samples.duplicated("image_id")]
    if len(repeated):
        first = repeated.iloc[0]
        raise DatasetError(
            f"{cohort.metadata}, row {first['row']}: {first['image_id']} stands there twice"
        )
    if dataset.labels is not None:
        cohort = _with_classes(cohort, data_root / dataset.labels)
    if dataset.partial:
        return _those_here(cohort)
    _refuse_incomplete(cohort, ARCHIVES.get(dataset.loader))
    return cohort


def plugin_loaders() -> dict[str, metadata.EntryPoint]:
    """Loaders that installed packages bring, by name."""
    return {entry.name: entry for entry in metadata.entry_points(group=_ENTRY_POINTS)}


def published_loader(archive: Archive) -> Loader:
    """The loader of a published dataset."""
    return _PUBLISHED[archive.name]


@dataclass(frozen=True)
class Here:
    """What of a published dataset is in a data root: images, and what differs from the original."""

    images: int
    remarks: tuple[str, ...]


def here_of(archive: Archive, data_root: Path) -> Here:
    """Compare what is here with what was published."""
    folder = data_root / archive.folder
    if not folder.exists():
        return Here(0, (f"not here: sonobench data fetch {archive.name}",))
    try:
        cohort = published_loader(archive)(archive.name, folder)
    except DatasetError as error:
        return Here(0, (str(error),))
    remarks = []
    images, patients = len(cohort.samples), cohort.samples["patient_id"].nunique()
    if (images, patients) != (archive.images, archive.patients):
        remarks.append(f"{archive.metadata} has {images:,} images of {patients:,} patients")
    if cohort.metadata_sha256 != archive.metadata_sha256:
        remarks.append(f"{archive.metadata} is not byte for byte the published file")
    there = sum(file.is_file() for file in cohort.files())
    if there == 0:
        remarks.append("the metadata are here, no image is")
    elif there < images:
        remarks.append(f"{images - there:,} images are missing; usable with 'partial: true'")
    return Here(there, tuple(remarks))


def _load(dataset: Dataset, data_root: Path, phantom: Path | None) -> Cohort:
    name = dataset.loader
    if name == "manifest":
        return manifest.load(dataset.name, data_root / str(dataset.path))
    if name == "phantom":
        assert phantom is not None
        return manifest.load(dataset.name, phantom / str(dataset.cohort) / "manifest.csv")
    if name in _PUBLISHED:
        folder = data_root / (dataset.path or ARCHIVES[name].folder)
        return _PUBLISHED[name](dataset.name, folder)
    plugins = plugin_loaders()
    if name not in plugins:
        known = ["manifest", "phantom", *_PUBLISHED, *plugins]
        raise DatasetError(unknown_key(name, known).replace("key", "loader", 1))
    loader = plugins[name].load()
    cohort = loader(dataset.name, data_root / (dataset.path or name))
    if not isinstance(cohort, Cohort):
        raise DatasetError(
            f"loader '{name}' ({plugins[name].value}) must return a sonobench.datasets.Cohort, "
            f"found {type(cohort).__name__}"
        )
    return cohort


def _sha256(metadata_file: Path) -> str:
    try:
        return hashlib.sha256(metadata_file.read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"{metadata_file}: cannot be read ({error.strerror})") from None


def _refuse_gaps(cohort: Cohort, loader: str) -> None:
    if absent := [column for column in (*_NEEDED, *_KNOWN) if column not in cohort.samples]:
        raise DatasetError(
            f"{cohort.metadata}: loader '{loader}' must give the columns {', '.join(absent)}"
        )
    for column in _NEEDED:
        rows = cohort.samples[cohort.samples[column].isna()]
        if len(rows):
            raise DatasetError(
                f"{cohort.metadata}, row {rows.iloc[0]['row']}: expected a {column} of every "
                f"image, found none of {len(rows)}; correct the metadata, or loader '{loader}', "
                "which read it"
            )
    for column in _TEXTS:
        other = cohort.samples[~cohort.samples[column].map(lambda value: isinstance(value, str))]
        if len(other):
            raise DatasetError(
                f"{cohort.metadata}, row {other.iloc[0]['row']}: loader '{loader}' must give text "
                f"as {column}, found {other.iloc[0][column]!r}"
            )


def _refuse_incomplete(cohort: Cohort, archive: Archive | None) -> None:
    """Compare metadata with what is published; missing files are told where files are read."""
    images, patients = len(cohort.samples), cohort.samples["patient_id"].nunique()
    counts = [("images", images, cohort.published_images)]
    if archive is not None:
        counts.append(("patients", patients, archive.patients))
    for what, here, published in counts:
        if published is not None and here != published:
            raise DatasetError(
                f"{cohort.metadata}: {here:,} {what}, {published:,} are published. Bring the whole "
                "dataset, or set 'partial: true' of this dataset to use what is here."
            )


def _those_here(cohort: Cohort) -> Cohort:
    here = [file.is_file() for file in cohort.files()]
    if not any(here):
        raise DatasetError(
            f"{cohort.metadata}: none of its {len(here):,} images is there; the first would be "
            f"{cohort.files()[0] if here else 'named in it'}"
        )
    samples = cohort.samples[here].reset_index(drop=True)
    return replace(cohort, samples=samples, published_images=cohort.published_images or len(here))


def _with_classes(cohort: Cohort, file: Path) -> Cohort:
    """The cohort with classes in place of its own labels, which are kept as `source_label`."""
    classes, problems = dict[str, str](), Problems(file)
    for row, value in read_rows(problems, delimiter=",", required=("label", "class")):
        sound(fault_of_class, value["class"], "class", problems, row)
        if not value["class"]:
            problems.add(row, f"label '{value['label']}' has no class")
        elif classes.setdefault(value["label"], value["class"]) != value["class"]:
            problems.add(row, f"label '{value['label']}' has a class already, another one")
    problems.raise_if_any()
    own = cohort.samples["label"]
    unknown = cohort.samples[~own.isin(list(classes))].drop_duplicates("label")
    if len(unknown):
        rows = "; ".join(f"'{s.label}' (row {s.row})" for s in unknown.itertuples())
        raise DatasetError(
            f"{cohort.metadata}: labels that {file} gives no class: {rows}. Add a line for each."
        )
    samples = cohort.samples.assign(label=own.map(classes), source_label=own)
    return replace(cohort, samples=samples)
