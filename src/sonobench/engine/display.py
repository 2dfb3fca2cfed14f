"""How people see a run: bars on a terminal, plain lines elsewhere, and a log file."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from sonobench.engine.job import Failure, Job
from sonobench.engine.progress import Value

LINE_EVERY = 15.0  # seconds between the plain lines on a job that runs

_logger = logging.getLogger("sonobench")


@contextmanager
def log_to(file: Path) -> Iterator[None]:
    """Append what sonobench logs, with times and tracebacks, to a file while the block runs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with closing(handler), _attached(handler, logging.DEBUG):
        yield


@contextmanager
def log_to_console() -> Iterator[None]:
    """Print on stderr what sonobench logs while the block runs; an engine's display takes over."""
    with _printed(Console(stderr=True), logging.INFO):
        yield


@contextmanager
def _printed(console: Console, level: int) -> Iterator[None]:
    # One console at a time: lines beside the bars must go through the console of the bars.
    outer = [handler for handler in _logger.handlers if isinstance(handler, _ConsoleHandler)]
    for handler in outer:
        _logger.removeHandler(handler)
    try:
        with _attached(_ConsoleHandler(console), level):
            yield
    finally:
        for handler in outer:
            _logger.addHandler(handler)


@contextmanager
def _attached(handler: logging.Handler, level: int) -> Iterator[None]:
    before = _logger.level
    handler.setLevel(level)
    _logger.addHandler(handler)
    _logger.setLevel(min(level, _logger.getEffectiveLevel()))
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(before)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass
class _Running:
    """A job that runs: its bar, and how far it was when."""

    job: Job
    bar: TaskID
    total: int
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    first: tuple[float, int] | None = None
    note: str = ""

    def advance(self, n: int) -> None:
        self.done += n
        if self.first is None:
            # The rate counts from here: before, weights were loaded and memory was warmed.
            self.first = (time.monotonic(), self.done)

    def status(self) -> str:
        """How far, how fast, how long still."""
        parts = [f"{self.done:,} of {self.total:,} {self.job.unit}"]
        if self.first is not None and self.done > self.first[1]:
            rate = (self.done - self.first[1]) / max(time.monotonic() - self.first[0], 1e-9)
            parts.append(f"{rate:,.3g} {self.job.unit}/s")
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)

    def title(self) -> str:
        """What it is, and what is being done."""
        return f"{self.job.name}: {self.note}" if self.note else self.job.name


class Display:
    """Shows the jobs of one run, on stderr and in the log of sonobench, while its block runs."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: dict[str, _Running] = {}
        self._waiting: set[str] = set()
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._console = Console(stderr=True)
        self._bars = Bars(
            BarColumn(16),
            TextColumn("{task.fields[status]}"),
            # Last and elastic: on a narrow terminal the end of a name goes first.
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
            console=self._console,
            expand=True,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._overall = self._bars.add_task("jobs", total=jobs, status="")
        self._lines = threading.Thread(target=self._write_lines, daemon=True)
        self._log = _printed(self._console, logging.INFO if self._bars.disable else logging.WARNING)

    def __enter__(self) -> "Display":
        self._log.__enter__()
        self._bars.start()
        self._lines.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._lines.join()
        self._bars.stop()
        self._log.__exit__(kind, error, trace)

    def ended(self, jobs: int) -> None:
        """Tell how many of the run's jobs have ended."""
        self._bars.update(self._overall, completed=jobs, status=f"{jobs:,} of {self._jobs:,}")

    def report(self, job: Job, event: str, value: Value) -> None:
        """Take a report of a job: `begin`, `advance` or `note`, or a `log` of where it runs."""
        if isinstance(value, tuple):
            name, level, text = value
            logging.getLogger(name).log(level, "%s", text)
            return
        with self._lock:
            if event == "begin":
                self._forget(job)  # where it was begun before, and preempted
                self._waiting.discard(job.name)
                total = int(value)
                bar = self._bars.add_task(escape(job.name), total=total, status="")
                self._running[job.name] = _Running(job, bar, total)
                _logger.info("%s: started, %s", job.name, _amount(total, job))
            running = self._running.get(job.name)
            if running is None:
                return  # from a thread that has outlived its step
            if event == "advance":
                running.advance(int(value))
            elif event == "note":
                running.note = str(value)
                _logger.debug("%s: %s", job.name, value)
            self._bars.update(
                running.bar,
                description=escape(running.title()),
                completed=running.done,
                status=escape(running.status()),
            )

    def wait(self, job: Job) -> None:
        """Tell, once, that another process is making the job."""
        if job.name not in self._waiting:
            self._waiting.add(job.name)
            _logger.warning("%s: waiting, another process is making it", job.name)

    def lost(self, job: Job, failure: Failure) -> None:
        """Tell that a job is to be tried again, and why."""
        self._forget(job)
        _logger.warning("%s: lost, it is tried again: %s", job.name, failure.error)

    def spoilt(self, job: Job) -> None:
        """Tell that a job is to be tried again, after what it needs, which was damaged."""
        self._forget(job)
        _logger.warning("%s: what it needs was damaged, and is made anew before it", job.name)

    def _forget(self, job: Job) -> _Running | None:
        with self._lock:
            running = self._running.pop(job.name, None)
        if running is not None:
            self._bars.remove_task(running.bar)
        return running

    def end(self, job: Job, failure: Failure | None) -> None:
        """Tell how a job ended."""
        running = self._forget(job)
        if failure is not None:
            _logger.error("%s: failed: %s", job.name, failure.error)
            _logger.debug("%s: %s", job.name, failure.traceback)
        elif running is not None:
            seconds = time.monotonic() - running.began
            _logger.info(
                "%s: done, %s in %s", job.name, _amount(running.done, job), _duration(seconds)
            )
        else:
            _logger.info("%s: done by another process", job.name)

    def _write_lines(self) -> None:
        while not self._closing.wait(LINE_EVERY):
            with self._lock:
                lines = [f"{each.title()}: {each.status()}" for each in self._running.values()]
            for line in lines:
                _logger.info("%s", line)


def _amount(count: int, job: Job) -> str:
    return f"{count:,} {job.unit.removesuffix('s') if count == 1 else job.unit}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
