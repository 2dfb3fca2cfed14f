"""Where and when work runs: tasks and their keys, the store, and engines that run jobs.

A step is a function handed in by the caller; the engine knows nothing of images or encoders. A
task's key names its artefact, so resuming is not making what the store has.
"""

from sonobench.engine.display import log_to, log_to_console
from sonobench.engine.job import Failure, Job
from sonobench.engine.local import LocalEngine
from sonobench.engine.progress import Progress
from sonobench.engine.store import ArtefactMissing, Store, StoreError
from sonobench.engine.task import JSON, Task

__all__ = [
    "JSON",
    "ArtefactMissing",
    "Failure",
    "Job",
    "LocalEngine",
    "Progress",
    "Store",
    "StoreError",
    "Task",
    "log_to",
    "log_to_console",
]
