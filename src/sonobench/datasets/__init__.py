"""Who was scanned: one module a dataset, the phantom, subjects, splits and the audit.

A loader returns a `Cohort`: its samples before decoding. Subjects and splits are made from all
cohorts together, once the pixels are known.
"""

from sonobench.datasets.archive import Archive
from sonobench.datasets.audit import SEVERITIES, Finding, audit, spellings
from sonobench.datasets.cohort import Cohort, DatasetError
from sonobench.datasets.phantom import write_phantom
from sonobench.datasets.pseudonyms import pseudonym_key, pseudonymised
from sonobench.datasets.registry import ARCHIVES, load_cohort, plugin_loaders
from sonobench.datasets.splits import make_splits
from sonobench.datasets.subjects import (
    Merging,
    duplicate_groups,
    make_subjects,
    merge_subjects,
    refuse_conflicts,
    refuse_duplicates,
)

__all__ = [
    "ARCHIVES",
    "SEVERITIES",
    "Archive",
    "Cohort",
    "DatasetError",
    "Finding",
    "Merging",
    "audit",
    "duplicate_groups",
    "load_cohort",
    "make_splits",
    "make_subjects",
    "merge_subjects",
    "plugin_loaders",
    "pseudonym_key",
    "pseudonymised",
    "refuse_conflicts",
    "refuse_duplicates",
    "spellings",
    "write_phantom",
]
