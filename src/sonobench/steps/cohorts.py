"""Steps of the cohorts: synthetic images, and decoding into packs."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

from sonobench.datasets import Cohort, write_phantom
from sonobench.engine import Job, Progress, Store, Task
from sonobench.images import Geometry, decode_all
from sonobench.steps.common import digest

THUMBNAIL = Geometry("pad_square", 96)


def phantom_job(seed: int) -> Job:
    """Both synthetic hospitals, as manifests with images."""
    task = Task("phantom", 1, {"seed": seed})
    return Job("draw synthetic images", (task,), _write_phantom, unit="phantoms")


def _write_phantom(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    for task in tasks:
        with store.write(task) as folder:
            write_phantom(
                folder,
                seed=int(str(task.settings["seed"])),
                progress=lambda done, total: progress.note(f"{done} of {total} images"),
            )
        progress.advance()


def index_task(file_hashes: Sequence[str]) -> Task:
    """What the decoding of a cohort's files found."""
    return Task("index", 3, {"files": digest(file_hashes)})


def pack_task(file_hashes: Sequence[str], geometry: Geometry) -> Task:
    """A cohort's images under one geometry."""
    return Task("pack", 2, {"files": digest(file_hashes), "geometry": asdict(geometry)})


def decode_job(
    cohort: Cohort, file_hashes: Sequence[str], geometries: Iterable[Geometry], threads: int
) -> Job:
    """One decoding pass over a cohort: its index and the packs of all geometries."""
    packs = {pack_task(file_hashes, geometry).key: geometry for geometry in geometries}
    tasks = [index_task(file_hashes)]
    tasks += [pack_task(file_hashes, geometry) for geometry in packs.values()]
    return Job(
        f"decode {cohort.name}",
        tuple(tasks),
        partial(_decode, cohort.files(), file_hashes, packs, threads),
        total=len(file_hashes) * len(tasks),
        unit="renderings",
    )


def _decode(
    files: Sequence[Path],
    hashes: Sequence[str],
    packs: Mapping[str, Geometry],
    threads: int,
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    with ExitStack() as stack:
        folders = {task: stack.enter_context(store.write(task)) for task in tasks}
        decode_all(
            files,
            next((folder for task, folder in folders.items() if task.kind == "index"), None),
            {packs[task.key]: folder for task, folder in folders.items() if task.kind == "pack"},
            hashes=hashes,
            threads=threads,
            on_progress=lambda done: progress.advance(done * len(tasks)),
        )
