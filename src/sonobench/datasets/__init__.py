"""Who was scanned: one module a dataset, the phantom, subjects, splits and the audit.

A loader returns a `Cohort`: its samples before decoding. Subjects and splits are made from all
cohorts together, once the pixels are known.
"""

from pathlib import Path

from sonobench.datasets import african_planes, fetal_planes_db, manifest
from sonobench.datasets.audit import audit
from sonobench.datasets.cohort import Cohort, DatasetError
from sonobench.datasets.phantom import write_phantom
from sonobench.datasets.splits import make_splits
from sonobench.datasets.subjects import duplicate_groups, merge_subjects, refuse_conflicts
from sonobench.protocol import Dataset

__all__ = [
    "Cohort",
    "DatasetError",
    "audit",
    "duplicate_groups",
    "load_cohort",
    "make_splits",
    "merge_subjects",
    "refuse_conflicts",
    "write_phantom",
]


def load_cohort(dataset: Dataset, data_root: Path, phantom: Path | None = None) -> Cohort:
    """Read a dataset of a protocol.

    Args:
        dataset: which loader, and where.
        data_root: what relative paths are relative to.
        phantom: folder that `write_phantom` filled; for loader `phantom` only.

    Raises:
        DatasetError: files missing or wrong, with file and row.
    """
    if dataset.loader == "manifest":
        return manifest.load(dataset.name, data_root / str(dataset.path))
    if dataset.loader == "phantom":
        assert phantom is not None
        return manifest.load(dataset.name, phantom / str(dataset.cohort) / "manifest.csv")
    if dataset.loader == "fetal_planes_db":
        folder = data_root / (dataset.path or fetal_planes_db.FOLDER)
        return fetal_planes_db.load(dataset.name, folder)
    return african_planes.load(dataset.name, data_root / (dataset.path or african_planes.FOLDER))
