"""Which jobs can start, given what is in the store and what has ended."""

import logging
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from sonobench.engine.job import Failure, Job
from sonobench.engine.store import Store
from sonobench.engine.task import Task

_logger = logging.getLogger(__name__)


class Plan:
    """The order of a run's jobs; each engine drives one through its jobs.

    Attributes:
        failures: the jobs that failed or were skipped, by name, in the order in which they did.
        present: how many jobs had nothing to do.
        ended: how many jobs have ended, whichever way.

    Raises:
        ValueError: two jobs have one name or make one task, or jobs need each other in a circle.
    """

    def __init__(self, jobs: Sequence[Job], store: Store) -> None:
        self.failures: dict[str, Failure] = {}
        self.present = 0
        self.ended = 0
        self._store = store
        self._lost: dict[str, set[str]] = {}
        self._jobs: dict[str, Job] = {}
        self._makers: dict[Task, str] = {}
        for job in jobs:
            if job.name in self._jobs:
                raise ValueError(f"two jobs have the name {job.name!r}")
            self._jobs[job.name] = job
            for task in job.tasks:
                maker = self._makers.setdefault(task, job.name)
                if maker != job.name:
                    raise ValueError(f"both {maker!r} and {job.name!r} make {task}")
        self._order = TopologicalSorter(
            {
                job.name: [self._makers[need] for need in job.needs if need in self._makers]
                for job in jobs
            }
        )
        try:
            self._order.prepare()
        except CycleError as error:
            raise ValueError(f"jobs need each other: {' → '.join(error.args[1])}") from None

    @property
    def active(self) -> bool:
        """Whether some job has not ended."""
        return self._order.is_active()

    def take(self) -> list[Job]:
        """Jobs that can start and were not taken before.

        Ended without being taken: jobs of which nothing is missing, and those that cannot have
        what they need (which go to `failures`).
        """
        startable = []
        while names := self._order.get_ready():
            for name in names:
                job = self._jobs[name]
                if all(self._store.has(task) for task in job.tasks):
                    self.present += 1
                    self.end(job)
                elif lacking := [need for need in job.needs if not self._store.has(need)]:
                    failure = self._skipped(job, lacking[0])
                    _logger.warning("%s: %s", job.name, failure.error)
                    self.end(job, failure)
                else:
                    startable.append(job)
        return startable

    def end(self, job: Job, failure: Failure | None = None) -> None:
        """Say that a job has ended, and how."""
        if failure is not None:
            self.failures[job.name] = failure
            if makers := self.makers_of_lost(job):
                self._lost[job.name] = makers
        self.ended += 1
        self._order.done(job.name)

    def makers_of_lost(self, job: Job) -> set[str]:
        """Jobs of this plan that did make what a job needs, where it is gone: it was damaged."""
        gone = [need for need in job.needs if need in self._makers and not self._store.has(need)]
        return {self._makers[need] for need in gone} - self.failures.keys()

    def to_run_again(self) -> set[str]:
        """Jobs that failed for want of what was damaged, those that make it, and those skipped."""
        again = set(self._lost).union(*self._lost.values())
        return again | {name for name, each in self.failures.items() if each.because_of in again}

    def _skipped(self, job: Job, need: Task) -> Failure:
        maker = self._makers.get(need)
        if maker is None:
            return Failure(
                job.name,
                f"it needs {need.kind} {need.key}, which is not in the store and no job makes",
            )
        failed = self.failures.get(maker)
        cause = failed.because_of or maker if failed else maker
        return Failure(job.name, f"skipped, because {cause!r} failed", because_of=cause)
