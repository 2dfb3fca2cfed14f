"""One benchmark from protocol to report: the only place where all rooms meet."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from sonobench import steps
from sonobench.diagnostics import write_thumbnails
from sonobench.encoders import file_sha256
from sonobench.engine import Failure, LocalEngine, Store, log_to, log_to_console
from sonobench.evaluation import Evaluation, EvaluationSettings, evaluate
from sonobench.images import Geometry
from sonobench.jobs import plan_jobs
from sonobench.outputs import (
    encoder_record,
    environment,
    write_certificates,
    write_data,
    write_json,
    write_predictions,
)
from sonobench.preparation import (
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
    shipped_protocols,
)
from sonobench.report import write_report
from sonobench.tables import (
    PREDICTIONS,
    RESULTS,
    SAMPLES,
    TableError,
    read_classes,
    read_table,
    replace_file,
    write_csv,
    write_parquet,
)

_logger = logging.getLogger("sonobench")


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
        write_data(out, data)

        with clock.stage("embedding and training"):
            jobs, certificates, adapted = plan_jobs(protocol, members, data, self.workers)
            failures = engine.run(jobs)
        with clock.stage("writing predictions"):
            trained = write_predictions(out, store, adapted, protocol)
            write_certificates(out, store, certificates)
            write_thumbnails(out, store, data, images)
        manifest = {
            **environment(),
            "started": started,
            "command": sys.argv,
            "protocol": {"name": protocol.name, "sha256": identity},
            "encoders": [encoder_record(member) for member in members],
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
        write_json(out / "manifest.json", manifest)
        with clock.stage("evaluation and report"):
            evaluation = report(out)
        write_json(out / "manifest.json", {**manifest, "seconds": clock.seconds})
        return Run(out, evaluation, tuple(failures))


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


def _workers(protocol: Protocol) -> int:
    if protocol.numerics.backend == "cuda":
        return 1
    return max(1, (os.cpu_count() or 1) // protocol.numerics.threads_per_task)
