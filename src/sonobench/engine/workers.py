"""Processes that make jobs side by side; one that dies takes only its own job with it."""

import math
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from sonobench.engine.display import Display
from sonobench.engine.job import Failure, Job, Outcome
from sonobench.engine.parcel import make, pack
from sonobench.engine.progress import Value
from sonobench.engine.store import Store


@dataclass
class _Worker:
    process: SpawnProcess
    connection: "Connection[Any, Any]"
    devices: tuple[str, ...]
    job: Job | None = None


class Workers:
    """Up to `count` processes; each makes one job at a time and reports through a pipe of its own.

    One pipe each, and not one queue for all, because a process that is killed while it holds a
    queue's lock stops all others, and because the pipe that closes says which job is lost.
    """

    tries = 1  # one that was killed had most likely no memory left, and would have none again

    def __init__(
        self, count: int, store: Store, display: Display, devices: Sequence[str] = ()
    ) -> None:
        self._count = count
        self._store = store
        self._display = display
        self._devices = tuple(devices)
        self._workers: list[_Worker] = []
        self._unsent: list[tuple[Job, Outcome]] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _kill(worker)

    def fits(self, job: Job) -> bool:
        """Whether a worker is idle or missing, and the devices that the job asks for are free."""
        busy = sum(worker.job is not None for worker in self._workers)
        return busy < self._count and self._place(job) is not None

    def start(self, job: Job) -> None:
        """Hand a job to a process that is idle, or to a new one."""
        parcel = pack(job, self._store)
        if isinstance(parcel, Outcome):
            self._unsent.append((job, parcel))
            return
        devices = self._place(job)
        assert devices is not None
        if job.resources.gpus > len(self._devices) > 0:
            text = f"it asks for {job.resources.gpus:g} GPUs, this run has {len(self._devices)}"
            self._unsent.append((job, Outcome(Failure(job.name, text))))
            return
        idle = [w for w in self._workers if w.job is None and w.devices == devices]
        worker = next((worker for worker in idle if worker.process.is_alive()), None)
        if worker is None:
            self._make_room(devices)
            worker = self._spawn(devices)
            self._workers.append(worker)
        worker.job = job
        # A worker that has died meanwhile is noticed by `ended`.
        with suppress(OSError):
            worker.connection.send(parcel)

    def _place(self, job: Job) -> tuple[str, ...] | None:
        """The devices with most room, as many as the job asks for; None while they are taken."""
        if not self._devices:
            return ()
        taken = dict.fromkeys(self._devices, 0.0)
        for worker in self._workers:
            if worker.job is not None:
                for device in worker.devices:
                    taken[device] += min(1.0, worker.job.resources.gpus)
        count = min(len(self._devices), max(1, math.ceil(job.resources.gpus)))
        chosen = sorted(self._devices, key=lambda device: taken[device])[:count]
        share = min(1.0, job.resources.gpus)
        # A hair over: thirds and tenths do not add up to one exactly.
        if any(taken[device] + share > 1.0 + 1e-6 for device in chosen):
            return None
        return tuple(sorted(chosen, key=self._devices.index))

    def _make_room(self, devices: tuple[str, ...]) -> None:
        """End idle workers that keep memory of these devices, for one with other devices."""
        for worker in list(self._workers):
            idle = worker.job is None
            if idle and worker.devices != devices and set(worker.devices) & set(devices):
                self._workers.remove(worker)
                _kill(worker)

    def ended(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """Pass on reports until jobs have ended, or for `timeout` seconds; returns those jobs."""
        ended, self._unsent = self._unsent, []
        busy = [worker for worker in self._workers if worker.job is not None]
        # The sentinel as well as the pipe, whose other end a grandchild may hold open.
        watched = [end for worker in busy for end in (worker.connection, worker.process.sentinel)]
        ready = wait(watched, 0 if ended else timeout)
        for worker in busy:
            if worker.connection in ready or worker.process.sentinel in ready:
                end = self._receive(worker)
                if end is not None:
                    ended.append(end)
        return ended

    def _receive(self, worker: _Worker) -> tuple[Job, Outcome] | None:
        """Pass on what a worker has sent; returns its job and how that ended, if it did."""
        job = worker.job
        assert job is not None
        dead = not worker.process.is_alive()
        try:
            # Of a dead process too, what it had still sent.
            while worker.connection.poll():
                event, value = worker.connection.recv()
                if isinstance(value, Outcome):
                    worker.job = None
                    return job, value
                self._display.report(job, event, value)
        except (EOFError, OSError):
            dead = True
        if not dead:
            return None
        self._workers.remove(worker)
        _kill(worker)
        return job, Outcome(Failure(job.name, _cause_of_death(worker.process.exitcode)))

    def _spawn(self, devices: tuple[str, ...]) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,))
        with _main_hidden(), _visible(devices):
            process.start()
        theirs.close()
        return _Worker(process, ours, devices)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep a new process from running the caller's script once more.

    Spawning imports the main module again, so that a script of three lines, which calls us
    without `if __name__ == "__main__"`, would run in every worker. No job needs it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _visible(devices: tuple[str, ...]) -> Iterator[None]:
    """Let a new process see these CUDA devices alone; all that we see, without any."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    try:
        yield
    finally:
        if devices:
            del os.environ["CUDA_VISIBLE_DEVICES"]
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _kill(worker: _Worker) -> None:
    """End a worker and the processes it has started."""
    assert worker.process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            "its worker process was killed (SIGKILL). If nobody did, the machine ran out of "
            "memory: run again with fewer workers"
        )
    if exit_code == -signal.SIGBUS:
        return (
            "its worker process was killed (SIGBUS): a file that it had mapped into memory was "
            "cut short, or there was no room on the disk for what it wrote there"
        )
    if exit_code is not None and exit_code < 0:
        return f"its worker process was ended by {signal.Signals(-exit_code).name}"
    return f"its worker process ended by itself, with exit status {exit_code}"


class _Outbox:
    """The worker's end of the pipe, for several threads."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, event: str, value: Value | Outcome) -> None:
        with self._lock:
            self._connection.send((event, value))


def _serve(connection: "Connection[Any, Any]") -> None:
    """The life of a worker: make the jobs that come, until the run is over or has died."""
    # A group of its own: Ctrl-C reaches the run alone, which then ends the worker's whole group.
    os.setpgrp()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    outbox = _Outbox(connection)
    while True:
        try:
            parcel = connection.recv()
        except EOFError:
            return
        outbox.send("end", make(parcel, outbox.send))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)
