"""How every engine runs jobs: the plan's order, driven through a pool of places to run them."""

import logging
import os
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol

from sonobench.engine.display import Display
from sonobench.engine.job import Failure, Job, Outcome, Resources
from sonobench.engine.plan import Plan
from sonobench.engine.store import Store

_logger = logging.getLogger("sonobench")

# Seconds until a job that another process holds is looked at again.
_RETRY = 0.2
# How often a run makes anew what it finds damaged, at most.
_REPAIRS = 5


class EngineError(Exception):
    """An engine cannot start: what it needs is not installed or not there."""


class Pool(Protocol):
    """Places where jobs run."""

    tries: int
    """How often a job is tried whose place was lost under it."""

    def fits(self, job: Job) -> bool:
        """Whether the job can be started now."""

    def start(self, job: Job) -> None:
        """Begin a job."""

    def ended(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """Wait up to `timeout` seconds for jobs to end; returns those that did."""


class Engine(ABC):
    """Runs jobs; where is what its pool says.

    Args:
        store: where artefacts are looked for and put.

    Attributes:
        jobs: every job that it was given.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.jobs: list[Job] = []

    def run(self, jobs: Sequence[Job]) -> list[Failure]:
        """Make what is missing of `jobs`, in the order that their needs ask for.

        A job that fails does not stop the others; those without what they need are skipped. A
        job that another process is making is waited for, after the others. What a job finds
        damaged of what these jobs make is made anew at the end, and then the job.

        Returns:
            The jobs that failed or were skipped; none when everything is in the store.

        Raises:
            ValueError: the jobs make no sense together (see `Plan`).
            EngineError: there is nowhere to run them.
            KeyboardInterrupt: running jobs are stopped, the store is whole.
        """
        plan = Plan(jobs, self.store)
        self.jobs += jobs
        with Display(len(jobs)) as display, _safe_path():
            try:
                with self._pool(display) as pool:
                    failures = self._drive(jobs, plan, pool, display)
            finally:
                self.store.remove_leftovers()
            failed = len(failures)
            made = len(jobs) - plan.present - failed
            _logger.info(
                f"{len(jobs):,} jobs: {plan.present:,} were done before, {made:,} done now, "
                f"{failed:,} failed or skipped"
            )
        return list(failures.values())

    def _drive(
        self, jobs: Sequence[Job], plan: Plan, pool: Pool, display: Display
    ) -> dict[str, Failure]:
        """Take jobs by their plan through a pool; what is found damaged meanwhile is made anew."""
        drive(plan, pool, display, self.store)
        failures = plan.failures
        # Of jobs that need each other's artefacts one is found after the other. A disk that spoils
        # whatever is written to it must not keep a run for ever.
        for _ in range(_REPAIRS):
            if not (again := plan.to_run_again()):
                break
            # Not those that failed for another reason: they would do so again.
            failures = {name: one for name, one in failures.items() if name not in again}
            left = [job for job in jobs if job.name not in failures]
            plan = Plan(left, self.store)
            plan.ended = len(failures)
            drive(plan, pool, display, self.store)
            failures |= plan.failures
        return failures

    @abstractmethod
    def _pool(self, display: Display) -> AbstractContextManager[Pool]:
        """Where jobs run while the block does."""


@contextmanager
def _safe_path() -> Iterator[None]:
    """Python processes that are started do not look for modules in the working directory first.

    A worker imports much before it knows its job; a `pickle.py` in a folder of somebody's images
    would run. What this process finds there a worker finds too, after all else.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


class _Queue:
    """Jobs that can start, first come first served among those that ask for the same."""

    def __init__(self) -> None:
        self._lines: dict[tuple[Resources, str], deque[tuple[int, Job]]] = {}
        self._came = 0
        self._measured: dict[str, float] = {}

    def put(self, job: Job) -> None:
        line = self._lines.setdefault((job.resources, job.alike), deque())
        line.append((self._came, job))
        self._came += 1

    def learn(self, job: Job, outcome: Outcome) -> None:
        """Remember how much of a device a job took, for those that are like it."""
        if job.alike and outcome.device_share is not None:
            known = self._measured.get(job.alike, 0.0)
            self._measured[job.alike] = max(known, outcome.device_share)

    def start(self, pool: Pool) -> None:
        """Start what fits; a large job at the head does not keep small ones waiting."""
        for line in sorted(filter(None, self._lines.values()), key=lambda line: line[0][0]):
            while line and pool.fits(job := self._as_measured(line[0][1])):
                line.popleft()
                pool.start(job)

    def _as_measured(self, job: Job) -> Job:
        share = self._measured.get(job.alike)
        if share is None:
            return job
        return replace(job, resources=replace(job.resources, gpus=share))


def drive(plan: Plan, pool: Pool, display: Display, store: Store) -> None:
    """Take a plan's jobs through a pool until all have ended."""
    queue = _Queue()
    held: list[tuple[float, Job]] = []
    tries: Counter[str] = Counter()

    def end(job: Job, failure: Failure | None = None) -> None:
        if failure is not None:
            store.record_failure(job.tasks, failure.error)
            # Where the job ran, what it needs may have been found damaged.
            store.look_again(job.needs)
        if failure is not None and plan.makers_of_lost(job):
            display.spoilt(job)
        else:
            display.end(job, failure)
        plan.end(job, failure)

    while True:
        for job in plan.take():
            queue.put(job)
        display.ended(plan.ended)
        if not plan.active:
            return
        now = time.monotonic()
        due, held = [job for when, job in held if when <= now], [h for h in held if h[0] > now]
        for job in due:
            if all(store.has(task) for task in job.tasks):
                end(job)
            elif any(store.is_claimed(task) for task in job.tasks):
                held.append((now + _RETRY, job))
            else:
                queue.put(job)
        queue.start(pool)
        for job, outcome in pool.ended(_RETRY):
            tries[job.name] += 1
            queue.learn(job, outcome)
            if outcome.claimed_elsewhere:
                tries[job.name] -= 1
                display.wait(job)
                held.append((time.monotonic() + _RETRY, job))
            elif outcome.lost and tries[job.name] < pool.tries:
                assert outcome.failure is not None
                display.lost(job, outcome.failure)
                queue.put(job)
            else:
                end(job, outcome.failure)
