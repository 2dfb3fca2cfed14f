"""The engine of one machine: jobs in this process or in several beside it."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from sonobench.engine.display import Display
from sonobench.engine.engine import Engine, Pool
from sonobench.engine.job import Job, Outcome, attempt
from sonobench.engine.store import Store
from sonobench.engine.workers import Workers


class _ThisProcess:
    """One job at a time, where the caller is."""

    tries = 1

    def __init__(self, store: Store, display: Display) -> None:
        self._store = store
        self._display = display
        self._ended: list[tuple[Job, Outcome]] = []

    def fits(self, job: Job) -> bool:  # noqa: ARG002
        return not self._ended

    def start(self, job: Job) -> None:
        outcome = attempt(job, self._store, partial(self._display.report, job))
        self._ended.append((job, outcome))

    def ended(self, timeout: float) -> list[tuple[Job, Outcome]]:
        if not self._ended:
            time.sleep(timeout)
        ended, self._ended = self._ended, []
        return ended


class LocalEngine(Engine):
    """Runs jobs on this machine.

    Args:
        store: where artefacts are looked for and put.
        workers: how many jobs run side by side; 1 runs them in this process.
        devices: CUDA devices that several workers share, each job as many as it asks for.
    """

    def __init__(self, store: Store, workers: int, devices: Sequence[str] = ()) -> None:
        super().__init__(store)
        if workers < 1:
            raise ValueError(f"expected at least one worker, found {workers}")
        self._workers = workers
        self._devices = tuple(devices)

    def _pool(self, display: Display) -> AbstractContextManager[Pool]:
        if self._workers == 1:
            return nullcontext(_ThisProcess(self.store, display))
        return Workers(self._workers, self.store, display, self._devices)
