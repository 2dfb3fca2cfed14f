"""People see what runs, how far it is and how it ended; a log file keeps it."""

import itertools
import logging
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import engine_jobs
import pytest
from engine_jobs import task

from sonobench.engine import Job, LocalEngine, Progress, Store, display, log_to


def spoken(gate: Path | None = None) -> Job:
    """A job of 100 images that waits for a gate when half of them are done."""
    step = partial(engine_jobs.speak, gate=gate)
    return Job("embed net · cohort", (task("x"),), step, total=100, unit="images")


BROKEN = Job("broken", (task("y"), task("z")), engine_jobs.make_first_then_fail)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize("workers", [1, 2])
def test_without_a_terminal_there_are_plain_lines_at_start_between_and_at_the_end(
    workers: int,
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Opens(logging.Handler):
        """Lets the job go on when a line has told how far it is."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().endswith(" left"):
                (tmp_path / "gate").touch()

    logger = logging.getLogger("sonobench")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, Opens()])
    monkeypatch.setattr(display, "LINE_EVERY", 0.05)
    LocalEngine(store, workers).run([spoken(tmp_path / "gate"), BROKEN])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "\x1b" not in shown.err
    lines = shown.err.splitlines()
    assert "embed net · cohort: started, 100 images" in lines
    between = r"cohort: reading weights: \d+ of 100 images, [\d.e+]+ images/s, [\d.]+ s left"
    assert re.search(between, shown.err), shown.err
    assert re.search(r"embed net · cohort: done, 100 images in [\d.]+ s", shown.err)
    assert "broken: failed: ValueError: image 7 is broken" in lines
    assert "careful with image 3" in lines
    assert "2 jobs: 0 were done before, 1 done now, 1 failed or skipped" in lines
    assert "Traceback" not in shown.err
    assert "" not in lines


@pytest.mark.parametrize("workers", [1, 2])
def test_a_terminal_shows_bars_and_warnings(
    workers: int,
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The first job goes on when its bar was drawn; with two workers the other has ended by then.
    awaited = {" left", "1 of 2"} if workers == 2 else {" left"}
    write = sys.stderr.write

    def write_and_open(text: str) -> int:
        awaited.difference_update([part for part in awaited if part in text])
        if not awaited:
            (tmp_path / "gate").touch()
        return write(text)

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "write", write_and_open)
    LocalEngine(store, workers).run([spoken(tmp_path / "gate"), BROKEN])
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert re.search(r"━+ \d+ of 100 images, .* s left +embed net · cohort", shown), shown
    assert re.search(r"━+ +1 of 2 +jobs", shown), shown
    assert "careful with image 3" in shown
    assert "broken: failed: ValueError: image 7 is broken" in shown
    assert "started, 100 images" not in shown


def test_only_the_missing_part_of_a_job_is_counted(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, *rest = engine_jobs.chain(tmp_path / "calls")
    with store.write(task("a1")) as folder:
        (folder / "name.txt").write_text("a1")
    LocalEngine(store, workers=1).run(rest)
    shown = capsys.readouterr().err
    assert "first: started, 2 steps" in shown
    assert "second: started, 3 steps" in shown


@pytest.mark.parametrize("workers", [1, 2])
def test_the_log_file_keeps_times_notes_and_tracebacks_and_grows(
    workers: int, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "run" / "log.txt"
    for _ in range(2):
        with log_to(file):
            LocalEngine(store, workers).run([spoken(), BROKEN])
    log = file.read_text()
    assert re.search(
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d.* INFO embed net · cohort: started", log, re.M
    )
    assert "embed net · cohort: reading weights" in log
    assert "careful with image 3" in log
    assert log.count("in make_first_then_fail") == 2
    assert "2 jobs: 1 were done before, 0 done now, 1 failed or skipped" in log


def test_logging_is_left_as_it_was(store: Store, tmp_path: Path) -> None:
    logger = logging.getLogger("sonobench")
    before = (logger.level, list(logger.handlers), list(logging.getLogger().handlers))
    with log_to(tmp_path / "log.txt"):
        LocalEngine(store, workers=2).run([spoken()])
    assert (logger.level, list(logger.handlers), list(logging.getLogger().handlers)) == before


def test_a_step_called_by_hand_needs_no_engine(store: Store) -> None:
    engine_jobs.speak([task("x")], store, Progress())
    assert store.has(task("x"))


def test_progress_is_reported_in_full_however_fast_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A clock that goes on by a millisecond whenever it is read.
    clock = SimpleNamespace(monotonic=partial(next, itertools.count(0, 0.001)))
    monkeypatch.setattr("sonobench.engine.progress.time", clock)
    reported: list[int | str] = []
    progress = Progress(lambda event, value: reported.append(value))
    for _ in range(10_000):
        progress.advance()
    progress.flush()
    assert sum(map(int, reported)) == 10_000
    assert len(reported) < 1_000
