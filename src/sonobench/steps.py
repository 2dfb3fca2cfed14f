"""The steps of a benchmark as jobs: which task makes what from what, and the code that does it.

A step's `version` rises when its result changes; then its artefacts are made anew.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from threadpoolctl import threadpool_limits

from sonobench.adaptation import Adapted, linear_probe, majority_class
from sonobench.datasets import Cohort, write_phantom
from sonobench.encoders import (
    Encoder,
    EncoderError,
    EncoderSpec,
    KeyTable,
    certify,
    embed,
    open_encoder,
)
from sonobench.engine import JSON, Job, Progress, Store, Task
from sonobench.images import Geometry, Pack, decode_all
from sonobench.protocol import LinearProbe, Numerics

THUMBNAIL = Geometry("pad_square", 96)
# Images an embedding task: what a killed run loses at most, for each encoder at work.
_CHUNK = 512


@dataclass(frozen=True)
class Chunk:
    """Images `start` … `stop` of a cohort, and the task that embeds them."""

    task: Task
    start: int
    stop: int


def digest(values: Iterable[object]) -> str:
    """SHA-256 of a sequence of values, each a line."""
    return hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()


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
    return Task("index", 1, {"files": digest(file_hashes)})


def pack_task(file_hashes: Sequence[str], geometry: Geometry) -> Task:
    """A cohort's images under one geometry."""
    return Task("pack", 1, {"files": digest(file_hashes), "geometry": asdict(geometry)})


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
        partial(_decode, cohort.files(), packs, threads),
        total=len(file_hashes) * len(tasks),
        unit="renderings",
    )


def _decode(
    files: Sequence[Path],
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
            threads=threads,
            on_progress=lambda done: progress.advance(done * len(tasks)),
        )


def _named(spec: EncoderSpec) -> str:
    return f"{spec.label} seed {spec.seed}" if spec.seed else spec.label


# The encoder that this process opened last: certificate and embeddings come one after the other.
_last_opened: dict[str, tuple[Encoder, KeyTable | None]] = {}


def _opened(spec: EncoderSpec, backend: str) -> tuple[Encoder, KeyTable | None]:
    key = json.dumps([spec.identity, backend], sort_keys=True)
    if key not in _last_opened:
        _last_opened.clear()
        _last_opened[key] = open_encoder(spec, backend)
    return _last_opened[key]


@contextmanager
def _arithmetic(numerics: Numerics) -> Iterator[None]:
    """Threads and precision as the protocol has them, for torch and for numpy's BLAS."""
    torch.set_num_threads(numerics.threads_per_task)
    torch.backends.cuda.matmul.allow_tf32 = numerics.tf32
    torch.backends.cudnn.allow_tf32 = numerics.tf32
    with threadpool_limits(numerics.threads_per_task):
        yield


def certificate_job(spec: EncoderSpec, numerics: Numerics) -> Job:
    """Admission of an encoder."""
    task = Task(
        "certificate", 2, {"encoder": spec.identity, "numerics": numerics.model_dump(mode="json")}
    )
    return Job(f"admit {_named(spec)}", (task,), partial(_certify, spec, numerics), unit="encoders")


def _certify(
    spec: EncoderSpec,
    numerics: Numerics,
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    with _arithmetic(numerics):
        encoder, table = _opened(spec, numerics.backend)
        certificate = certify(spec, encoder, table)
    for task in tasks:
        with store.write(task) as folder:
            text = json.dumps(certificate, indent=1, sort_keys=True)
            (folder / "certificate.json").write_text(text + "\n", encoding="utf-8")
    progress.advance()


def embed_jobs(
    spec: EncoderSpec,
    cohort: str,
    pixels: Sequence[str],
    positions: npt.NDArray[np.int64],
    pack: Task,
    certificate: Task,
    numerics: Numerics,
    shares: int,
) -> tuple[list[Job], list[Task]]:
    """Embeddings of a cohort's images, in tasks of some hundred images each.

    Args:
        spec: the encoder.
        cohort: its name, for people.
        pixels: pixel_sha256 of the images, in the order of the sample table.
        positions: their positions in the pack.
        pack: the pack with the encoder's geometry.
        certificate: without it the encoder is not used.
        numerics: the protocol's.
        shares: into how many jobs the tasks are divided, that can run side by side.

    Returns:
        The jobs, and all tasks in the order of the images.
    """
    settings = {"encoder": spec.identity, "numerics": numerics.model_dump(mode="json")}
    chunks = [
        Chunk(
            Task("embed", 1, {**settings, "pixels": digest(pixels[start : start + _CHUNK])}),
            start,
            min(start + _CHUNK, len(pixels)),
        )
        for start in range(0, len(pixels), _CHUNK)
    ]
    name = f"embed {_named(spec)} · {cohort}"
    shares = min(shares, len(chunks))
    jobs = []
    for share, part in enumerate(np.array_split(np.arange(len(chunks)), shares)):
        own = {chunks[position].task.key: chunks[position] for position in part}
        jobs.append(
            Job(
                name + (f" ({share + 1} of {shares})" if shares > 1 else ""),
                tuple(chunk.task for chunk in own.values()),
                partial(_embed, spec, own, positions, pack, numerics),
                needs=(pack, certificate),
                total=sum(chunk.stop - chunk.start for chunk in own.values()),
                unit="images",
            )
        )
    return jobs, [chunk.task for chunk in chunks]


def _embed(
    spec: EncoderSpec,
    chunks: Mapping[str, Chunk],
    positions: npt.NDArray[np.int64],
    pack_task: Task,
    numerics: Numerics,
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    pack = Pack(store.folder(pack_task), spec.card.preprocess.geometry)
    with _arithmetic(numerics):
        encoder, _ = _opened(spec, numerics.backend)
        for task in tasks:
            chunk = chunks[task.key]
            features = embed(
                encoder,
                pack,
                positions[chunk.start : chunk.stop],
                micro_batch=numerics.micro_batch,
                on_progress=progress.advance,
            )
            with store.write(task) as folder:
                np.save(folder / "features.npy", features)


def given_embeddings_job(label: str, file: Path, file_hash: str, samples: pd.DataFrame) -> Job:
    """Features that were computed elsewhere, in the order of the sample table."""
    image_ids = samples["image_id"].tolist()
    task = Task("embed", 1, {"file": file_hash, "image_ids": digest(image_ids)})
    return Job(f"read {label}", (task,), partial(_read_embeddings, file, image_ids), unit="files")


def _read_embeddings(
    file: Path, image_ids: list[str], tasks: Sequence[Task], store: Store, progress: Progress
) -> None:
    try:
        table = pq.read_table(file, columns=["image_id", "features"]).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise EncoderError(
            f"{file}: expected Parquet with the columns image_id and features ({error})"
        ) from None
    if table["image_id"].duplicated().any():
        twice = table.loc[table["image_id"].duplicated(), "image_id"].iloc[0]
        raise EncoderError(f"{file}: image_id '{twice}' stands there twice")
    by_id = table.set_index("image_id")["features"]
    missing = [image_id for image_id in image_ids if image_id not in by_id.index]
    if missing:
        raise EncoderError(
            f"{file}: no features for {len(missing)} of {len(image_ids)} images; first: "
            f"'{missing[0]}'. image_id is dataset name/path within the dataset."
        )
    rows = by_id[image_ids].tolist()
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise EncoderError(f"{file}: features differ in length: {sorted(lengths)[:5]}")
    features = np.array(rows, dtype=np.float32)
    if not np.isfinite(features).all():
        bad = image_ids[int(np.flatnonzero(~np.isfinite(features).all(1))[0])]
        raise EncoderError(f"{file}: features of '{bad}' are not finite")
    for task in tasks:
        with store.write(task) as folder:
            np.save(folder / "features.npy", features)
    progress.advance()


def probe_job(
    name: str,
    features: Sequence[Task],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    settings: LinearProbe,
    numerics: Numerics,
) -> Job:
    """The linear probe of all folds on an encoder's embeddings.

    Args:
        name: of the job.
        features: embedding tasks, together in the order of `samples`.
        samples, splits: the tables.
        classes: order of the logits.
        settings, numerics: the protocol's.
    """
    task = Task(
        "linear_probe",
        1,
        {
            "features": [task.key for task in features],
            **_who(samples, splits, classes),
            "settings": settings.model_dump(mode="json"),
            "numerics": numerics.model_dump(mode="json"),
        },
    )
    step = partial(_probe, list(features), samples, splits, classes, settings, numerics)
    needs = tuple(dict.fromkeys(features))
    return Job(name, (task,), step, needs=needs, total=len(settings.penalties), unit="penalties")


def _probe(
    features: Sequence[Task],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    settings: LinearProbe,
    numerics: Numerics,
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    stacked = np.concatenate([np.load(store.folder(task) / "features.npy") for task in features])
    with _arithmetic(numerics):
        adapted = linear_probe(
            stacked,
            samples,
            splits,
            classes,
            settings,
            device=numerics.backend,
            on_progress=lambda _done, _total: progress.advance(),
        )
    _write_adapted(adapted, tasks, store)


def majority_job(samples: pd.DataFrame, splits: pd.DataFrame, classes: tuple[str, ...]) -> Job:
    """The majority-class control."""
    task = Task("majority_class", 1, _who(samples, splits, classes))
    step = partial(_majority, samples, splits, classes)
    return Job("majority class", (task,), step, unit="controls")


def _majority(
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    _write_adapted(majority_class(samples, splits, classes), tasks, store)
    progress.advance()


def read_adapted(store: Store, task: Task) -> Adapted:
    """What an adaptation's task made."""
    folder = store.folder(task)
    return Adapted(
        pd.read_parquet(folder / "predictions.parquet"),
        pd.read_parquet(folder / "diagnostics.parquet"),
    )


def _write_adapted(adapted: Adapted, tasks: Sequence[Task], store: Store) -> None:
    for task in tasks:
        with store.write(task) as folder:
            adapted.predictions.to_parquet(folder / "predictions.parquet", index=False)
            adapted.diagnostics.to_parquet(folder / "diagnostics.parquet", index=False)


def _who(samples: pd.DataFrame, splits: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, JSON]:
    rows = samples[["image_id", "dataset", "subject_id", "label"]].itertuples(
        index=False, name=None
    )
    return {
        "samples": digest(rows),
        "splits": digest(splits.itertuples(index=False, name=None)),
        "classes": list(classes),
    }
