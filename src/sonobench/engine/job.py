"""What an engine runs: a function and the tasks it makes."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sonobench.engine.progress import Progress, Report
from sonobench.engine.store import Store
from sonobench.engine.task import Task

Step: TypeAlias = Callable[[Sequence[Task], Store, Progress], None]


@dataclass(frozen=True)
class Resources:
    """What a job asks of the machine that runs it; it changes no result.

    Attributes:
        cpus: threads that it keeps busy.
        gpus: CUDA devices; less than one is a share of one, used beside other jobs.
        memory_gb: of main memory, at most; Slurm only.
        hours: it takes at most; Slurm only.
    """

    cpus: int = 1
    gpus: float = 0.0
    memory_gb: float = 8.0
    hours: float = 1.0


@dataclass(frozen=True)
class Job:
    """Tasks that one call makes, because they share work: one decoding, one loaded encoder.

    Attributes:
        name: what people see; unique in a run.
        tasks: what it makes; tens, not thousands, since all are claimed while it runs.
        function: makes the tasks it is handed (only those that are missing) through
            `store.write`, publishing each as it finishes. For workers it must be picklable: a
            function of a module, or a `functools.partial` of one.
        needs: artefacts that must be there first.
        total: how many units of work all of its tasks are, for the progress.
        unit: what is counted ("images", "folds").
        resources: what it asks of the machine that runs it.
        alike: jobs with the same text here, unless empty, take as much of a device as each other.
            What one of them took is what those that start later are given (Slurm gives whole ones).
    """

    name: str
    tasks: tuple[Task, ...]
    function: Step
    needs: tuple[Task, ...] = ()
    total: int = 1
    unit: str = "steps"
    resources: Resources = Resources()
    alike: str = ""

    @property
    def kind(self) -> str:
        """Of its first task, for people and for the queues of a cluster."""
        return self.tasks[0].kind


@dataclass(frozen=True)
class Failure:
    """A job that did not make all of its tasks.

    Attributes:
        job: its name.
        error: what went wrong, in one line or a few.
        traceback: where, when an exception ended it.
        because_of: the job whose failure left this one without what it needs.
    """

    job: str
    error: str
    traceback: str = ""
    because_of: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a job ended: made, failed, or left to another process that is at it.

    Attributes:
        failure: why it was not made.
        lost: the failure is that of the place where it ran, so that another try makes sense.
        claimed_elsewhere: another process is making it.
        device_share: how much of a device's memory it took, 0 … 1, where it has told.
    """

    failure: Failure | None = None
    lost: bool = False
    claimed_elsewhere: bool = False
    device_share: float | None = None


def attempt(job: Job, store: Store, report: Report) -> Outcome:
    """Make what is missing of a job, in this process. Engines call it wherever they run jobs."""
    try:
        missing = [task for task in job.tasks if not store.has(task)]
        if not missing:
            return Outcome()
        with store.claim(missing) as claimed:
            if not claimed:
                return Outcome(claimed_elsewhere=True)
            # Another process may have made some between the look and the claim.
            missing = [task for task in missing if not store.has(task)]
            with store.naming_damage(job.needs):
                share = _make(job, missing, store, report) if missing else None
    except Exception as error:
        # Errors of this package are sentences for people; of others the type says something too.
        ours = type(error).__module__.split(".")[0] == "sonobench"
        text = str(error) if ours else "".join(traceback.format_exception_only(error)).strip()
        return Outcome(Failure(job.name, text, traceback.format_exc()))
    return Outcome(device_share=share)


def _make(job: Job, missing: Sequence[Task], store: Store, report: Report) -> float | None:
    """Make tasks; how much of a device that took, where the job tells."""
    report("begin", max(1, round(job.total * len(missing) / len(job.tasks))))
    progress = Progress(report)
    job.function(missing, store, progress)
    progress.flush()
    for task in missing:
        if not store.has(task):
            raise RuntimeError(f"it ended without error, but did not make {task.kind} {task.key}")
    return progress.device_share
