"""Where and when work runs: tasks and their keys, the store, and engines that run jobs.

A step is a function handed in by the caller; the engine knows nothing of images or encoders. A
task's key names its artefact, so resuming is not making what the store has.
"""

from sonobench.engine.choice import EngineName, choose_engine
from sonobench.engine.display import log_to, log_to_console
from sonobench.engine.engine import Engine, EngineError
from sonobench.engine.job import Failure, Job, Resources
from sonobench.engine.local import LocalEngine
from sonobench.engine.progress import Progress
from sonobench.engine.ray_engine import RayEngine
from sonobench.engine.slurm_engine import SlurmEngine
from sonobench.engine.store import ArtefactMissing, Store, StoreError
from sonobench.engine.task import JSON, Task, TaskName
from sonobench.engine.task_list import State, list_as_json, read_list, status
from sonobench.engine.upkeep import garbage, remove, usage

__all__ = [
    "JSON",
    "ArtefactMissing",
    "Engine",
    "EngineError",
    "EngineName",
    "Failure",
    "Job",
    "LocalEngine",
    "Progress",
    "RayEngine",
    "Resources",
    "SlurmEngine",
    "State",
    "Store",
    "StoreError",
    "Task",
    "TaskName",
    "choose_engine",
    "garbage",
    "list_as_json",
    "log_to",
    "log_to_console",
    "read_list",
    "remove",
    "status",
    "usage",
]
