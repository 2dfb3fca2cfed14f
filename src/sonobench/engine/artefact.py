"""An artefact's folder: sealed with a description by which it can be checked, and checked."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from sonobench.engine.task import Task

DESCRIPTION = "task.json"


def seal(folder: Path, task: Task) -> None:
    """Put every file on the disk, and last the description by which they can be checked."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            name = path.relative_to(folder).as_posix()
            files[name] = {"size": path.stat().st_size, "sha256": digest}
        else:
            sync(path)
    description = {
        "kind": task.kind,
        "version": task.version,
        "settings": task.settings,
        "files": files,
    }
    with (folder / DESCRIPTION).open("x", encoding="utf-8") as file:
        json.dump(description, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    sync(folder)


def trouble_of(folder: Path, *, read: bool) -> str | None:
    """What is wrong with an artefact: sizes only, or with `read` every byte and its key."""
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        for name, written in description["files"].items():
            path = folder / name
            size = path.stat().st_size
            if size != written["size"]:
                return f"{name} has {size:,} bytes, {written['size']:,} were written"
            if read:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != written["sha256"]:
                        return f"{name} is not what was written: its SHA-256 differs"
        if read:
            task = Task(description["kind"], description["version"], description["settings"])
            if task.key != folder.name:
                return f"{DESCRIPTION} describes another task, {task.kind} {task.key}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be checked against its {DESCRIPTION}: {error!r}"
    return None


def sync(folder: Path) -> None:
    """Put on the disk which names a folder holds."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size_of(folder: Path) -> int:
    """Bytes of all files under a folder or of a file, which may change meanwhile."""
    size = 0
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size
