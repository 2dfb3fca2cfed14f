"""Jobs through submitit: by its executor of processes, and by its commands to a tiny Slurm."""

import os
import re
import signal
import threading
from functools import partial
from pathlib import Path

import engine_jobs
import pytest
import tiny_slurm
from engine_jobs import ALL_OF_CHAIN, chain, lines, task, text, wait_until
from hospitals import PROBED_AND_FINETUNED, WriteProtocol, bytes_of_results

import sonobench
from sonobench.engine import EngineError, Job, Resources, SlurmEngine, Store, slurm_engine

submitit = pytest.importorskip("submitit")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of a Slurm that answers at once."""
    for name, value in tiny_slurm.install(tmp_path / "cluster").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm_engine, "_LOOK_EVERY", {"slurm": 0.1, "local": 0.1})
    monkeypatch.setattr(slurm_engine, "_ASK_EVERY", 0.5)
    # Numbers of jobs begin anew with each cluster, and submitit remembers which have ended.
    submitit.SlurmJob.watcher.clear()


@pytest.fixture(params=["local", "slurm"])
def engine(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> SlurmEngine:
    if request.param == "slurm":
        request.getfixturevalue("slurm")
    return SlurmEngine(store, tmp_path / "slurm", workers=2, cluster=request.param)


def test_everything_is_made_in_order_and_shown_at_the_driver(
    engine: SlurmEngine,
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A module of the working directory stands before no other.
    (tmp_path / "pickle.py").write_text("raise ImportError('mine')")
    monkeypatch.chdir(tmp_path)
    spoken = Job("spoken", (task("x"),), engine_jobs.speak, total=100, unit="images")
    assert engine.run([*chain(tmp_path / "calls"), spoken]) == []
    assert sorted(lines(tmp_path / "calls")) == ALL_OF_CHAIN
    assert (store.folder(task("c")) / "read.txt").read_text() == "a0 a1 a2 b0 b1 b2"
    assert "careful with image 3" in caplog.text
    assert "spoken: done, 100 images" in caplog.text
    # Of what went well nothing is left beside the store.
    assert list((tmp_path / "slurm").iterdir()) == []


def test_a_folder_whose_name_would_add_a_line_to_the_script_is_refused(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "run\n#SBATCH --wrap=x"
    with pytest.raises(EngineError, match=r"run\\n#SBATCH --wrap=x'.*control character"):
        SlurmEngine(store, folder, workers=1, cluster="local")


def test_a_failing_job_does_not_stop_the_others_and_is_not_tried_again(
    engine: SlurmEngine, tmp_path: Path
) -> None:
    broken = Job("broken", (task("x"), task("y")), engine_jobs.make_first_then_fail)
    skipped = Job("skipped", (task("z"),), engine_jobs.make_nothing, needs=(task("y"),))
    failures = engine.run([broken, skipped, *chain(tmp_path / "calls")])
    assert [failure.job for failure in failures] == ["broken", "skipped"]
    assert failures[0].error == "ValueError: image 7 is broken"
    assert sorted(lines(tmp_path / "calls")) == ALL_OF_CHAIN


def test_a_job_whose_process_was_killed_is_tried_again(
    engine: SlurmEngine, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = tmp_path / "calls"
    victim = Job("victim", (task("v"),), partial(engine_jobs.be_killed_once, calls=calls))
    assert engine.run([victim]) == []
    assert lines(calls) == ["v", "v"]
    assert "victim: lost, it is tried again" in caplog.text
    assert text(store, "v") == "v"
    (log,) = re.findall(r"its log: (\S+)", caplog.text)
    assert Path(log).is_file()


def test_a_job_that_slurm_ends_is_submitted_again(
    slurm: None, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = tmp_path / "calls"
    step = partial(engine_jobs.hang_the_first_time, calls=calls)

    def fail() -> None:
        wait_until(lambda: len(lines(calls)) == 1)
        tiny_slurm.end("1", "NODE_FAIL")

    failing = threading.Thread(target=fail)
    failing.start()
    jobs = [Job("unlucky", (task("u"),), step)]
    assert SlurmEngine(store, tmp_path / "slurm", workers=2).run(jobs) == []
    failing.join()
    assert "unlucky: lost, it is tried again: it ended without a result, in state NODE_FAIL" in (
        caplog.text
    )
    assert text(store, "u") == "u"


def test_jobs_of_one_kind_are_one_array_with_what_they_ask_for(
    slurm: None, store: Store, tmp_path: Path
) -> None:
    asked = Resources(cpus=3, gpus=0.5, memory_gb=2, hours=1.5)
    jobs = [
        Job(name, (task(name),), engine_jobs.tell_the_process, resources=asked)
        for name in ("one", "two", "three")
    ]
    engine = SlurmEngine(store, tmp_path / "slurm", 2, {"partition": "gpu", "account": "lab"})
    assert engine.run(jobs) == []
    first, second = sorted((tmp_path / "cluster" / "jobs").glob("*.script"))
    # Two at a time: the third comes when there is room.
    assert "--array" not in second.read_text()
    options = re.findall("#SBATCH --(.*)", first.read_text())
    assert {
        "array=0-1%2",
        "job-name=sonobench-text",
        "partition=gpu",
        "account=lab",
        "cpus-per-task=3",
        "gpus-per-node=1",
        "mem=2GB",
        "time=90",
    } <= set(options)


def test_its_jobs_are_cancelled_when_it_is_interrupted(
    slurm: None, store: Store, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    step = partial(engine_jobs.hang_the_first_time, calls=calls)
    engine = SlurmEngine(store, tmp_path / "slurm", workers=2)

    def interrupt() -> None:
        wait_until(lambda: len(lines(calls)) == 1)
        signal.raise_signal(signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        engine.run([Job("sleeper", (task("s"),), step)])
    interrupter.join()
    state = tmp_path / "cluster" / "jobs" / "1.state"
    assert state.read_text() == "CANCELLED by 0"


def test_a_job_that_is_preempted_is_put_into_the_queue_again_by_submitit(
    engine: SlurmEngine, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = tmp_path / "calls"
    step = partial(engine_jobs.hang_the_first_time, calls=calls)
    preempted = Job("preempted", (task("p"),), step)

    def preempt() -> None:
        wait_until(lambda: len(lines(calls)) == 1)
        # submitit asks Slurm for this signal before a preemption or the end of the time.
        engine_jobs.send(signal.SIGUSR2, lines(calls)[0])

    preemptor = threading.Thread(target=preempt)
    preemptor.start()
    assert engine.run([preempted]) == []
    preemptor.join()
    assert len(lines(calls)) == 2
    assert caplog.text.count("preempted: started") == 2
    assert "tried again" not in caplog.text
    assert text(store, "p") == "p"


def test_a_machine_that_cannot_submit_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="needs the command sbatch, which is not here"):
        SlurmEngine(store, tmp_path, workers=2)


def test_what_slurm_refuses_fails_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("sbatch", "srun"):
        program = tmp_path / "bin" / command
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho 'Invalid partition specified' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    unsendable = Job("unsendable", (task("x"),), lambda tasks, store, progress: None)
    jobs = [Job("refused", (task("a"),), engine_jobs.make_nothing), unsendable]
    failures = SlurmEngine(store, tmp_path / "slurm", workers=2).run(jobs)
    errors = {failure.job: failure.error for failure in failures}
    assert "Invalid partition specified" in errors["refused"]
    assert "cannot be sent" in errors["unsendable"]


@pytest.mark.slow
def test_a_benchmark_has_the_same_bytes_as_on_one_machine(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    sonobench.run(write_protocol(**PROBED_AND_FINETUNED), tmp_path / "local", workers=1)
    protocol = write_protocol(**PROBED_AND_FINETUNED, resources={"slurm_executor": "local"})
    run = sonobench.run(protocol, tmp_path / "slurm", workers=2, engine="slurm")
    assert run.failures == ()
    assert bytes_of_results(tmp_path / "slurm") == bytes_of_results(tmp_path / "local")
