"""The engine of one machine: jobs in this process or in several beside it."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

from sonobench.engine.display import Display
from sonobench.engine.job import Failure, Job, Outcome, attempt
from sonobench.engine.plan import Plan
from sonobench.engine.store import Store
from sonobench.engine.workers import Workers

_logger = logging.getLogger("sonobench")

# Seconds until a job that another process holds is tried again.
_RETRY = 0.2


class _Pool(Protocol):
    @property
    def free(self) -> int:
        """How many more jobs can start now."""

    def start(self, job: Job) -> None:
        """Begin a job."""

    def ended(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """Wait up to `timeout` seconds for jobs to end; returns those that did."""


class _ThisProcess:
    """One job at a time, where the caller is."""

    def __init__(self, store: Store, display: Display) -> None:
        self._store = store
        self._display = display
        self._ended: list[tuple[Job, Outcome]] = []

    @property
    def free(self) -> int:
        return 1 - len(self._ended)

    def start(self, job: Job) -> None:
        outcome = attempt(job, self._store, partial(self._display.report, job))
        self._ended.append((job, outcome))

    def ended(self, timeout: float) -> list[tuple[Job, Outcome]]:
        if not self._ended:
            time.sleep(timeout)
        ended, self._ended = self._ended, []
        return ended


class LocalEngine:
    """Runs jobs on this machine.

    Args:
        store: where artefacts are looked for and put.
        workers: how many jobs run side by side; 1 runs them in this process.
    """

    def __init__(self, store: Store, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"expected at least one worker, found {workers}")
        self._store = store
        self._workers = workers

    def run(self, jobs: Sequence[Job]) -> list[Failure]:
        """Make what is missing of `jobs`, in the order that their needs ask for.

        A job that fails does not stop the others; those without what they need are skipped. A
        job that another process is making is waited for, after the others.

        Returns:
            The jobs that failed or were skipped; none when everything is in the store.

        Raises:
            ValueError: the jobs make no sense together (see `Plan`).
            KeyboardInterrupt: the workers are stopped, the store is whole.
        """
        plan = Plan(jobs, self._store)
        with Display(len(jobs)) as display:
            try:
                with self._pool(display) as pool:
                    _drive(plan, pool, display)
            finally:
                self._store.remove_leftovers()
            failed = len(plan.failures)
            made = len(jobs) - plan.present - failed
            _logger.info(
                f"{len(jobs):,} jobs: {plan.present:,} were done before, {made:,} done now, "
                f"{failed:,} failed or skipped"
            )
        return list(plan.failures.values())

    def _pool(self, display: Display) -> AbstractContextManager[_Pool]:
        if self._workers == 1:
            return nullcontext(_ThisProcess(self._store, display))
        return Workers(self._workers, self._store, display)


def _drive(plan: Plan, pool: _Pool, display: Display) -> None:
    queue: list[Job] = []
    not_before: dict[str, float] = {}
    while True:
        queue += plan.take()
        display.ended(plan.ended)
        if not plan.active:
            return
        now = time.monotonic()
        due = [job for job in queue if not_before.get(job.name, now) <= now]
        for job in due[: pool.free]:
            queue.remove(job)
            pool.start(job)
        for job, outcome in pool.ended(_RETRY):
            if outcome.claimed_elsewhere:
                display.wait(job)
                not_before[job.name] = time.monotonic() + _RETRY
                queue.append(job)
            else:
                display.end(job, outcome.failure)
                plan.end(job, outcome.failure)
