"""A job on its way to another process: packed where it is planned, made where it arrives."""

import logging
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sonobench.engine.job import Failure, Job, Outcome, attempt
from sonobench.engine.progress import Report
from sonobench.engine.store import Store

_logger = logging.getLogger("sonobench")


@dataclass(frozen=True)
class Parcel:
    """A job as bytes, and what the process that makes it must know of this one.

    Attributes:
        name: the job's.
        job: pickled, so that one whose code cannot be loaded fails alone and says so.
        store: the store's folder.
        search_path: where modules are found here.
        settings: environment variables of sonobench.
        log_level: what is logged here.
    """

    name: str
    job: bytes
    store: Path
    search_path: tuple[str, ...]
    settings: dict[str, str]
    log_level: int


def pack(job: Job, store: Store) -> Parcel | Outcome:
    """The job to be sent, or its failure where it cannot be."""
    try:
        content = pickle.dumps(job)
    except Exception as error:
        text = f"it cannot be sent to a worker process: {error}"
        return Outcome(Failure(job.name, text))
    return Parcel(
        job.name,
        content,
        store.root,
        tuple(str(Path(entry).absolute()) for entry in sys.path),
        {name: value for name, value in os.environ.items() if name.startswith("SONOBENCH_")},
        _logger.getEffectiveLevel(),
    )


def make(parcel: Parcel, report: Report) -> Outcome:
    """Make what is missing of the job, in this process; what is logged is reported as well."""
    sys.path += [entry for entry in parcel.search_path if entry not in sys.path]
    os.environ.update(parcel.settings)
    try:
        job = pickle.loads(parcel.job)
    except Exception as error:
        text = f"a worker process cannot load it: {type(error).__name__}: {error}"
        return Outcome(Failure(parcel.name, text))
    with _log_reported(report, parcel.log_level):
        return attempt(job, Store(parcel.store), report)


class _LogHandler(logging.Handler):
    """Sends what is logged to the process that shows it."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report("log", (record.name, record.levelno, self.format(record)))


@contextmanager
def _log_reported(report: Report, level: int) -> Iterator[None]:
    handler = _LogHandler(report)
    _logger.addHandler(handler)
    _logger.setLevel(level)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
