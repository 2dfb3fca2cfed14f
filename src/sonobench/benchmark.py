"""One benchmark from protocol to report: the only place where all rooms meet."""

import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from sonobench import steps
from sonobench.encoders import file_sha256
from sonobench.engine import Failure, Job, LocalEngine, Store, Task, log_to, log_to_console
from sonobench.evaluation import Evaluation, EvaluationSettings, evaluate
from sonobench.images import Geometry, Pack
from sonobench.preparation import (
    Data,
    Member,
    decode_and_divide,
    find_cohorts,
    find_encoders,
    hash_files,
)
from sonobench.protocol import (
    Protocol,
    ProtocolError,
    find_protocol,
    load_protocol,
    protocol_hash,
    safe_name,
    shipped_protocols,
)
from sonobench.report import write_report
from sonobench.tables import (
    PREDICTIONS,
    RESULTS,
    SAMPLES,
    SPLITS,
    TableError,
    read_classes,
    read_table,
    replace_file,
    write_csv,
    write_parquet,
)

_logger = logging.getLogger("sonobench")

_PACKAGES = (
    "sonobench",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "pillow",
)
# Pictures a class and cohort in the report's gallery.
_THUMBNAILS = 6


@dataclass(frozen=True)
class Run:
    """A finished benchmark: its folder, its tables as pandas frames, and what failed.

    Attributes:
        folder: what the run left.
        evaluation: what its predictions say.
        failures: jobs that failed or were skipped because of another; none when all is well.
    """

    folder: Path
    evaluation: Evaluation
    failures: tuple[Failure, ...] = ()

    @property
    def results(self) -> pd.DataFrame:
        """The long table of results, one row a model, evaluation and metric."""
        return self.evaluation.results


@dataclass
class Clock:
    """Seconds that each stage of a run took, for the manifest."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)


def run(
    protocol: str | Path | Protocol,
    out: str | Path | None = None,
    *,
    data_root: str | Path | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    workers: int | None = None,
    images: bool = True,
) -> Run:
    """Run a benchmark, or go on with one; what the store has is not computed again.

    Args:
        protocol: the name of a shipped protocol, a YAML file, or a `Protocol`.
        out: folder for the run; `runs/<name of the protocol>` if None.
        data_root: what paths in the protocol are relative to; if None `SONOBENCH_DATA`, else the
            protocol file's folder (for shipped ones the working directory).
        store: folder for artefacts; if None `SONOBENCH_STORE`, else `out/store`.
        device: `cpu` or `cuda`; `auto` takes CUDA where there is a device. Fixed in the run's
            protocol before it is hashed, as it can change results.
        overrides: `KEY=VALUE` of single protocol values, dotted.
        workers: tasks at a time; as many as the cores allow if None. It changes no result.
        images: whether pictures of the images are left in the run's folder.

    Raises:
        ProtocolError, DatasetError, EncoderError: what is wrong, where, and what to do.
    """
    plan = Plan.make(protocol, out, data_root, store, device, overrides, workers)
    with plan.opened(), log_to_console(), log_to(plan.out / "log.txt"):
        return plan.execute(images)


@dataclass(frozen=True)
class Plan:
    """A run that is about to happen: its protocol, resolved, its places and its workers."""

    protocol: Protocol
    out: Path
    data_root: Path
    store_root: Path
    workers: int

    @classmethod
    def make(
        cls,
        protocol: str | Path | Protocol,
        out: str | Path | None,
        data_root: str | Path | None,
        store: str | Path | None,
        device: str,
        overrides: Sequence[str],
        workers: int | None = None,
    ) -> "Plan":
        """Resolve names and defaults; the arguments are those of `run`."""
        home = Path.cwd()
        if not isinstance(protocol, Protocol):
            file = find_protocol(protocol)
            if str(protocol) not in shipped_protocols():
                home = file.parent
            protocol = load_protocol(file, overrides)
        elif overrides:
            raise ProtocolError("overrides apply to a protocol's file; change the object instead")
        protocol = _with_backend(protocol, device)
        folder = Path(out) if out is not None else Path("runs") / protocol.name
        return cls(
            protocol,
            folder,
            Path(data_root or os.environ.get("SONOBENCH_DATA") or home),
            Path(store or os.environ.get("SONOBENCH_STORE") or folder / "store"),
            workers or _workers(protocol),
        )

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the run's folder, refusing one that holds another benchmark."""
        resolved = self.out / "protocol.yaml"
        if resolved.is_file():
            there = load_protocol(resolved)
            if there.name != self.protocol.name:
                raise ProtocolError(
                    f"{self.out} holds a run of protocol '{there.name}', this is "
                    f"'{self.protocol.name}'; choose another folder (--out)"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        yield

    def execute(self, images: bool) -> Run:
        """Do what is missing and write everything that a run leaves."""
        protocol, out, clock = self.protocol, self.out, Clock()
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        identity = protocol_hash(protocol)
        _logger.info("protocol %s (%s) → %s", protocol.name, identity[:12], out)
        header = f"# sonobench protocol, every setting written out\n# sha256: {identity}\n"
        replace_file(out / "protocol.yaml", (header + protocol.to_yaml()).encode())

        store = Store(self.store_root)
        # Decoding fills all cores with threads of its own, one cohort after the other.
        alone, engine = LocalEngine(store, 1), LocalEngine(store, self.workers)
        with clock.stage("preparation"):
            members, skipped = find_encoders(protocol, self.data_root)
            cohorts = find_cohorts(protocol, self.data_root, alone, store)
            files, left_out = hash_files(cohorts, protocol.unreadable)
        with clock.stage("decoding and splits"):
            data = decode_and_divide(protocol, files, geometries(members), alone, store, left_out)
        _write_data(out, data)

        with clock.stage("embedding and training"):
            jobs, certificates, adapted = self.jobs(members, data)
            failures = engine.run(jobs)
        with clock.stage("writing predictions"):
            trained = _write_predictions(out, store, adapted, protocol)
            _write_certificates(out, store, certificates)
            _write_thumbnails(out, store, data, images)
        manifest = {
            **_environment(),
            "started": started,
            "command": sys.argv,
            "protocol": {"name": protocol.name, "sha256": identity},
            "encoders": [_encoder_record(member) for member in members],
            "skipped": [{"encoder": s.label, "reason": s.reason} for s in skipped],
            "failures": [{"job": f.job, "error": f.error} for f in failures],
            "trained": trained,
            "datasets": {
                name: {
                    "images": len(rows),
                    "fingerprint": steps.digest(sorted(rows["pixel_sha256"])),
                    "metadata_sha256": file_sha256(files[str(name)].cohort.metadata),
                }
                for name, rows in data.samples.groupby("dataset", sort=False)
            },
            "seconds": clock.seconds,
        }
        _write_json(out / "manifest.json", manifest)
        with clock.stage("evaluation and report"):
            evaluation = report(out)
        _write_json(out / "manifest.json", {**manifest, "seconds": clock.seconds})
        return Run(out, evaluation, tuple(failures))

    def jobs(
        self, members: Sequence[Member], data: Data
    ) -> tuple[list[Job], dict[str, Task], dict[tuple[str, str, int], Task]]:
        """Jobs of admission, embedding and adaptation.

        Returns:
            The jobs, the certificate's task of each encoder's label, and the task of each trained
            (encoder, adaptation, seed).
        """
        protocol = self.protocol
        numerics, classes, seed = protocol.numerics, protocol.classes, protocol.seeds[0]
        settings = protocol.adaptations.linear_probe
        majority = steps.majority_job(data.samples, data.splits, classes)
        jobs, certificates = [majority], dict[str, Task]()
        adapted = {("none", "majority_class", seed): majority.tasks[0]}
        for member in members:
            features = dict[int, list[Task]]()
            if member.embeddings is not None:
                read = steps.given_embeddings_job(
                    member.entry.label,
                    member.embeddings,
                    file_sha256(member.embeddings),
                    data.samples,
                )
                jobs.append(read)
                features[seed] = list(read.tasks)
            for spec in member.specs:
                certificate = steps.certificate_job(spec, numerics)
                jobs.append(certificate)
                certificates.setdefault(spec.label, certificate.tasks[0])
                tasks = features.setdefault(spec.seed if spec.seed is not None else seed, [])
                for name, positions in data.positions.items():
                    pixels = data.samples.loc[data.samples["dataset"] == name, "pixel_sha256"]
                    embedding, embedded = steps.embed_jobs(
                        spec,
                        name,
                        pixels.tolist(),
                        positions,
                        steps.pack_task(data.files[name].hashes, spec.card.preprocess.geometry),
                        certificate.tasks[0],
                        numerics,
                        shares=self.workers,
                    )
                    jobs += embedding
                    tasks += embedded
            if settings is None:
                continue
            for trained_seed, tasks in features.items():
                name = f"linear probe {member.entry.label}"
                name += f" seed {trained_seed}" if len(features) > 1 else ""
                probe = steps.probe_job(
                    name, tasks, data.samples, data.splits, classes, settings, numerics
                )
                jobs.append(probe)
                adapted[member.entry.label, "linear_probe", trained_seed] = probe.tasks[0]
        return _each_task_once(jobs), certificates, adapted


def report(folder: Path) -> Evaluation:
    """Evaluate a run's predictions and write its tables and report, from its folder alone.

    Raises:
        TableError: a file of the folder is missing or wrong.
    """
    protocol = load_protocol(folder / "protocol.yaml")
    samples = read_table(folder / "samples.parquet", SAMPLES)
    files = sorted((folder / "predictions").glob("*.parquet"))
    if not files:
        raise TableError(f"{folder / 'predictions'}: expected predictions, found none")
    for file in files:
        if read_classes(file) != protocol.classes:
            raise TableError(
                f"{file}: its logits are in the order {', '.join(read_classes(file))}, the "
                f"protocol's classes are {', '.join(protocol.classes)}"
            )
    predictions = pd.concat([read_table(file, PREDICTIONS) for file in files], ignore_index=True)
    evaluation = evaluate(predictions, samples, evaluation_settings(protocol, samples))
    write_parquet(evaluation.results, folder / "results.parquet", RESULTS)
    write_csv(evaluation.results, folder / "results.csv", RESULTS)
    write_report(folder, evaluation)
    return evaluation


def evaluation_settings(protocol: Protocol, samples: pd.DataFrame) -> EvaluationSettings:
    """The evaluation's own settings, from the protocol and the labels of each external cohort."""
    labels = samples.groupby("dataset")["label"].unique()
    scheme = protocol.split.scheme
    return EvaluationSettings(
        classes=protocol.classes,
        source=protocol.source.name,
        declared={
            dataset.name: dataset.classes
            or tuple(name for name in protocol.classes if name in labels[dataset.name])
            for dataset in protocol.external
        },
        estimand="held_out" if scheme == "official_test" else "cross_validation",
        bootstrap_draws=protocol.evaluation.bootstrap_draws,
        confidence=protocol.evaluation.confidence,
        seed=protocol.evaluation.seed,
    )


def geometries(members: Sequence[Member]) -> list[Geometry]:
    """Every geometry that a run needs, the thumbnails' last."""
    needed = [member.geometry for member in members if member.geometry is not None]
    return list(dict.fromkeys([*needed, steps.THUMBNAIL]))


def _with_backend(protocol: Protocol, device: str) -> Protocol:
    backend = protocol.numerics.backend if device == "auto" else device
    if backend == "auto":
        backend = "cuda" if torch.cuda.is_available() else "cpu"
    if backend == "cuda" and not torch.cuda.is_available():
        raise ProtocolError("the device is cuda, and this machine has none; use --device cpu")
    numerics = protocol.numerics.model_copy(update={"backend": backend})
    return protocol.model_copy(update={"numerics": numerics})


def _each_task_once(jobs: Sequence[Job]) -> list[Job]:
    """Take from a job what an earlier one makes: one encoder under two labels is one work."""
    made = set[Task]()
    kept = []
    for job in jobs:
        own = tuple(task for task in job.tasks if task not in made)
        made.update(own)
        if own:
            kept.append(replace(job, tasks=own))
    return kept


def _workers(protocol: Protocol) -> int:
    if protocol.numerics.backend == "cuda":
        return 1
    return max(1, (os.cpu_count() or 1) // protocol.numerics.threads_per_task)


def _write_data(out: Path, data: Data) -> None:
    write_parquet(data.samples, out / "samples.parquet", SAMPLES)
    write_parquet(data.splits, out / "splits.parquet", SPLITS)
    _write_json(out / "audit.json", data.audit)


def _write_predictions(
    out: Path, store: Store, adapted: dict[tuple[str, str, int], Task], protocol: Protocol
) -> list[dict[str, str]]:
    predictions: dict[tuple[str, str], list[pd.DataFrame]] = {}
    paths = []
    for (encoder, adaptation, seed), task in adapted.items():
        if not store.has(task):
            continue
        made = steps.read_adapted(store, task)
        rows = made.predictions.assign(encoder=encoder, adaptation=adaptation, seed=seed)
        predictions.setdefault((encoder, adaptation), []).append(rows)
        if adaptation == "linear_probe":
            paths.append(made.diagnostics.assign(encoder=encoder, seed=seed))
    written = set()
    for (encoder, adaptation), tables in predictions.items():
        file = out / "predictions" / f"{safe_name(encoder)}__{adaptation}.parquet"
        write_parquet(pd.concat(tables, ignore_index=True), file, PREDICTIONS, protocol.classes)
        written.add(file)
    # What an earlier protocol of this folder left is not of this run.
    for file in set((out / "predictions").glob("*.parquet")) - written:
        file.unlink()
    probes = out / "diagnostics" / "probe.parquet"
    probes.unlink(missing_ok=True)
    if paths:
        replace_file(probes, pd.concat(paths, ignore_index=True).to_parquet(index=False))
    return [{"encoder": encoder, "adaptation": adaptation} for encoder, adaptation in predictions]


def _write_certificates(out: Path, store: Store, certificates: dict[str, Task]) -> None:
    for label, task in certificates.items():
        if store.has(task):
            text = (store.folder(task) / "certificate.json").read_bytes()
            replace_file(out / "diagnostics" / "certificates" / f"{safe_name(label)}.json", text)


def _write_thumbnails(out: Path, store: Store, data: Data, images: bool) -> None:
    """Pictures of a few subjects of each cohort and class, over all sites, one a subject."""
    folder = out / "diagnostics" / "thumbnails"
    shutil.rmtree(folder, ignore_errors=True)
    if not images:
        return
    rows = []
    for name, files in data.files.items():
        task = steps.pack_task(files.hashes, steps.THUMBNAIL)
        pack = Pack(store.folder(task), steps.THUMBNAIL)
        table = data.samples[data.samples["dataset"] == name]
        table = table.assign(position=data.positions[name]).sort_values("image_id")
        table = table.drop_duplicates(["label", "subject_id"])
        # The first of every site, then the second of every site …
        turn = table.groupby(["label", "site"], dropna=False).cumcount()
        chosen = table.iloc[np.argsort(turn, kind="stable")].groupby("label").head(_THUMBNAILS)
        for row in chosen.itertuples():
            square = pack.batch(np.array([row.position]))[0]
            picture = Image.fromarray(square[0] if len(square) == 1 else square.transpose(1, 2, 0))
            file = f"{steps.digest([row.image_id])[:16]}.png"
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / file, optimize=True)
            rows.append({"image_id": row.image_id, "file": file})
    replace_file(folder / "index.csv", pd.DataFrame(rows).to_csv(index=False).encode())


def _encoder_record(member: Member) -> dict[str, Any]:
    if not member.specs:
        file = member.embeddings
        assert file is not None
        record = {"embeddings": file.name, "sha256": file_sha256(file), "verified": False}
        return {"label": member.entry.label, **record}
    card = member.specs[0].card
    return {
        "label": member.entry.label,
        "architecture": card.architecture,
        "feature": card.feature,
        "dimension": card.dimension,
        "citation": card.citation,
        "licence": card.licence,
        "control": card.control,
        "weights": member.specs[0].identity["weights"],
        "preprocess": member.specs[0].identity["preprocess"],
        "pretraining": {
            name: {"status": record.status, "evidence": record.evidence}
            for name, record in card.pretraining.items()
        },
        "verified": True,
    }


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu_count": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _write_json(file: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    replace_file(file, (text + "\n").encode())
