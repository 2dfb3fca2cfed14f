"""Where artefacts are kept: addressed by their task's key, published whole or not at all.

    root/KIND/KE/KEY/…      an artefact: its files, and task.json with their sizes and SHA-256
    root/aside/…            unfinished ones, each with a lock that its writer holds
    root/claims/…           one lock a task that is being made
    root/scratch/KIND~KEY/  what a task that was stopped needs to go on, until it is published
    root/failures/KIND~KEY  why a task was not made, until it is published
    root/damaged/KIND~KEY~… artefacts whose content was found to be another than what was written

Several processes and hosts may use one store: an artefact appears by a rename, after all of its
files are on the disk, and never changes. Two that make the same one do no harm; claims keep
them from wasting the time.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sonobench.engine.artefact import DESCRIPTION, seal, size_of, sync, trouble_of
from sonobench.engine.task import Task, TaskName

_logger = logging.getLogger(__name__)

_OWN_FOLDERS = ("aside", "claims", "scratch", "failures", "damaged")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Some writers report a full disk without its error number: numpy and safetensors in words only,
# torch not even so, but what it had written then fills the disk to the last block.
_NO_ROOM_WORDS = re.compile("no space left|not enough free space|quota exceeded", re.IGNORECASE)
_NO_ROOM_BYTES = 1 << 20


class StoreError(Exception):
    """The store cannot be written: no room, or no permission."""


class ArtefactMissing(StoreError):
    """An artefact that is needed is not in the store, or damaged."""


class Store:
    """Artefacts in a folder, which need not exist before the first one is written.

    Args:
        root: the folder. All of it lies on one file system.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._present: set[str] = set()
        self._reported: set[Path] = set()
        self.remove_leftovers()

    def has(self, task: Task | TaskName) -> bool:
        """Whether the artefact is there, with all of its files at their sizes."""
        return task.key in self._present or self._look(task) is None

    def folder(self, task: Task) -> Path:
        """The folder with the artefact's files, to be read only.

        Raises:
            ArtefactMissing: it is not there or damaged.
        """
        trouble = None if task.key in self._present else self._look(task)
        if trouble is not None:
            raise ArtefactMissing(
                f"{task.kind} {task.key} is not in the store {self.root}: {trouble}; "
                "run the benchmark again, which makes what is missing"
            )
        return self._place(task)

    def digest(self, task: Task) -> str:
        """SHA-256 of an artefact's description, which has the SHA-256 of its every file.

        Raises:
            ArtefactMissing: as `folder`.
        """
        return hashlib.sha256((self.folder(task) / DESCRIPTION).read_bytes()).hexdigest()

    @contextmanager
    def write(self, task: Task) -> Iterator[Path]:
        """A fresh folder to write the artefact's files into; published when the block ends well.

        An error in the block removes the folder. When another process has published the same
        artefact meanwhile, this one is dropped.

        Raises:
            StoreError: the disk is full or the store cannot be written; nothing in it changed.
        """
        aside = self._aside(task.kind)
        with self._hold(_lock_file(aside), wait=True):
            try:
                aside.mkdir()
                yield aside
                seal(aside, task)
                self._publish(aside, task)
                shutil.rmtree(self._own("scratch", task), ignore_errors=True)
                self._own("failures", task).unlink(missing_ok=True)
            except Exception as error:
                if self._is_full(error):
                    raise StoreError(
                        f"no room to write {task}: {error}. {size_of(aside):,} bytes had been "
                        f"written, {shutil.disk_usage(self.root).free:,} are free where the store "
                        f"is ({self.root}). Make room there or choose another place (--store), "
                        "and run again: what was finished is kept"
                    ) from error
                raise
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def claim(self, tasks: Iterable[Task | TaskName]) -> Iterator[bool]:
        """Hold the right to make `tasks`, or yield False at once: another process has one.

        The operating system ends the claims of a process that dies.

        Raises:
            StoreError: the store cannot be written.
        """
        with ExitStack() as held:
            # In one order everywhere: of two that want the same tasks, one gets them all.
            yield all(
                held.enter_context(self._hold(self._claim_file(task)))
                for task in sorted(tasks, key=lambda task: (task.key, task.kind))
            )

    def is_claimed(self, task: Task | TaskName) -> bool:
        """Whether a process is making the task; asked without writing anything."""
        try:
            handle = os.open(self._claim_file(task), os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            # Held, or a file system without locks, where the file stands for the lock.
            return True
        finally:
            os.close(handle)
        return False

    def record_failure(self, tasks: Iterable[Task], error: str) -> None:
        """Keep why those of the tasks that are missing were not made, for whoever asks."""
        for task in tasks:
            if not self.has(task):
                # What cannot be written is in the log all the same.
                with suppress(OSError):
                    file = self._own("failures", task)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(error, encoding="utf-8")

    def failure(self, task: Task | TaskName) -> str | None:
        """Why the last attempt at a task failed; None where there was none or it has been made."""
        try:
            return self._own("failures", task).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def artefacts(self) -> Iterator[tuple[TaskName, Path]]:
        """Every artefact's name and folder, damaged ones too."""
        for folder in sorted(self.root.glob("*/??/*")):
            kind = folder.parts[len(self.root.parts)]
            if kind not in _OWN_FOLDERS:
                yield TaskName(kind, folder.name), folder

    def damaged(self) -> Iterator[tuple[Path, str]]:
        """Read every artefact again; yields the folder of each that changed, and what is wrong."""
        for _, folder in self.artefacts():
            trouble = trouble_of(folder, read=True)
            if trouble is not None:
                yield folder, trouble

    def set_aside(self, place: Path, trouble: str) -> None:
        """Move a damaged artefact to `damaged`, so that it is made anew and can be looked at.

        Args:
            place: its folder.
            trouble: what is wrong with it.

        Raises:
            StoreError: it cannot be moved.
        """
        name = f"{place.parent.parent.name}~{place.name}~{uuid.uuid4().hex[:8]}"
        aside = self.root / "damaged" / name
        try:
            aside.parent.mkdir(exist_ok=True)
            with self._alone_with_damage():
                # Another process may have moved it, and made a whole one.
                if not place.exists() or trouble_of(place, read=True) is None:
                    self._present.discard(place.name)
                    return
                place.rename(aside)
        except OSError as error:
            raise StoreError(
                f"{place} is damaged ({trouble}) and cannot be moved aside: {error.strerror}"
            ) from error
        self._present.discard(place.name)
        _logger.warning("%s is damaged (%s); moved to %s", place, trouble, aside)

    def set_aside_if_damaged(self, task: Task) -> str | None:
        """Read an artefact again; what is wrong with it, after which it is set aside, or None."""
        place = self._place(task)
        trouble = trouble_of(place, read=True) if place.exists() else None
        if trouble is not None:
            self.set_aside(place, trouble)
        return trouble

    @contextmanager
    def naming_damage(self, tasks: Iterable[Task]) -> Iterator[None]:
        """If the block fails, say which of the artefacts that it reads are damaged, if any are.

        Raises:
            ArtefactMissing: in place of the block's error, after the damaged ones are set aside.
        """
        try:
            yield
        except Exception as error:
            damaged = []
            for task in tasks:
                if (trouble := self.set_aside_if_damaged(task)) is not None:
                    damaged.append(f"{task} ({trouble})")
            if damaged:
                raise ArtefactMissing(
                    "what it needs was damaged, and is made anew by the next run: "
                    + ", ".join(damaged)
                ) from error
            raise

    def look_again(self, tasks: Iterable[Task]) -> None:
        """Forget that artefacts were there: another process may have set them aside since."""
        self._present.difference_update(task.key for task in tasks)

    def remove_leftovers(self) -> None:
        """Remove what processes of this host, now dead, have left unfinished."""
        # Of this host only: some shared file systems keep locks to the host that holds them.
        for path in list(self.root.glob(f"aside/{socket.gethostname()}~*")):
            aside = path.with_name(path.name.removesuffix(".lock"))
            with suppress(StoreError), self._hold(_lock_file(aside)) as is_left:
                if is_left:
                    shutil.rmtree(aside, ignore_errors=True)

    def scratch(self, task: Task) -> Path:
        """A folder that outlives a killed process, for a long task to go on from.

        Only who holds the task's claim may write there. It goes when the artefact is published.
        """
        folder = self._own("scratch", task)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _own(self, folder: str, task: Task | TaskName) -> Path:
        return self.root / folder / f"{task.kind}~{task.key}"

    def _claim_file(self, task: Task | TaskName) -> Path:
        return self.root / "claims" / f"{task.kind}-{task.key}.lock"

    def _place(self, task: Task | TaskName) -> Path:
        if task.kind in _OWN_FOLDERS:
            raise ValueError(f"the store keeps the name {task.kind!r} for itself")
        return self.root / task.kind / task.key[:2] / task.key

    def _aside(self, kind: str) -> Path:
        return self.root / "aside" / f"{socket.gethostname()}~{kind}~{uuid.uuid4().hex}"

    def _look(self, task: Task | TaskName) -> str | None:
        """What is wrong with an artefact, or None, which is remembered: artefacts do not change."""
        place = self._place(task)
        trouble = trouble_of(place, read=False)
        if trouble is None:
            self._present.add(task.key)
        elif not place.exists():
            return "it was not made"
        elif place not in self._reported:
            self._reported.add(place)
            _logger.warning(
                "%s %s is damaged (%s) and counts as missing: %s",
                task.kind,
                task.key[:12],
                trouble,
                place,
            )
        return trouble

    def _publish(self, aside: Path, task: Task) -> None:
        place = self._place(task)
        parents = [place.parent]
        if not place.parent.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            parents += [place.parent.parent, self.root]
        while True:
            try:
                aside.rename(place)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if self.has(task):
                return
            self.remove_damaged(place)
        for folder in parents:
            sync(folder)
        self._present.add(task.key)

    def remove_damaged(self, place: Path) -> None:
        """Remove an artefact from its place if it is damaged."""
        (self.root / "aside").mkdir(exist_ok=True)
        with self._alone_with_damage():
            if place.exists() and trouble_of(place, read=False) is not None:
                aside = self._aside("damaged")
                place.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
                _logger.warning("removed the damaged artefact %s", place)

    def _alone_with_damage(self) -> FileLock:
        """Without it, one that was found damaged could by now be replaced by a whole one."""
        (self.root / "claims").mkdir(exist_ok=True)
        return FileLock(self.root / "claims" / "damaged.lock")

    @contextmanager
    def _hold(self, file: Path, *, wait: bool = False) -> Iterator[bool]:
        """Hold a lock until the block ends; yields False where another holds it, or waits."""
        lock = FileLock(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=wait)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise StoreError(
                f"the store {self.root} cannot be written: {error}. What it has can be read; to "
                "make what is missing, choose a place with room and permission to write (--store)"
            ) from error
        try:
            yield True
        finally:
            with suppress(OSError):
                file.unlink()
            lock.release()

    def _is_full(self, error: Exception) -> bool:
        if isinstance(error, StoreError):
            return False
        return (
            (isinstance(error, OSError) and error.errno in _NO_ROOM)
            or _NO_ROOM_WORDS.search(str(error)) is not None
            or shutil.disk_usage(self.root).free < _NO_ROOM_BYTES
        )


def _lock_file(aside: Path) -> Path:
    """The lock that says that an unfinished artefact's writer lives."""
    return aside.with_name(f"{aside.name}.lock")
