"""The store holds whole artefacts or none, whatever happens to those who write."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_jobs import task

from sonobench.engine import ArtefactMissing, Store, StoreError, Task

TASK = task("one")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write(store: Store, content: str = "content", what: Task = TASK) -> Path:
    with store.write(what) as folder:
        (folder / "parts").mkdir()
        (folder / "parts" / "a.txt").write_text(content)
    return store.folder(what)


def unfinished(store: Store) -> list[Path]:
    return list(store.root.glob("aside/*"))


def test_an_artefact_is_read_back_where_the_layout_says(store: Store) -> None:
    folder = write(store)
    assert folder == store.root / "text" / TASK.key[:2] / TASK.key
    assert (folder / "parts" / "a.txt").read_text() == "content"
    assert not unfinished(store)


def test_its_description_tells_what_made_it_and_its_files(store: Store) -> None:
    description = json.loads((write(store) / "task.json").read_text())
    # printf content | sha256sum
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert description == {
        "kind": "text",
        "version": 1,
        "settings": {"name": "one"},
        "files": {"parts/a.txt": {"size": 7, "sha256": digest}},
    }


def test_scratch_outlives_a_failed_attempt_and_goes_with_publication(store: Store) -> None:
    (store.scratch(TASK) / "epoch").write_text("3")
    with pytest.raises(RuntimeError), store.write(TASK):
        raise RuntimeError("killed")
    assert (Store(store.root).scratch(TASK) / "epoch").read_text() == "3"
    write(store)
    assert list(store.root.glob("scratch/*")) == []


def test_what_was_not_made_is_missing_with_a_remedy(store: Store) -> None:
    assert not store.has(TASK)
    with pytest.raises(ArtefactMissing, match=f"text {TASK.key} is not in the store .*run the"):
        store.folder(TASK)


def test_looking_into_a_store_that_does_not_exist_makes_no_folder(store: Store) -> None:
    assert not store.has(TASK)
    assert not store.root.exists()


def test_nothing_is_seen_before_the_block_ends(store: Store) -> None:
    with store.write(TASK) as folder:
        (folder / "a.txt").write_text("half")
        assert not Store(store.root).has(TASK)
    assert Store(store.root).has(TASK)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_nothing_behind(
    store: Store, error: type[BaseException]
) -> None:
    def fail() -> None:
        with store.write(TASK) as folder:
            (folder / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert not store.has(TASK)
    assert not unfinished(store)


def test_of_two_that_publish_one_artefact_the_first_stays(store: Store) -> None:
    with store.write(TASK) as folder:
        write(Store(store.root), "first")
        (folder / "a.txt").write_text("second")
    assert (store.folder(TASK) / "parts" / "a.txt").read_text() == "first"
    assert not unfinished(store)


def test_a_writer_killed_in_the_middle_leaves_nothing_that_is_seen(store: Store) -> None:
    program = (
        "import os, signal, sys, pathlib; from sonobench.engine import Store, Task\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "with store.write(Task('text', 1, {'name': 'one'})) as folder:\n"
        "    (folder / 'a.txt').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, store.root], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(unfinished(store)) == 2  # the folder and its lock
    again = Store(store.root)
    assert not again.has(TASK)
    assert not unfinished(again)
    write(again)


def test_unfinished_work_of_living_processes_and_other_hosts_is_left(store: Store) -> None:
    elsewhere = store.root / "aside" / "otherhost~text~00"
    elsewhere.mkdir(parents=True)
    with store.write(TASK) as folder:
        Store(store.root)
        assert folder.exists()
        assert elsewhere.exists()


def shorten(folder: Path) -> None:
    (folder / "parts" / "a.txt").write_text("cont")


def lose_a_file(folder: Path) -> None:
    (folder / "parts" / "a.txt").unlink()


def cut_the_description(folder: Path) -> None:
    description = folder / "task.json"
    description.write_bytes(description.read_bytes()[:20])


def lose_the_description(folder: Path) -> None:
    (folder / "task.json").unlink()


def empty_the_description(folder: Path) -> None:
    (folder / "task.json").write_text("[]")


DAMAGES = [
    shorten,
    lose_a_file,
    cut_the_description,
    lose_the_description,
    empty_the_description,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artefact_counts_as_missing_and_is_made_anew(
    store: Store, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(write(store))
    later = Store(store.root)
    assert not later.has(TASK)
    assert f"{TASK} is damaged" in caplog.text
    with pytest.raises(ArtefactMissing):
        later.folder(TASK)
    folder = write(later, "new")
    assert (folder / "parts" / "a.txt").read_text() == "new"
    assert "removed the damaged artefact" in caplog.text


def test_damage_that_keeps_the_size_is_found_by_reading_everything(store: Store) -> None:
    whole = write(store, what=task("two"))
    changed = write(store)
    (changed / "parts" / "a.txt").write_text("CONTENT")
    assert Store(store.root).has(TASK)
    ((folder, trouble),) = store.damaged()
    assert folder == changed
    assert "parts/a.txt is not what was written" in trouble
    assert whole.exists()


def test_a_damaged_artefact_is_set_aside_to_be_looked_at_and_made_anew(store: Store) -> None:
    folder = write(store)
    (folder / "parts" / "a.txt").write_bytes(bytes(7))
    trouble = store.set_aside_if_damaged(TASK)
    assert trouble is not None
    assert "parts/a.txt is not what was written" in trouble
    assert not store.has(TASK)
    (kept,) = (store.root / "damaged").iterdir()
    assert (kept / "parts" / "a.txt").read_bytes() == bytes(7)
    write(store)
    assert store.set_aside_if_damaged(TASK) is None
    assert store.has(TASK)
    assert [name.key for name, _ in store.artefacts()] == [TASK.key]


def test_an_artefact_under_a_wrong_key_is_found_by_reading_everything(store: Store) -> None:
    folder = write(store)
    moved = folder.with_name(folder.name[:-1] + ("0" if folder.name[-1] != "0" else "1"))
    folder.rename(moved)
    ((found, trouble),) = store.damaged()
    assert found == moved
    assert "describes another task" in trouble


def test_a_claim_keeps_another_from_the_same_task_only(store: Store) -> None:
    other = Store(store.root)
    with store.claim([TASK, task("two")]) as claimed:
        assert claimed
        with other.claim([task("two"), task("three")]) as too:
            assert not too
        with other.claim([task("three")]) as free:
            assert free
    with other.claim([TASK, task("two")]) as claimed_after:
        assert claimed_after
    assert not list(store.root.glob("claims/text-*"))


def test_the_claim_of_a_killed_process_is_free(store: Store) -> None:
    program = (
        "import os, signal, sys, pathlib; from sonobench.engine import Store, Task\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "with store.claim([Task('text', 1, {'name': 'one'})]) as claimed:\n"
        "    assert claimed\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, store.root], check=False)
    assert list(store.root.glob("claims/text-*"))
    with store.claim([TASK]) as claimed:
        assert claimed


def write_bytes(path: Path) -> None:
    path.write_bytes(bytes(16 << 20))


def write_array(path: Path) -> None:
    np.save(path, np.zeros(16 << 20, np.uint8))


# numpy reports a full disk without an error number, as other libraries do.
@pytest.mark.parametrize("writer", [write_bytes, write_array])
def test_a_full_disk_is_a_clear_error_and_the_store_stays_whole(
    small_disk: Path, writer: Callable[[Path], None]
) -> None:
    store = Store(small_disk / "store")
    write(store, what=task("before"))
    with (
        pytest.raises(StoreError, match=r"no room to write text .*bytes had been written.*--store"),
        store.write(TASK) as folder,
    ):
        writer(folder / "large.npy")
    assert not store.has(TASK)
    assert not unfinished(store)
    assert not list(store.damaged())
    assert (store.folder(task("before")) / "parts" / "a.txt").read_text() == "content"
    write(store)


def test_an_error_of_the_step_itself_is_not_taken_for_a_full_disk(small_disk: Path) -> None:
    with pytest.raises(FileNotFoundError), Store(small_disk).write(TASK):
        Path("no such image.png").read_bytes()


def test_a_store_that_cannot_be_written_can_be_read(small_disk: Path) -> None:
    write(Store(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = Store(small_disk)
    assert (store.folder(TASK) / "parts" / "a.txt").read_text() == "content"
    with pytest.raises(StoreError, match=r"cannot be written: .*Read-only"):
        write(store, what=task("two"))
    with pytest.raises(StoreError, match="cannot be written"), store.claim([task("two")]):
        pass


def test_readers_never_see_a_half_written_artefact(store: Store) -> None:
    tasks = [task(str(n)) for n in range(15)]
    seen: list[str] = []

    def read() -> None:
        reader = Store(store.root)
        for each in tasks:
            while not reader.has(each):
                pass
            seen.append((reader.folder(each) / "parts" / "a.txt").read_text())

    thread = threading.Thread(target=read)
    thread.start()
    for each in tasks:
        write(store, "x" * 10_000, each)
    thread.join()
    assert seen == ["x" * 10_000] * 15


def test_a_store_travels_to_another_process(store: Store) -> None:
    write(store)
    travelled = pickle.loads(pickle.dumps(store))
    assert travelled.root == store.root
    assert travelled.has(TASK)


@pytest.mark.parametrize("kind", ["aside", "claims", "failures", "scratch"])
def test_the_stores_own_folders_are_no_kinds(store: Store, kind: str) -> None:
    with pytest.raises(ValueError, match="for itself"):
        store.has(Task(kind, 1, {}))


def test_files_of_an_artefact_have_the_permissions_of_the_user(store: Store) -> None:
    mask = os.umask(0o022)
    try:
        folder = write(store)
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_many_writers_of_the_same_artefacts_leave_each_once_and_whole(store: Store) -> None:
    program = (
        "import sys, pathlib; from sonobench.engine import Store, Task\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "for n in range(20):\n"
        "    with store.write(Task('text', 1, {'name': str(n)})) as folder:\n"
        "        (folder / 'a.txt').write_text(str(n) * 1000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, store.root]) for _ in range(6)]
    assert [writer.wait(timeout=600) for writer in writers] == [0] * 6
    texts = [(store.folder(task(str(n))) / "a.txt").read_text() for n in range(20)]
    assert texts == [str(n) * 1000 for n in range(20)]
    assert not list(store.damaged())
    assert not unfinished(store)


def without(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    """A file system that does not know an operation, as the operating system reports it."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(f"{module}.{name}", refuse)


def test_a_file_system_without_hard_links_is_enough(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "os", "link")
    with store.claim([TASK]) as claimed:
        assert claimed
        assert (write(store) / "parts" / "a.txt").read_text() == "content"


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_without_locks_of_the_file_system_a_claim_still_keeps_others_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "fcntl", "flock")
    with store.claim([TASK]) as claimed:
        assert claimed
        assert store.is_claimed(TASK)
        with Store(store.root).claim([TASK]) as too:
            assert not too
        write(store)
    assert not store.is_claimed(TASK)
    assert store.has(TASK)


def test_coarse_time_stamps_do_not_matter(store: Store) -> None:
    folder = write(store)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (0, 0))
    assert Store(store.root).has(TASK)
    assert not list(store.damaged())


def test_whether_a_task_is_claimed_is_asked_without_a_trace(store: Store) -> None:
    assert not store.is_claimed(TASK)
    assert not store.root.exists()


def test_why_a_task_failed_is_kept_until_it_is_made(store: Store) -> None:
    store.record_failure([TASK], "ValueError: image 7 is broken")
    assert Store(store.root).failure(TASK) == "ValueError: image 7 is broken"
    write(store)
    assert store.failure(TASK) is None


def test_a_failure_that_cannot_be_written_down_is_no_further_failure(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = Store(small_disk)
    store.record_failure([TASK], "no room")
    assert store.failure(TASK) is None
