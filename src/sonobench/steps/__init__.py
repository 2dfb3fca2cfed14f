"""The steps of a benchmark as jobs: which task makes what from what, and the code that does it.

A step's `version` rises when its result changes; then its artefacts are made anew.
"""

from sonobench.steps.cohorts import THUMBNAIL, decode_job, index_task, pack_task, phantom_job
from sonobench.steps.common import digest, micro_batch
from sonobench.steps.features import certificate_job, embed_jobs, given_embeddings_job
from sonobench.steps.finetuning import (
    PackedCohort,
    finetune_jobs,
    learning_rate_search,
)
from sonobench.steps.label_efficiency import curve_job, splits_of_fewer
from sonobench.steps.training import AdaptedTasks, majority_job, probe_job, read_adapted

__all__ = [
    "THUMBNAIL",
    "AdaptedTasks",
    "PackedCohort",
    "certificate_job",
    "curve_job",
    "decode_job",
    "digest",
    "embed_jobs",
    "finetune_jobs",
    "given_embeddings_job",
    "index_task",
    "learning_rate_search",
    "majority_job",
    "micro_batch",
    "pack_task",
    "phantom_job",
    "probe_job",
    "read_adapted",
    "splits_of_fewer",
]
