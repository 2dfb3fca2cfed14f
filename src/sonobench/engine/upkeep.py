"""What a store holds, what of it is damaged, and what of it can go."""

import shutil
import socket
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sonobench.engine.artefact import size_of
from sonobench.engine.store import Store
from sonobench.engine.task import TaskName

# Another host's unfinished artefact is left over after this time without a change: its lock may
# not be seen from here, and no file system's clock is a day wrong.
_LEFT_OVER_SECONDS = 24 * 3600.0
_DAMAGED = "damaged"


@dataclass(frozen=True)
class Usage:
    """What one kind takes.

    Attributes:
        kind: of tasks, or a folder of the store's own.
        count: how many artefacts, or entries.
        size: bytes of their files.
    """

    kind: str
    count: int
    size: int


@dataclass(frozen=True)
class Garbage:
    """What can go.

    Attributes:
        path: file or folder.
        reason: why.
        size: bytes.
        claim: the task that nobody may be making when it goes; None of what is no task's own.
    """

    path: Path
    reason: str
    size: int
    claim: TaskName | None = None


def usage(store: Store) -> list[Usage]:
    """What each kind of artefact takes, the largest first; then the store's own folders."""
    sizes: dict[str, list[int]] = {}
    for name, folder in store.artefacts():
        sizes.setdefault(name.kind, []).append(size_of(folder))
    found = [Usage(kind, len(each), sum(each)) for kind, each in sizes.items()]
    found.sort(key=lambda one: -one.size)
    for own in ("aside", "scratch", "damaged"):
        entries = [path for path in store.root.glob(f"{own}/*") if path.is_dir()]
        if entries:
            found.append(Usage(own, len(entries), sum(map(size_of, entries))))
    return found


def garbage(store: Store, kept: Collection[TaskName] | None) -> Iterator[Garbage]:
    """What can go: damaged artefacts, what nobody needs, and what was left unfinished.

    Args:
        store: whose; no run that is not among the kept ones may be using it.
        kept: artefacts that runs need; those of nobody else are garbage. If None, all are needed.
    """
    present = set()
    for name, folder in store.artefacts():
        if not store.has(name):
            yield Garbage(folder, _DAMAGED, size_of(folder))
            continue
        present.add(name)
        if kept is not None and name not in kept:
            yield Garbage(folder, "of no run that is kept", size_of(folder))
    for own, separator in (("scratch", "~"), ("failures", "~"), ("claims", "-")):
        for path in sorted(store.root.glob(f"{own}/*{separator}*")):
            kind, _, key = path.name.removesuffix(".lock").partition(separator)
            name = TaskName(kind, key)
            if store.is_claimed(name):
                continue
            if own == "claims":
                yield Garbage(path, "claim of a process that died", 0, name)
            elif name in present:
                yield Garbage(path, "its task was made since", size_of(path), name)
            elif kept is not None and name not in kept:
                yield Garbage(path, "of no run that is kept", size_of(path), name)
    for path in sorted(store.root.glob("damaged/*")):
        yield Garbage(path, "damaged, and set aside to be looked at", size_of(path))
    for path in sorted(store.root.glob("aside/*")):
        if path.is_dir() and not path.name.startswith(f"{socket.gethostname()}~"):
            newest = max([path, *path.rglob("*")], key=lambda one: one.stat().st_mtime)
            if time.time() - newest.stat().st_mtime > _LEFT_OVER_SECONDS:
                yield Garbage(path, "left unfinished by another host", size_of(path))


def remove(store: Store, piece: Garbage) -> None:
    """Remove garbage, unless it is in use by now; an artefact goes at once, never in parts."""
    if piece.reason == _DAMAGED:
        store.remove_damaged(piece.path)
        return
    if piece.claim is None:
        _remove(store, piece)
        return
    # A process may have begun since it was listed. A claim's own file goes with being held.
    with store.claim([piece.claim]) as idle:
        if idle and piece.path.parent.name != "claims":
            _remove(store, piece)


def _remove(store: Store, piece: Garbage) -> None:
    if piece.path.is_file():
        piece.path.unlink(missing_ok=True)
        return
    aside = store.root / "aside" / f"{socket.gethostname()}~removed~{uuid.uuid4().hex}"
    aside.parent.mkdir(exist_ok=True)
    # Gone already: another process removes garbage too.
    with suppress(FileNotFoundError):
        piece.path.rename(aside)
        shutil.rmtree(aside)
