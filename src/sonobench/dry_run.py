"""What a run would do, need and take, without doing it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sonobench import steps
from sonobench.benchmark import Plan, geometries
from sonobench.datasets import DatasetError
from sonobench.encoders import EncoderSpec, open_encoder
from sonobench.engine import LocalEngine, Store
from sonobench.images import CannotDecode, Geometry, UnreadableImage, decode
from sonobench.jobs import plan_curve, plan_jobs
from sonobench.members import find_encoders
from sonobench.preflight import NOT_JUDGED, foreseen_of_metadata
from sonobench.preparation import Files, decode_and_divide, find_cohorts, hash_files

# Files of a cohort, and micro-batches of an encoder, that are timed.
_SAMPLED_FILES = 12
_TIMED_BATCHES = 2
# A backward pass costs about two forward passes.
_TRAINING_PASSES = 3


def dry_run(plan: Plan, console: Console) -> None:
    """Print tasks, missing weights, disk and an estimate of time.

    Synthetic images are drawn if the protocol asks for some, and what is already decoded is used;
    nothing else is made. Time is estimated from a few decoded files and timed batches.

    Args:
        plan: of the run.
        console: where it is printed.
    """
    store = Store(plan.store_root)
    engine = LocalEngine(store, 1)
    members, skipped = find_encoders(plan.protocol, plan.data_root)
    cohorts = find_cohorts(plan.protocol, plan.data_root, engine, store)
    files, left_out = hash_files(cohorts, plan.protocol.unreadable)
    needed = geometries(plan.protocol, members)
    total = sum(len(found.hashes) for found in files.values())

    console.print(f"protocol {plan.protocol.name} → {plan.out}, store {store.root}", markup=False)
    table = Table("step", "tasks", "done", "to do", "disk", "time")
    packs = [steps.index_task(found.hashes) for found in files.values()]
    packs += [
        steps.pack_task(found.hashes, geometry)
        for name, found in files.items()
        for geometry in needed[name]
    ]
    decoded = sum(store.has(task) for task in packs)
    seconds, pixel_bytes = _time_decoding(files, needed)
    left = 1 - decoded / len(packs)
    _row(table, f"decode {total:,} images", len(packs), decoded, pixel_bytes * left, seconds * left)

    if decoded == len(packs):
        data = decode_and_divide(plan.protocol, files, needed, engine, store, left_out)
        jobs, _, adapted = plan_jobs(plan.protocol, members, data, plan.shares)
        jobs += plan_curve(plan.protocol, data, adapted)[0]
        not_judged = [one for one in data.audit["findings"] if one["kind"] == NOT_JUDGED]
        present = {job.name: sum(store.has(task) for task in job.tasks) for job in jobs}
        made = {job.name: len(job.tasks) for job in jobs}
        joined = [f for f in data.audit["findings"] if f["kind"] == "joined_subjects"]
        notes = [f"{finding['cohort']}: {finding['message']}" for finding in joined]
    else:
        jobs, present, made = [], {}, {}
        found = foreseen_of_metadata(plan.protocol, [one.cohort for one in files.values()])
        if errors := [one for one in found if one.severity == "error"]:
            raise DatasetError("\n".join(f"'{one.cohort}': {one.message}" for one in errors))
        not_judged = [asdict(one) for one in found]
        notes = ["?: known once the images are decoded, with which a run begins."]
        if plan.protocol.subjects.join_near_duplicates:
            notes.append(
                "subjects.join_near_duplicates: whom it joins, and so the folds, is known once the "
                "images are decoded."
            )
    for member in members:
        for spec in member.specs:
            names = [n for n in made if n.startswith(f"embed {spec.label}")]
            tasks = sum(made[name] for name in names)
            done = sum(present[name] for name in names)
            left = 1 - done / tasks if tasks else 1.0
            rate = _images_a_second(plan, spec)
            if "linear_probe" in plan.protocol.adaptations_of(member.entry):
                _row(
                    table,
                    f"embed {spec.label}",
                    tasks or None,
                    done,
                    4 * spec.card.dimension * total * left,
                    total / rate * left,
                )
        for adaptation, settings in member.trainings(plan.protocol).items():
            title = f"{adaptation.replace('_', ' ')} {member.entry.label}"
            own = [job for job in jobs if job.name.startswith(f"{title} ")]
            # Until images are decoded and divided: as if all of the source were trained on.
            images = (
                sum(job.total for job in own if not present[job.name])
                if own
                else (
                    len(files[plan.protocol.source.name].hashes)
                    * settings.epochs
                    * (plan.protocol.split.folds + len(settings.learning_rate_search))
                    * len(plan.protocol.seeds)
                )
            )
            done = sum(present[job.name] for job in own)
            _row(table, title, len(own) or None, done, 0, images * _TRAINING_PASSES / rate)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    for one in not_judged:
        console.print(one["message"], markup=False, soft_wrap=True)
    for entry in skipped:
        console.print(f"skipped: {entry.reason}", markup=False, soft_wrap=True)
    for message in (message for messages in left_out.values() for message in messages):
        console.print(f"left out {message}", markup=False, soft_wrap=True)
    console.print("Linear probes take seconds to minutes each and are not in the estimate.")


def _row(
    table: Table, name: str, tasks: int | None, done: int, disk: float, seconds: float
) -> None:
    # The number of embedding tasks is known once the images are decoded.
    known = ("?", "?", "?") if tasks is None else (str(tasks), str(done), str(tasks - done))
    size = f"{disk / 2**20:,.1f} MiB" if disk else "–"
    table.add_row(Text(name), *known, size, f"{seconds:,.0f} s")


def _time_decoding(
    files: Mapping[str, Files], needed: Mapping[str, Sequence[Geometry]]
) -> tuple[float, float]:
    seconds = size = 0.0
    for name, found in files.items():
        paths = found.cohort.files()
        sampled = paths[:: max(1, len(paths) // _SAMPLED_FILES)]
        start, taken = time.perf_counter(), 0
        for path in sampled:
            try:
                decoded = decode(path)
            except (UnreadableImage, CannotDecode):
                continue
            taken += sum(geometry.render(decoded.pixels).nbytes for geometry in needed[name])
        share = len(paths) / len(sampled)
        seconds += (time.perf_counter() - start) * share
        size += taken * share
    return seconds / max(1, torch.get_num_threads()), size


def _images_a_second(plan: Plan, spec: EncoderSpec) -> float:
    numerics = plan.protocol.numerics
    encoder, _ = open_encoder(spec, numerics.backend, numerics.embedding_precision)
    side = spec.card.preprocess.geometry.size
    batch = torch.zeros(steps.micro_batch(numerics, spec), 1, side, side, dtype=torch.uint8)
    encoder.features(batch[:1])
    start = time.perf_counter()
    for _ in range(_TIMED_BATCHES):
        encoder.features(batch)
    return _TIMED_BATCHES * len(batch) / (time.perf_counter() - start)
