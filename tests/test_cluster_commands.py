"""`sonobench status` and `sonobench store`, as a user calls them."""

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest
from hospitals import WriteProtocol
from test_cli import call

from sonobench.engine import (
    Job,
    LocalEngine,
    Progress,
    Store,
    Task,
    TaskName,
    garbage,
    list_as_json,
    remove,
)

TASKS = tuple(Task("text", 1, {"name": name}) for name in ("kept", "other"))


def write(tasks: list[Task], store: Store, progress: Progress, *, size: int) -> None:
    for task in tasks:
        with store.write(task) as folder:
            (folder / "content").write_bytes(bytes(size))


def fail(tasks: list[Task], store: Store, progress: Progress) -> None:
    raise ValueError("image 7 is broken")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two jobs, of which one failed, on a store that holds another run's artefact too."""
    folder = tmp_path / "run"
    store = Store(folder / "store")
    missing = Task("text", 1, {"name": "missing"})
    jobs = [
        Job("good", TASKS[:1], partial(write, size=3 << 20)),
        Job("bad", (missing,), fail),
        Job("after", (Task("text", 1, {"name": "after"}),), fail, needs=(missing,)),
    ]
    LocalEngine(store, workers=1).run([*jobs, Job("else", TASKS[1:], partial(write, size=1))])
    (folder / "tasks.json").write_text(json.dumps(list_as_json(jobs, store, folder)))
    return folder


def artefact(run: Path, task: Task) -> Path:
    return Store(run / "store").folder(task)


def test_status_counts_jobs_and_says_why_some_failed(run: Path) -> None:
    code, shown = call("status", run)
    assert code == 0
    assert "all jobs │ 1 │ 0 │ 0 │ 1 │ 1" in shown
    assert "failed: bad: ValueError: image 7 is broken" in shown
    assert "skipped: after: it needs 'bad'" in shown


def test_status_says_what_runs(run: Path) -> None:
    with Store(run / "store").claim([Task("text", 1, {"name": "missing"})]):
        _, shown = call("status", run)
    assert "all jobs │ 1 │ 1 │ 1 │ 0 │ 0" in shown
    assert "running: bad: 0 of 1 tasks done" in shown


def test_status_of_no_run_is_refused(tmp_path: Path) -> None:
    code, shown = call("status", tmp_path)
    assert code == 2
    assert "tasks.json is not there" in shown


def test_a_benchmarks_own_list_has_all_of_its_jobs(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    call("run", write_protocol(), "--out", out, "--workers", 1)
    code, shown = call("status", out)
    assert code == 0
    # Two decoded cohorts, admission, two embedded cohorts, probe, majority class.
    assert "all jobs │ 7 │ 0 │ 0 │ 0 │ 0" in shown
    code, shown = call("store", "gc", out, "--keep", out)
    assert shown.strip() == "nothing can go"


def test_a_run_is_repeated_from_its_protocol_alone(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    call("run", write_protocol(), "--out", first, "--workers", 1)
    code, _ = call("run", first / "protocol.yaml", "--out", again, "--workers", 1)
    assert code == 0
    assert (again / "results.csv").read_bytes() == (first / "results.csv").read_bytes()
    manifest = json.loads((again / "manifest.json").read_text())
    assert manifest["seeds"] == {"training": [0], "split": 0, "bootstrap": 0}
    assert {"git", "processor", "memory_gb", "packages", "command", "host"} <= manifest.keys()


def test_resources_change_neither_hash_nor_artefacts(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    call("run", write_protocol(), "--out", out, "--workers", 1)
    before = json.loads((out / "manifest.json").read_text())["protocol"]
    made = {file: file.stat().st_mtime_ns for file in out.glob("store/*/*/*/task.json")}
    more = write_protocol(resources={"probe": {"hours": 9}, "slurm": {"partition": "long"}})
    call("run", more, "--out", out, "--workers", 1)
    assert json.loads((out / "manifest.json").read_text())["protocol"] == before
    assert {f: f.stat().st_mtime_ns for f in out.glob("store/*/*/*/task.json")} == made


def test_verify_finds_what_changed_and_says_so_by_its_exit_status(run: Path) -> None:
    assert call("store", "verify", run) == (0, "2 artefacts, 0 damaged")
    (artefact(run, TASKS[1]) / "content").write_bytes(b"x")
    code, shown = call("store", "verify", run / "store")
    assert code == 1
    assert "content is not what was written" in shown
    assert "2 artefacts, 1 damaged" in shown
    # It was moved aside, and the next run makes it anew.
    assert call("store", "verify", run) == (0, "1 artefacts, 0 damaged")


def test_du_shows_what_each_kind_takes(run: Path) -> None:
    code, shown = call("store", "du", run)
    assert code == 0
    assert "text │ 2 │ 3.0 MiB" in shown


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    code, shown = call("store", "du", tmp_path)
    assert code == 2
    assert "is neither a store" in shown


def test_gc_lists_and_changes_nothing_without_delete(run: Path) -> None:
    code, shown = call("store", "gc", run, "--keep", run)
    assert code == 0
    assert "of no run that is kept" in shown
    assert "can go: --delete removes it" in shown
    assert artefact(run, TASKS[1]).is_dir()


def test_gc_deletes_what_no_kept_run_needs_and_nothing_else(run: Path) -> None:
    code, shown = call("store", "gc", run, "--keep", run, "--delete")
    assert code == 0
    assert "removed" in shown
    assert artefact(run, TASKS[0]).is_dir()
    assert not Store(run / "store").has(TASKS[1])
    assert list((run / "store" / "aside").iterdir()) == []


def test_gc_without_a_run_to_keep_takes_only_what_nobody_can_use(run: Path) -> None:
    damaged = artefact(run, TASKS[1])
    (damaged / "content").write_bytes(b"")
    scratch = run / "store" / "scratch" / f"text~{TASKS[0].key}"
    scratch.mkdir(parents=True)
    claim = run / "store" / "claims" / f"text-{TASKS[0].key}.lock"
    claim.touch()
    call("store", "gc", run, "--delete")
    assert not damaged.exists()
    assert not scratch.exists()
    assert not claim.exists()
    assert artefact(run, TASKS[0]).is_dir()


def test_gc_leaves_what_a_process_is_at(run: Path) -> None:
    missing = Task("text", 1, {"name": "missing"})
    store = Store(run / "store")
    with store.claim([missing]):
        scratch = store.scratch(missing)
        call("store", "gc", run, "--delete")
        assert scratch.is_dir()
        assert store.is_claimed(missing)


def test_gc_leaves_what_a_process_has_begun_with_since_it_was_listed(run: Path) -> None:
    store = Store(run / "store")
    begun = Task("text", 1, {"name": "begun"})
    (store.scratch(begun) / "epochs.pt").touch()
    (damaged := artefact(run, TASKS[1]) / "content").write_bytes(b"")
    store = Store(run / "store")
    listed = list(garbage(store, {TaskName("text", TASKS[0].key)}))
    assert {piece.path.parent.name for piece in listed} >= {"scratch", TASKS[1].key[:2]}
    damaged.write_bytes(bytes(1))
    with Store(run / "store").claim([begun]):
        for piece in listed:
            remove(store, piece)
        assert (store.scratch(begun) / "epochs.pt").exists()
        assert store.is_claimed(begun)
    assert artefact(run, TASKS[1]).is_dir()


def test_gc_leaves_what_a_damaged_artefacts_task_goes_on_from(run: Path) -> None:
    (artefact(run, TASKS[1]) / "content").write_bytes(b"")
    (Store(run / "store").scratch(TASKS[1]) / "epochs.pt").touch()
    call("store", "gc", run, "--delete")
    assert (Store(run / "store").scratch(TASKS[1]) / "epochs.pt").exists()


def test_gc_takes_another_hosts_leftovers_after_a_day(run: Path) -> None:
    young, old = (run / "store" / "aside" / f"otherhost~text~{n}" for n in ("young", "old"))
    for folder in (young, old):
        folder.mkdir(parents=True)
    before = time.time() - 2 * 24 * 3600
    os.utime(old, (before, before))
    call("store", "gc", run, "--delete")
    assert young.exists()
    assert not old.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "slurm"), "needs the command sbatch, which is not here"),
        (("--ray-address", "head:6379"), "a Ray address belongs to the engine 'ray'"),
    ],
)
def test_an_engine_that_cannot_start_is_refused(
    write_protocol: WriteProtocol, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    code, shown = call("run", write_protocol(), "--out", tmp_path / "run", *options)
    assert code == 2
    assert message in shown


def test_what_was_set_aside_as_damaged_is_counted_and_can_go(run: Path) -> None:
    (artefact(run, TASKS[1]) / "content").write_bytes(b"1")
    assert call("store", "verify", run)[0] == 1
    assert "damaged" in call("store", "du", run)[1]
    assert "damaged, and set aside to be looked at" in call("store", "gc", run)[1]
    assert list((run / "store" / "damaged").iterdir())
    call("store", "gc", run, "--delete")
    assert not list((run / "store" / "damaged").iterdir())
