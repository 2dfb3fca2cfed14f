"""Steps of the encoders: admission, embedding in chunks, and features computed elsewhere."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sonobench.encoders import (
    RANDOM_MEDIAN,
    Encoder,
    EncoderError,
    EncoderSpec,
    KeyTable,
    certify,
    embed,
    open_encoder,
)
from sonobench.engine import JSON, Job, Progress, Store, Task
from sonobench.images import Pack
from sonobench.protocol import Numerics
from sonobench.steps.common import digest, micro_batch, threads

# Images an embedding task: what a killed run loses at most, for each encoder at work. An
# accelerator takes a second or two for as many as take a core minutes.
_CHUNK = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class Chunk:
    """Images `start` … `stop` of a cohort, and the task that embeds them."""

    task: Task
    start: int
    stop: int


def _named(spec: EncoderSpec) -> str:
    return f"{spec.label} seed {spec.seed}" if spec.seed else spec.label


# The encoder that this process opened last: certificate and embeddings come one after the other.
_last_opened: dict[str, tuple[Encoder, KeyTable | None]] = {}


def _opened(spec: EncoderSpec, numerics: Numerics) -> tuple[Encoder, KeyTable | None]:
    backend, precision = numerics.backend, numerics.embedding_precision
    key = json.dumps([spec.identity, backend, precision], sort_keys=True)
    if key not in _last_opened:
        _last_opened.clear()
        _last_opened[key] = open_encoder(spec, backend, precision)
    return _last_opened[key]


def certificate_job(spec: EncoderSpec, numerics: Numerics, admission: str) -> Job:
    """Admission of an encoder; `strict` refuses one whose weights look random."""
    settings: dict[str, JSON] = {
        "encoder": spec.identity,
        "numerics": numerics.model_dump(mode="json"),
        "admission": admission,
    }
    task = Task("certificate", 4, settings)
    step = partial(_certify, spec, numerics, admission)
    return Job(f"admit {_named(spec)}", (task,), step, unit="encoders")


def _certify(
    spec: EncoderSpec,
    numerics: Numerics,
    admission: str,
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    with threads(numerics):
        encoder, table = _opened(spec, numerics)
        certificate = certify(spec, encoder, table)
    if admission == "strict" and certificate["random_looking"] and not spec.card.control:
        raise EncoderError(
            f"{spec.label}: not admitted: its weights look random (median distance of their "
            f"spectra to the Marchenko–Pastur law {certificate['spectral_distance_median']:.3f}, "
            f"expected {RANDOM_MEDIAN} or more). Check the file, or set 'admission' to mark."
        )
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
    size = _CHUNK[numerics.backend]
    chunks = [
        Chunk(
            Task("embed", 2, {**settings, "pixels": digest(pixels[start : start + size])}),
            start,
            min(start + size, len(pixels)),
        )
        for start in range(0, len(pixels), size)
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
    with threads(numerics):
        encoder, _ = _opened(spec, numerics)
        for task in tasks:
            chunk = chunks[task.key]
            features = embed(
                encoder,
                pack,
                positions[chunk.start : chunk.stop],
                micro_batch=micro_batch(numerics, spec),
                on_progress=progress.advance,
            )
            with store.write(task) as folder:
                np.save(folder / "features.npy", features)


def given_embeddings_job(label: str, file: Path, file_hash: str, samples: pd.DataFrame) -> Job:
    """Features that were computed elsewhere, in the order of the sample table."""
    image_ids = samples["image_id"].tolist()
    task = Task("embed", 1, {"file": file_hash, "image_ids": digest(image_ids)})
    return Job(
        f"read {label}",
        (task,),
        partial(_read_embeddings, file, file_hash, image_ids),
        unit="files",
    )


def _read_embeddings(
    file: Path,
    file_hash: str,
    image_ids: list[str],
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != file_hash:
            raise EncoderError(f"{file} has changed since the run began; start it again")
        table = pq.read_table(
            pa.BufferReader(content), columns=["image_id", "features"]
        ).to_pandas()
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
    for image_id, row in zip(image_ids, rows, strict=True):
        is_vector = isinstance(row, np.ndarray) and row.ndim == 1 and len(row) > 0
        if not is_vector or not np.issubdtype(row.dtype, np.number) or np.iscomplexobj(row):
            found = f"{row.dtype} {row.shape}" if isinstance(row, np.ndarray) else repr(row)
            raise EncoderError(
                f"{file}: features of '{image_id}': expected a list of numbers, found {found[:80]}"
            )
    lengths = Counter(map(len, rows))
    if len(lengths) != 1:
        (usual, _), *others = lengths.most_common()
        odd = next(i for i, row in zip(image_ids, rows, strict=True) if len(row) == others[0][0])
        raise EncoderError(
            f"{file}: features differ in length: most have {usual} numbers, those of '{odd}' "
            f"{others[0][0]}"
        )
    # A number that float32 cannot hold becomes infinite, and is told as such.
    with np.errstate(over="ignore"):
        features = np.array(rows).astype(np.float32)
    if not np.isfinite(features).all():
        bad = image_ids[int(np.flatnonzero(~np.isfinite(features).all(1))[0])]
        raise EncoderError(f"{file}: features of '{bad}' are not finite")
    for task in tasks:
        with store.write(task) as folder:
            np.save(folder / "features.npy", features)
    progress.advance()
