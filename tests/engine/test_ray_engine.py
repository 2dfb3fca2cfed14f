"""Jobs on a Ray cluster of three nodes on this machine."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import engine_jobs
import pytest
from engine_jobs import ALL_OF_CHAIN, HANGS, chain, lines, task, text, wait_until
from hospitals import PROBED_AND_FINETUNED, WriteProtocol, bytes_of_results

import sonobench
from sonobench.engine import Job, RayEngine, Resources, Store

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes: a head without CPUs, and two others with one each."""
    # Neither statistics to Ray's makers nor a word to the network.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    memory = 100 << 20
    head = {"num_cpus": 0, "object_store_memory": memory, "include_dashboard": False}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        # Ray takes the word of who starts it for a device.
        made.add_node(num_cpus=1, num_gpus=1, object_store_memory=memory)
    # Connected once for all tests: what an engine finds connected it leaves so.
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def engine(cluster: Any, store: Store) -> RayEngine:
    return RayEngine(store, cluster.address)


def test_everything_is_made_in_order_and_shown_at_the_driver(
    engine: RayEngine, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoken = Job("spoken", (task("x"),), engine_jobs.speak, total=100, unit="images")
    assert engine.run([*chain(tmp_path / "calls"), spoken]) == []
    assert sorted(lines(tmp_path / "calls")) == ALL_OF_CHAIN
    assert (store.folder(task("c")) / "read.txt").read_text() == "a0 a1 a2 b0 b1 b2"
    assert "careful with image 3" in caplog.text
    assert "spoken: started, 100 images" in caplog.text


def test_a_failing_job_does_not_stop_the_others_and_is_not_tried_again(
    engine: RayEngine, store: Store, tmp_path: Path
) -> None:
    broken = Job("broken", (task("x"), task("y")), engine_jobs.make_first_then_fail)
    skipped = Job("skipped", (task("z"),), engine_jobs.make_nothing, needs=(task("y"),))
    failures = engine.run([broken, skipped, *chain(tmp_path / "calls")])
    assert [failure.job for failure in failures] == ["broken", "skipped"]
    assert failures[0].error == "ValueError: image 7 is broken"
    assert sorted(lines(tmp_path / "calls")) == ALL_OF_CHAIN


def test_a_job_whose_process_was_killed_is_tried_again(
    engine: RayEngine, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = tmp_path / "calls"
    victim = Job("victim", (task("v"),), partial(engine_jobs.be_killed_once, calls=calls))
    assert engine.run([victim]) == []
    assert lines(calls) == ["v", "v"]
    assert "victim: lost, it is tried again: " in caplog.text
    assert text(store, "v") == "v"


def test_a_job_that_kills_every_process_fails_in_the_end(engine: RayEngine) -> None:
    (failure,) = engine.run([Job("victim", (task("v"),), engine_jobs.be_killed)])
    assert "WorkerCrashedError" in failure.error


def test_jobs_with_devices_have_processes_of_their_own(
    cluster: Any, engine: RayEngine, store: Store
) -> None:
    # A process that has used one device stays with it, whichever it is given next.
    jobs = [
        Job(
            name,
            (task(name),),
            engine_jobs.tell_the_process,
            needs=needs,
            resources=Resources(gpus=0.5),
        )
        for name, needs in (("one", ()), ("two", (task("one"),)), ("three", (task("two"),)))
    ]
    assert engine.run(jobs) == []
    assert len({text(store, name) for name in ("one", "two", "three")}) == 3


def test_what_a_lost_machine_was_at_is_made_on_another(
    cluster: Any, engine: RayEngine, store: Store, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    step = partial(engine_jobs.stay_on_ray, calls=calls)
    job = Job("sleeper", (task("a"),), step)

    def lose() -> None:
        wait_until(lambda: len(lines(calls)) == 1)
        (lost,) = (node for node in cluster.worker_nodes if node.node_id == lines(calls)[0])
        cluster.remove_node(lost, allow_graceful=False)

    loser = threading.Thread(target=lose)
    loser.start()
    assert engine.run([job]) == []
    loser.join()
    first, second = lines(calls)
    assert first != second
    assert text(store, "a") == "a"
    assert not list(store.damaged())


def test_an_address_where_nobody_listens_is_refused(tmp_path: Path) -> None:
    # In a process of its own: this one is connected to a cluster.
    program = (
        "import sys, pathlib\n"
        "from sonobench.engine import EngineError, Job, RayEngine, Store, Task\n"
        "job = Job('a', (Task('a', 1, {}),), print)\n"
        "try: RayEngine(Store(pathlib.Path(sys.argv[1])), '127.0.0.1:1').run([job])\n"
        "except EngineError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=HANGS
    ).stdout
    assert "no Ray cluster answers at 127.0.0.1:1: " in shown


def test_a_benchmark_has_the_same_bytes_as_on_one_machine(
    cluster: Any, write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    protocol = write_protocol(**PROBED_AND_FINETUNED)
    sonobench.run(protocol, tmp_path / "local", workers=1)
    run = sonobench.run(protocol, tmp_path / "ray", engine="ray", ray_address=cluster.address)
    assert run.failures == ()
    assert bytes_of_results(tmp_path / "ray") == bytes_of_results(tmp_path / "local")
