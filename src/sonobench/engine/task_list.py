"""Which jobs a run is made of, as a file in its folder, and how far they are by the store."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sonobench.engine.job import Job
from sonobench.engine.store import Store, StoreError
from sonobench.engine.task import TaskName

_FILE = "tasks.json"

State = Literal["done", "running", "waiting", "failed", "skipped"]


@dataclass(frozen=True)
class ListedJob:
    """A job as the list has it: enough to ask the store for it.

    Attributes:
        name: of the job.
        kind: of its tasks.
        tasks: what it makes.
        needs: what must be there first.
    """

    name: str
    kind: str
    tasks: tuple[TaskName, ...]
    needs: tuple[TaskName, ...]


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes:
        job: which.
        state: done: all of its tasks are in the store; running: a process holds the claim of one;
            failed: the last attempt did; skipped: it needs what failed; waiting: none of these.
        tasks_done: how many of its tasks are in the store.
        reason: why it failed, or the job because of which it is skipped.
    """

    job: ListedJob
    state: State
    tasks_done: int
    reason: str = ""


def list_as_json(jobs: Sequence[Job], store: Store, folder: Path) -> dict[str, Any]:
    """The list of a run's jobs.

    Args:
        jobs: all of them.
        store: where their artefacts are.
        folder: of the run; a store within it is written down relative to it.
    """
    root, home = store.root, folder.absolute()
    place = os.path.relpath(root, home) if root.is_relative_to(home) else str(root)
    return {
        "store": place,
        "jobs": [
            {
                "name": job.name,
                "kind": job.kind,
                "tasks": [[task.kind, task.key] for task in job.tasks],
                "needs": [[task.kind, task.key] for task in job.needs],
            }
            for job in jobs
        ],
    }


def read_list(folder: Path) -> tuple[Path, list[ListedJob]]:
    """The store's folder and the jobs of a run, from its folder.

    Raises:
        StoreError: there is no list, or it cannot be read.
    """
    file = folder / _FILE
    try:
        content = json.loads(file.read_bytes())
        jobs = [
            ListedJob(
                job["name"],
                job["kind"],
                tuple(TaskName(*name) for name in job["tasks"]),
                tuple(TaskName(*name) for name in job["needs"]),
            )
            for job in content["jobs"]
        ]
        return folder / content["store"], jobs
    except FileNotFoundError:
        raise StoreError(
            f"{file} is not there: {folder} is no run's folder, or the run has not come to its "
            f"encoders yet (its {folder / 'log.txt'} says what it does)"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a list of a run's tasks ({error!r})") from None


def status(jobs: Sequence[ListedJob], store: Store) -> list[Status]:
    """How far each job is, from the store alone; writes nothing."""
    found: dict[str, Status] = {}
    makers = {task: job for job in jobs for task in job.tasks}
    for job in jobs:
        missing = [task for task in job.tasks if not store.has(task)]
        made = len(job.tasks) - len(missing)
        failures = filter(None, map(store.failure, missing))
        if not missing:
            found[job.name] = Status(job, "done", made)
        elif any(map(store.is_claimed, missing)):
            found[job.name] = Status(job, "running", made)
        elif (reason := next(failures, None)) is not None:
            found[job.name] = Status(job, "failed", made, reason)
        else:
            found[job.name] = Status(job, "waiting", made)
    return [_skipped(found[job.name], found, makers) or found[job.name] for job in jobs]


def _skipped(
    one: Status, found: dict[str, Status], makers: dict[TaskName, ListedJob]
) -> Status | None:
    """The status of a waiting job whose needs, or theirs, failed."""
    if one.state != "waiting":
        return None
    seen = {one.job.name}
    ahead = [one]
    while ahead:
        for need in ahead.pop().job.needs:
            maker = makers.get(need)
            if maker is None or maker.name in seen:
                continue
            seen.add(maker.name)
            needed = found[maker.name]
            if needed.state == "failed":
                return Status(one.job, "skipped", one.tasks_done, f"it needs {maker.name!r}")
            ahead.append(needed)
    return None
