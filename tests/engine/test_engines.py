"""What every engine must do."""

import logging
import signal
import subprocess
from functools import partial
from pathlib import Path

import engine_jobs
import pytest
from engine_jobs import (
    ALL_OF_CHAIN,
    ENGINES,
    HANGS,
    chain,
    lines,
    make,
    start,
    task,
    text,
    wait_until,
)

from sonobench.engine import Job, LocalEngine, Store, Task


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that is made when steps may go on."""
    return tmp_path / "gate"


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(name: str, store: Store) -> LocalEngine:
    return ENGINES[name](store)


def aside(store: Store) -> list[Path]:
    return list(store.root.glob("aside/*"))


def job(name: str, *makes: str, calls: Path, needs: tuple[Task, ...] = ()) -> Job:
    tasks = tuple(task(one) for one in makes)
    return Job(name, tasks, partial(make, calls=calls, reads=needs), needs=needs)


def test_everything_is_made_and_what_is_needed_is_made_first(
    engine: LocalEngine, store: Store, calls: Path
) -> None:
    assert engine.run(chain(calls)) == []
    assert sorted(lines(calls)) == ALL_OF_CHAIN
    assert (store.folder(task("c")) / "read.txt").read_text() == "a0 a1 a2 b0 b1 b2"


def test_a_second_run_makes_nothing(engine: LocalEngine, store: Store, calls: Path) -> None:
    engine.run(chain(calls))
    calls.unlink()
    assert engine.run(chain(calls)) == []
    assert not calls.exists()


def test_only_what_is_missing_is_made(engine: LocalEngine, store: Store, calls: Path) -> None:
    with store.write(task("a1")) as folder:
        (folder / "name.txt").write_text("a1")
    assert engine.run(chain(calls)) == []
    assert sorted(lines(calls)) == [name for name in ALL_OF_CHAIN if name != "a1"]


def test_a_damaged_artefact_is_made_anew_and_nothing_else(
    name: str, store: Store, calls: Path
) -> None:
    ENGINES[name](store).run(chain(calls))
    calls.unlink()
    (store.folder(task("b2")) / "name.txt").write_text("")
    assert ENGINES[name](Store(store.root)).run(chain(calls)) == []
    assert lines(calls) == ["b2"]
    assert text(store, "b2") == "b2"


def test_a_job_that_cannot_read_what_it_needs_says_that_it_is_damaged(
    engine: LocalEngine, store: Store
) -> None:
    need = task("numbers")
    with store.write(need) as folder:
        (folder / "name.txt").write_text("[1, 2]")
    (store.folder(need) / "name.txt").write_bytes(bytes(6))
    step = partial(engine_jobs.read_numbers, need=need)
    reader = Job("reader", (task("read"),), step, needs=(need,))
    (failure,) = engine.run([reader])
    assert failure.error.startswith("what it needs was damaged, and is made anew by the next run:")
    assert "name.txt is not what was written" in failure.error
    assert not Store(store.root).has(need)


def test_what_a_job_finds_damaged_is_made_anew_by_the_same_run(
    engine: LocalEngine, store: Store, calls: Path
) -> None:
    need, middle = task("a"), task("b")
    jobs = [
        job("maker", "a", calls=calls),
        Job("middle", (middle,), partial(engine_jobs.read_name, need=need), needs=(need,)),
        Job("reader", (task("c"),), partial(engine_jobs.read_name, need=middle), needs=(middle,)),
        job("skipped", "d", calls=calls, needs=(task("c"),)),
    ]
    assert engine.run(jobs[:2]) == []
    calls.unlink()
    # Both of the same size: the reader finds one, and whoever makes that anew the other.
    for each in (need, middle):
        (store.folder(each) / "name.txt").write_bytes(bytes(1))
    assert engine.run(jobs) == []
    assert [text(store, each) for each in "abcd"] == ["a", "b", "c", "d"]
    assert sorted(lines(calls)) == ["a", "b", "c", "d"]
    assert not list(store.damaged())
    assert len(list(store.root.glob("damaged/*"))) == 2


def test_what_is_damaged_again_and_again_ends_as_a_failure(engine: LocalEngine) -> None:
    need = task("a")
    jobs = [
        Job("maker", (need,), engine_jobs.make_what_is_spoilt),
        Job("reader", (task("b"),), partial(engine_jobs.read_name, need=need), needs=(need,)),
    ]
    (failure,) = engine.run(jobs)
    assert failure.job == "reader"
    assert "what it needs was damaged, and is made anew by the next run: text " in failure.error


def test_needs_that_are_there_already_need_no_job(
    engine: LocalEngine, store: Store, calls: Path
) -> None:
    with store.write(task("old")) as folder:
        (folder / "name.txt").write_text("old")
    assert engine.run([job("new", "new", calls=calls, needs=(task("old"),))]) == []
    assert (store.folder(task("new")) / "read.txt").read_text() == "old"


def test_a_need_that_is_nowhere_is_a_failure_that_names_it(
    engine: LocalEngine, store: Store, calls: Path
) -> None:
    (failure,) = engine.run([job("new", "new", calls=calls, needs=(task("old"),))])
    assert failure.job == "new"
    assert f"needs text {task('old').key}" in failure.error
    assert not calls.exists()


def test_a_failing_job_does_not_stop_the_others(
    engine: LocalEngine, store: Store, calls: Path
) -> None:
    broken = Job("broken", (task("x"), task("y")), engine_jobs.make_first_then_fail)
    (failure,) = engine.run([broken, *chain(calls)])
    assert failure.job == "broken"
    assert failure.error == "ValueError: image 7 is broken"
    assert "make_first_then_fail" in failure.traceback
    assert sorted(lines(calls)) == ALL_OF_CHAIN


def test_what_needs_a_failed_job_is_skipped_with_the_first_cause(
    engine: LocalEngine, store: Store, calls: Path
) -> None:
    failures = engine.run(
        [
            Job("broken", (task("x"), task("y")), engine_jobs.make_first_then_fail),
            job("second", "second", calls=calls, needs=(task("y"),)),
            job("third", "third", calls=calls, needs=(task("second"),)),
        ]
    )
    assert [failure.job for failure in failures] == ["broken", "second", "third"]
    assert [failure.because_of for failure in failures] == [None, "broken", "broken"]
    assert not calls.exists()


def test_what_a_failed_job_had_finished_is_kept_and_used(
    engine: LocalEngine, store: Store, calls: Path
) -> None:
    broken = Job("broken", (task("x"), task("y")), engine_jobs.make_first_then_fail)
    failures = engine.run([broken, job("second", "second", calls=calls, needs=(task("x"),))])
    assert [failure.job for failure in failures] == ["broken"]
    assert lines(calls) == ["second"]


def test_a_job_that_does_not_make_its_task_has_failed(engine: LocalEngine, store: Store) -> None:
    (failure,) = engine.run([Job("lazy", (task("x"),), engine_jobs.make_nothing)])
    assert f"did not make text {task('x').key}" in failure.error


def test_jobs_that_need_each_other_are_refused(engine: LocalEngine, calls: Path) -> None:
    a = job("a", "a", calls=calls, needs=(task("b"),))
    b = job("b", "b", calls=calls, needs=(task("a"),))
    with pytest.raises(ValueError, match="need each other: "):
        engine.run([a, b])


def test_two_jobs_of_one_name_are_refused(engine: LocalEngine, calls: Path) -> None:
    with pytest.raises(ValueError, match="two jobs have the name 'a'"):
        engine.run([job("a", "x", calls=calls), job("a", "y", calls=calls)])


def test_two_makers_of_one_task_are_refused(engine: LocalEngine, calls: Path) -> None:
    with pytest.raises(ValueError, match="both 'a' and 'b' make text"):
        engine.run([job("a", "x", calls=calls), job("b", "x", calls=calls)])


def test_a_full_disk_fails_one_job_and_keeps_what_was_finished(
    name: str, small_disk: Path, calls: Path
) -> None:
    store = Store(small_disk / "store")
    large = Job("large", (task("large"),), engine_jobs.fill_the_disk)
    assert ENGINES[name](store).run(chain(calls)) == []
    (failure,) = ENGINES[name](store).run([large, *chain(calls)])
    assert failure.job == "large"
    assert "no room to write text" in failure.error
    assert not aside(store)
    assert not list(store.damaged())
    assert sorted(lines(calls)) == ALL_OF_CHAIN


def test_a_store_that_has_everything_need_not_be_writable(
    name: str, small_disk: Path, calls: Path
) -> None:
    ENGINES[name](Store(small_disk)).run(chain(calls))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert ENGINES[name](Store(small_disk)).run(chain(calls)) == []


def test_a_run_that_is_killed_goes_on_where_it_was(
    name: str, store: Store, calls: Path, gate: Path
) -> None:
    program = start(engine_jobs.run_chain, name, store.root, calls, gate, 2)
    # The third line stands for an artefact that is being written, after one was finished: it
    # waits for a gate that is never made.
    wait_until(lambda: len(lines(calls)) >= 3)
    program.kill()
    program.communicate()
    finished = [each for each in ALL_OF_CHAIN if Store(store.root).has(task(each))]
    assert 0 < len(finished) < len(ALL_OF_CHAIN)
    assert not list(store.damaged())
    calls.unlink()

    again = Store(store.root)
    assert ENGINES[name](again).run(chain(calls)) == []
    assert sorted(lines(calls) + finished) == ALL_OF_CHAIN
    assert [text(again, each) for each in ALL_OF_CHAIN] == ALL_OF_CHAIN
    assert not aside(again)


def test_eight_processes_on_one_store_make_each_task_once(
    store: Store, calls: Path, gate: Path
) -> None:
    # Some with workers of their own.
    names = ("local-1", "local-1", "local-1", "local-2") * 2
    programs = [start(engine_jobs.run_chain, name, store.root, calls, gate) for name in names]
    # None is done before all have begun.
    wait_until(lambda: len(lines(calls.with_name("programs"))) == 8)
    gate.touch()
    messages = [program.communicate(timeout=HANGS)[1] for program in programs]
    assert [program.returncode for program in programs] == [0] * 8, messages
    assert sorted(lines(calls)) == ALL_OF_CHAIN
    assert not aside(store)


def test_a_process_waits_for_what_another_is_making_and_says_so(
    engine: LocalEngine,
    store: Store,
    calls: Path,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Opens(logging.Handler):
        """Lets the other process go on when this one has said that it waits."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "first: waiting, another process is making it":
                gate.touch()

    logger = logging.getLogger("sonobench")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, Opens()])
    program = start(engine_jobs.run_chain, "local-1", store.root, calls, gate)
    wait_until(lambda: bool(lines(calls)))
    assert engine.run(chain(calls)) == []
    program.communicate(timeout=HANGS)
    assert gate.exists()
    assert sorted(lines(calls)) == ALL_OF_CHAIN


def test_an_interrupt_stops_at_once_and_leaves_the_store_whole(
    name: str, store: Store, calls: Path, gate: Path
) -> None:
    # By itself it would wait for ever, for a gate that is never made.
    program = start(engine_jobs.run_chain, name, store.root, calls, gate)
    wait_until(lambda: bool(lines(calls)))
    program.send_signal(signal.SIGINT)
    _, messages = program.communicate(timeout=HANGS)
    assert program.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in messages
    assert not aside(store)
    assert not list(store.damaged())
