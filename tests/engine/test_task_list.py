"""How far a run is can be told from its list of tasks and the store alone."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import engine_jobs
import pytest
from engine_jobs import make, task

from sonobench.engine import Job, LocalEngine, Store, StoreError, list_as_json, read_list, status


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run" / "store")


def jobs(calls: Path) -> list[Job]:
    """One that fails after its first task, what needs it directly and not, and one beside."""
    step = partial(make, calls=calls)
    return [
        Job("broken", (task("x"), task("y")), engine_jobs.make_first_then_fail),
        Job("second", (task("second"),), step, needs=(task("y"),)),
        Job("third", (task("third"),), step, needs=(task("second"),)),
        Job("beside", (task("beside"), task("more")), step),
    ]


def states(store: Store, made: list[Job]) -> dict[str, str]:
    folder = store.root.parent
    folder.mkdir(exist_ok=True)
    (folder / "tasks.json").write_text(json.dumps(list_as_json(made, store, folder)))
    root, listed = read_list(folder)
    return {each.job.name: each.state for each in status(listed, Store(root))}


def test_before_anything_was_made_all_jobs_wait(store: Store, tmp_path: Path) -> None:
    found = states(store, jobs(tmp_path / "calls"))
    assert found == dict.fromkeys(("broken", "second", "third", "beside"), "waiting")


def test_done_failed_and_skipped_are_told_apart(store: Store, tmp_path: Path) -> None:
    made = jobs(tmp_path / "calls")
    LocalEngine(store, workers=1).run(made)
    found = states(store, made)
    assert found == {"broken": "failed", "second": "skipped", "third": "skipped", "beside": "done"}
    _, listed = read_list(store.root.parent)
    told = {each.job.name: each for each in status(listed, store)}
    assert told["broken"].reason == "ValueError: image 7 is broken"
    assert told["broken"].tasks_done == 1
    assert told["third"].reason == "it needs 'broken'"


def test_a_failure_is_forgotten_when_the_task_is_made(store: Store, tmp_path: Path) -> None:
    made = jobs(tmp_path / "calls")
    LocalEngine(store, workers=1).run(made)
    mended = Job("broken", made[0].tasks, partial(make, calls=tmp_path / "calls"))
    LocalEngine(store, workers=1).run([mended, *made[1:]])
    assert set(states(store, made).values()) == {"done"}
    assert list(store.root.glob("failures/*")) == []


def test_a_claim_that_is_held_is_a_job_that_runs(store: Store, tmp_path: Path) -> None:
    made = jobs(tmp_path / "calls")
    with store.claim([task("more")]):
        assert states(store, made)["beside"] == "running"
        # And asking has not taken it away.
        assert states(store, made)["beside"] == "running"
    assert states(store, made)["beside"] == "waiting"


def test_the_claim_of_a_killed_process_is_no_job_that_runs(store: Store, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, pathlib; from sonobench.engine import Store, Task\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "with store.claim([Task('text', 1, {'name': 'more'})]):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, store.root], check=False)
    assert list(store.root.glob("claims/*"))
    assert states(store, jobs(tmp_path / "calls"))["beside"] == "waiting"


def test_a_run_that_is_moved_with_its_store_is_still_understood(
    store: Store, tmp_path: Path
) -> None:
    made = jobs(tmp_path / "calls")
    LocalEngine(store, workers=1).run(made)
    states(store, made)
    moved = store.root.parent.rename(tmp_path / "moved")
    root, listed = read_list(moved)
    assert root == moved / "store"
    assert [each.state for each in status(listed, Store(root))][-1] == "done"


def test_a_store_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    elsewhere = Store(tmp_path / "elsewhere")
    assert list_as_json([], elsewhere, tmp_path / "run")["store"] == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"store": "store", "jobs": [{}]}'])
def test_a_folder_without_a_readable_list_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tasks.json").write_text(content)
    with pytest.raises(StoreError, match=r"tasks\.json"):
        read_list(tmp_path)
