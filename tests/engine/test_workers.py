"""Worker processes: one that dies, or cannot be given its job, costs that job alone."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import engine_jobs
import pytest
from engine_jobs import ALL_OF_CHAIN, HANGS, chain, lines, start, task, text, wait_until

from sonobench.engine import Job, LocalEngine, Resources, Store
from sonobench.engine.display import Display
from sonobench.engine.workers import Workers


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_no_worker_at_all_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="at least one worker, found 0"):
        LocalEngine(store, workers=0)


def test_a_killed_worker_fails_its_job_and_the_others_go_on(store: Store, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    victims = [Job(f"victim {n}", (task(f"v{n}"),), engine_jobs.be_killed) for n in range(3)]
    failures = LocalEngine(store, workers=2).run([*victims, *chain(calls)])
    assert {failure.job for failure in failures} == {"victim 0", "victim 1", "victim 2"}
    assert all("killed (SIGKILL)" in failure.error for failure in failures)
    assert sorted(lines(calls)) == ALL_OF_CHAIN


def test_the_error_says_what_ended_a_worker(store: Store, tmp_path: Path) -> None:
    cut_short = partial(engine_jobs.read_what_is_cut_short, file=tmp_path / "mapped")
    jobs = {
        "cut short": cut_short,
        "ended": partial(engine_jobs.end_by_signal, number=signal.SIGTERM),
        "left": engine_jobs.end_with_status_3,
    }
    failures = LocalEngine(store, workers=2).run(
        [Job(name, (task(name),), function) for name, function in jobs.items()]
    )
    errors = {failure.job: failure.error for failure in failures}
    assert "SIGBUS" in errors["cut short"]
    assert "a file that it had mapped into memory was cut short" in errors["cut short"]
    assert "was ended by SIGTERM" in errors["ended"]
    assert "ended by itself, with exit status 3" in errors["left"]


def test_a_function_that_cannot_be_sent_fails_its_job(store: Store, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    local = Job("local", (task("x"),), lambda tasks, store, progress: None)
    (failure,) = LocalEngine(store, workers=2).run([local, *chain(calls)])
    assert failure.job == "local"
    assert "cannot be sent to a worker process" in failure.error
    assert sorted(lines(calls)) == ALL_OF_CHAIN


def test_modules_of_the_working_directory_do_not_stand_before_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pickle", "random", "sonobench"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    assert LocalEngine(store, workers=2).run(chain(tmp_path / "calls")) == []
    assert not (tmp_path / "ran").exists()
    assert os.environ == before


def test_a_script_without_a_main_guard_can_use_workers(store: Store, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    script = tmp_path / "script.py"  # as a gate too: one that is there
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import engine_jobs\n"
        f"engine_jobs.run_chain('local-2', {str(store.root)!r}, {str(calls)!r}, {str(script)!r})\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert sorted(lines(calls)) == ALL_OF_CHAIN


def test_a_step_that_the_worker_cannot_load_fails_its_job(store: Store, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from sonobench.engine import Job, LocalEngine, Resources, Store, Task\n"
        "def step(tasks, store, progress): pass\n"
        f"jobs = [Job('mine', (Task('text', 1, {{}}),), step)]\n"
        f"(failure,) = LocalEngine(Store(Path({str(store.root)!r})), workers=2).run(jobs)\n"
        "print(failure.job, failure.error)\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "mine a worker process cannot load it: AttributeError" in result.stdout


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_and_what_they_started_end_with_the_run(
    how: signal.Signals, store: Store, tmp_path: Path
) -> None:
    pids = tmp_path / "processes"
    program = start(engine_jobs.run_two_that_hang, store.root, pids)
    wait_until(lambda: len(lines(pids)) == 2)
    program.send_signal(how)
    program.communicate(timeout=HANGS)
    processes = [int(pid) for line in lines(pids) for pid in line.split()]
    wait_until(lambda: not any(map(is_alive, processes)))


def on(name: str, gpus: float) -> Job:
    """A job that tells its devices, and asks for some."""
    step = engine_jobs.tell_the_devices
    return Job(name, (task(name),), step, resources=Resources(gpus=gpus))


def test_independent_jobs_go_to_devices_of_their_own(store: Store) -> None:
    LocalEngine(store, workers=2, devices=("3", "5")).run([on("a", 1.0), on("b", 1.0)])
    assert {text(store, "a"), text(store, "b")} == {"3", "5"}


def test_shares_of_one_device_run_beside_each_other_and_a_whole_one_waits(
    store: Store, tmp_path: Path
) -> None:
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    step = partial(engine_jobs.make, calls=calls, gate=gate)
    half = Resources(gpus=0.5)
    a, b = (Job(name, (task(name),), step, resources=half) for name in ("a", "b"))
    whole, ended = on("whole", 1.0), []
    with Display(3) as display, Workers(3, store, display, devices=("0",)) as workers:
        for job in (a, b):
            assert workers.fits(job)
            workers.start(job)
        # Neither ends before both have begun.
        wait_until(lambda: len(lines(calls)) == 2)
        assert not workers.fits(whole)
        gate.touch()
        while len(ended) < 2:
            ended += workers.ended(HANGS)
        assert workers.fits(whole)
    assert [outcome.failure for _, outcome in ended] == [None, None]


def test_jobs_with_shares_of_one_device_see_that_device(store: Store) -> None:
    jobs = [on("a", 0.5), on("b", 0.5), on("whole", 1.0)]
    assert LocalEngine(store, workers=3, devices=("0",)).run(jobs) == []
    assert {text(store, name) for name in ("a", "b", "whole")} == {"0"}


def test_a_job_of_several_devices_gets_them_together(store: Store) -> None:
    jobs = [on("one", 1.0), on("both", 2.0), on("other", 1.0)]
    assert LocalEngine(store, workers=2, devices=("0", "1")).run(jobs) == []
    assert text(store, "both") == "0,1"
    assert text(store, "one") in ("0", "1")


def test_more_devices_than_there_are_is_a_failure(store: Store) -> None:
    (failure,) = LocalEngine(store, workers=2, devices=("0",)).run([on("many", 4)])
    assert failure.error == "it asks for 4 GPUs, this run has 1"


def test_jobs_that_are_alike_share_a_device_once_one_has_told_how_much_it_takes(
    store: Store, tmp_path: Path
) -> None:
    calls, names = tmp_path / "calls", ("first", "second", "third")
    step = partial(engine_jobs.take_a_share, calls=calls, share=0.4)
    jobs = [
        Job(name, (task(name),), step, resources=Resources(gpus=1.0), alike="model")
        for name in names
    ]
    # The second and the third would wait for each other for ever if they did not share.
    assert LocalEngine(store, workers=3, devices=("0",)).run(jobs) == []
    assert sorted(lines(calls)) == sorted(names)
    assert lines(calls)[0] == "first"
