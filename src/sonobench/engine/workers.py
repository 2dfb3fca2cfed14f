"""Processes that make jobs side by side; one that dies takes only its own job with it."""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from sonobench.engine.display import Display
from sonobench.engine.job import Failure, Job, Outcome, attempt
from sonobench.engine.store import Store

_logger = logging.getLogger("sonobench")


@dataclass
class _Worker:
    process: SpawnProcess
    connection: "Connection[Any, Any]"
    job: Job | None = None


class Workers:
    """Up to `count` processes; each makes one job at a time and reports through a pipe of its own.

    One pipe each, and not one queue for all, because a process that is killed while it holds a
    queue's lock stops all others, and because the pipe that closes says which job is lost.
    """

    def __init__(self, count: int, store: Store, display: Display) -> None:
        self._count = count
        self._store = store
        self._display = display
        self._workers: list[_Worker] = []
        self._unsent: list[tuple[Job, Outcome]] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _kill(worker)

    @property
    def free(self) -> int:
        """How many more jobs can start now."""
        return self._count - sum(worker.job is not None for worker in self._workers)

    def start(self, job: Job) -> None:
        """Hand a job to a process that is idle, or to a new one."""
        try:
            message = pickle.dumps(job)
        except Exception as error:
            text = f"it cannot be sent to a worker process: {error}"
            self._unsent.append((job, Outcome(Failure(job.name, text))))
            return
        idle = [worker for worker in self._workers if worker.job is None]
        worker = next((worker for worker in idle if worker.process.is_alive()), None)
        if worker is None:
            worker = self._spawn()
            self._workers.append(worker)
        worker.job = job
        # A worker that has died meanwhile is noticed by `ended`.
        with suppress(OSError):
            worker.connection.send((job.name, message))

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
                if event == "log":
                    name, level, text = value
                    logging.getLogger(name).log(level, "%s", text)
                else:
                    self._display.report(job, event, value)
        except (EOFError, OSError):
            dead = True
        if not dead:
            return None
        self._workers.remove(worker)
        _kill(worker)
        return job, Outcome(Failure(job.name, _cause_of_death(worker.process.exitcode)))

    def _spawn(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self._store, _logger.getEffectiveLevel())
        )
        with _main_hidden():
            process.start()
        theirs.close()
        return _Worker(process, ours)


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

    def send(self, event: str, value: object) -> None:
        with self._lock:
            self._connection.send((event, value))


class _LogHandler(logging.Handler):
    """Sends what is logged in a worker to the process that shows it."""

    def __init__(self, outbox: _Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        self._outbox.send("log", (record.name, record.levelno, self.format(record)))


def _serve(connection: "Connection[Any, Any]", store: Store, log_level: int) -> None:
    """The life of a worker: make the jobs that come, until the run is over or has died."""
    # A group of its own: Ctrl-C reaches the run alone, which then ends the worker's whole group.
    os.setpgrp()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    outbox = _Outbox(connection)
    _logger.addHandler(_LogHandler(outbox))
    _logger.setLevel(log_level)
    while True:
        try:
            name, message = connection.recv()
        except EOFError:
            return
        try:
            job = pickle.loads(message)
        except Exception as error:
            text = f"a worker process cannot load it: {type(error).__name__}: {error}"
            outcome = Outcome(Failure(name, text))
        else:
            outcome = attempt(job, store, outbox.send)
        outbox.send("end", outcome)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)
