"""One benchmark from protocol to report: the only place where all rooms meet."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock

from sonobench import steps
from sonobench.diagnostics import write_diagnostics
from sonobench.encoders import lacks
from sonobench.engine import (
    ArtefactMissing,
    Engine,
    EngineName,
    Failure,
    Job,
    LocalEngine,
    Store,
    Task,
    choose_engine,
    list_as_json,
    log_to,
    log_to_console,
)
from sonobench.evaluation import Evaluation, evaluate
from sonobench.images import Geometry
from sonobench.jobs import plan_curve, plan_jobs
from sonobench.kept_outputs import digest_of_sources, keep, read_kept
from sonobench.members import Member, find_encoders
from sonobench.outputs import (
    encoder_record,
    environment,
    learning_rate_spread,
    protocol_of_predictions,
    recorded_data_root,
    write_certificates,
    write_data,
    write_json,
    write_predictions,
    writing_alone,
)
from sonobench.preflight import evaluation_settings
from sonobench.preparation import (
    decode_and_divide,
    find_cohorts,
    forget_names,
    hash_files,
    refuse_to_name,
    with_pseudonyms,
)
from sonobench.protocol import (
    Protocol,
    ProtocolError,
    differing_settings,
    find_protocol,
    load_protocol,
    protocol_hash,
    shipped_protocols,
)
from sonobench.report import write_report
from sonobench.run_tables import (
    read_fewer_patients,
    read_run,
    write_fewer_patients,
    write_tables,
)
from sonobench.tables import TableError, replace_file

_logger = logging.getLogger("sonobench")

# On a cluster: jobs in the queue at a time, and jobs that an encoder's embedding of a cohort is
# divided into. Each of these loads the encoder, so that more of them would take longer.
_CLUSTER_WORKERS = 64
# Tasks that share a CUDA device at most, by default; each is a process with its own memory.
_SHARING = 4
_CLUSTER_SHARES = 4


@dataclass(frozen=True)
class Run:
    """A finished benchmark: its folder, its tables as pandas frames, and what failed.

    Attributes:
        folder: what the run left.
        evaluation: what its predictions say.
        failures: jobs that failed or were skipped because of another; none when all is well.
        only_controls: why each encoder was skipped, where none is left but controls.
    """

    folder: Path
    evaluation: Evaluation
    failures: tuple[Failure, ...] = ()
    only_controls: tuple[str, ...] = ()

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
    engine: EngineName = "local",
    ray_address: str | None = None,
    pseudonymise: bool = False,
    verify_store: bool = False,
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
        workers: tasks at a time; as many as the machine allows if None. It changes no result.
        images: whether pictures of the images are left in the run's folder.
        engine: where tasks run: `local`, `ray` or `slurm`. It changes no result.
        ray_address: of a running Ray cluster; if None one is started on this machine.
        pseudonymise: whether keyed hashes stand for patients and file names in all that is left.
        verify_store: whether every artefact in the store is read again first and compared with what
            was written; a damaged one is made anew.

    Raises:
        ProtocolError, DatasetError, EncoderError, EngineError: what is wrong, where, and what
            to do.
    """
    plan = Plan.make(
        protocol, out, data_root, store, device, overrides, workers, engine, ray_address
    )
    with plan.opened(), log_to_console():
        if pseudonymise:
            # Before anything can fail, or is logged.
            forget_names(plan.out)
        with log_to(plan.out / "log.txt"):
            return plan.execute(images, pseudonymise, verify_store)


@dataclass(frozen=True)
class Plan:
    """A run that is about to happen: its protocol, resolved, its places and its engine."""

    protocol: Protocol
    out: Path
    data_root: Path
    store_root: Path
    workers: int
    engine: EngineName = "local"
    ray_address: str | None = None

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
        engine: EngineName = "local",
        ray_address: str | None = None,
    ) -> "Plan":
        """Resolve names and defaults; the arguments are those of `run`."""
        home = Path.cwd()
        if not isinstance(protocol, Protocol):
            file = find_protocol(protocol)
            if str(protocol) not in shipped_protocols():
                home = recorded_data_root(file.parent) or file.parent
            protocol = load_protocol(file, overrides)
        elif overrides:
            raise ProtocolError("overrides apply to a protocol's file; change the object instead")
        protocol = _with_backend(protocol, device, here=engine == "local")
        folder = Path(out) if out is not None else Path("runs") / protocol.name
        return cls(
            protocol,
            folder,
            Path(data_root or os.environ.get("SONOBENCH_DATA") or home).absolute(),
            Path(store or os.environ.get("SONOBENCH_STORE") or folder / "store"),
            workers or _workers(protocol, engine),
            engine,
            ray_address,
        )

    @property
    def shares(self) -> int:
        """Into how many jobs an encoder's embedding of a cohort is divided."""
        return self.workers if self.engine == "local" else _CLUSTER_SHARES

    def make_engine(self, store: Store) -> Engine:
        """Where the tasks of encoders run.

        Raises:
            EngineError: what the engine needs is not there.
        """
        return choose_engine(
            self.engine,
            store,
            workers=self.workers,
            devices=_devices() if self.protocol.numerics.backend == "cuda" else (),
            ray_address=self.ray_address,
            resources=self.protocol.resources,
            folder=self.out,
        )

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the run's folder with the protocol in it, which a run without results takes away.

        Raises:
            ProtocolError: the folder cannot be written, or holds a run of another protocol.
        """
        is_new = self.take_folder()
        try:
            yield
        except BaseException:
            # Nothing is there that another protocol would mix with its own.
            if is_new and not (self.out / "manifest.json").is_file():
                (self.out / "protocol.yaml").unlink(missing_ok=True)
            raise

    def take_folder(self) -> bool:
        """Write the protocol into the run's folder; whether it was not there before.

        Raises:
            ProtocolError: the folder cannot be written, or holds a run of another protocol.
        """
        resolved = self.out / "protocol.yaml"
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            # Of two that begin at once, the second sees the first one's.
            with FileLock(self.out / ".protocol.lock"):
                is_new = not resolved.is_file()
                if not is_new:
                    _refuse_another(self.out, self.protocol)
                identity = protocol_hash(self.protocol)
                header = f"# sonobench protocol, every setting written out\n# sha256: {identity}\n"
                replace_file(resolved, (header + self.protocol.to_yaml()).encode())
        except OSError as error:
            raise ProtocolError(
                f"{self.out} cannot be written ({error.strerror}); choose another folder (--out)"
            ) from None
        return is_new

    def execute(self, images: bool, pseudonymise: bool = False, verify_store: bool = False) -> Run:
        """Do what is missing and write everything that a run leaves."""
        protocol, out, clock = self.protocol, self.out, Clock()
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        identity = protocol_hash(protocol)
        _logger.info("protocol %s (%s) → %s", protocol.name, identity[:12], out)

        store = Store(self.store_root)
        if verify_store:
            with clock.stage("verification of the store"):
                _logger.info("reading every artefact in %s again", store.root)
                for folder, trouble in store.damaged():
                    store.set_aside(folder, trouble)
        # Decoding fills all cores with threads of its own, one cohort after the other.
        alone, engine = LocalEngine(store, 1), self.make_engine(store)
        with clock.stage("preparation"):
            members, skipped = find_encoders(protocol, self.data_root)
            cohorts = find_cohorts(protocol, self.data_root, alone, store)
            if pseudonymise:
                cohorts = with_pseudonyms(protocol, cohorts)
            else:
                refuse_to_name(out)
            files, left_out = hash_files(cohorts, protocol.unreadable)
        with clock.stage("decoding and splits"):
            needed = geometries(protocol, members)
            data = decode_and_divide(protocol, files, needed, alone, store, left_out)
        write_data(out, data, pseudonymised=pseudonymise)

        with clock.stage("embedding and training"):
            jobs, certificates, adapted = plan_jobs(protocol, members, data, self.shares)
            on_fewer, curve = plan_curve(protocol, data, adapted)
            jobs += on_fewer
            tasks = [
                *(t for a in adapted.values() for t in (*a.parts, *a.trials, *a.features)),
                *curve.values(),
                *certificates.values(),
            ]
            write_json(out / "tasks.json", list_as_json([*alone.jobs, *jobs], store, out))
            set_aside_damaged(store, jobs, tasks)
            failures = engine.run(jobs)
        chosen = any(not member.is_control for member in members)
        only_controls = () if chosen else tuple(entry.reason for entry in skipped)
        facts = {
            "seeds": {
                "training": protocol.seeds,
                "split": protocol.split.seed,
                "bootstrap": protocol.evaluation.seed,
            },
            "protocol": {"name": protocol.name, "sha256": identity},
            "pseudonymised": pseudonymise,
            "encoders": [encoder_record(member) for member in members],
            "skipped": [{"encoder": s.label, "reason": s.reason} for s in skipped],
            "failures": [
                {"job": f.job, "error": f.error, "because_of": f.because_of} for f in failures
            ],
            "datasets": {
                name: {
                    "images": len(rows),
                    "fingerprint": steps.digest(sorted(rows["pixel_sha256"])),
                    "metadata_sha256": files[str(name)].cohort.metadata_sha256,
                }
                for name, rows in data.samples.groupby("dataset", sort=False)
            },
            "joined_subjects": data.audit["near_duplicates"]["joined_subjects"],
        }
        with writing_alone(out):
            # Again: it may have been deleted, or another run have taken it, meanwhile.
            self.take_folder()
            sources = digest_of_sources(out, store, tasks, {**facts, "images": images})
            if (kept := read_kept(out, sources)) is not None:
                _logger.info("%s: nothing has changed since its results were written", out)
                return Run(out, kept, tuple(failures), only_controls)
            with clock.stage("writing predictions"), store.naming_damage(tasks):
                trained = write_predictions(out, store, adapted, protocol)
                write_fewer_patients(out, store, curve, protocol)
                write_certificates(out, store, certificates)
                write_diagnostics(out, store, data, adapted, members, protocol.classes, images)
            manifest = {
                **environment(),
                "started": started,
                # Both name folders, and files that may be called by a patient.
                "command": None if pseudonymise else sys.argv,
                "data_root": None if pseudonymise else str(self.data_root),
                "engine": {"name": self.engine, "workers": self.workers},
                **facts,
                "trained": trained,
                "learning_rate_spread": learning_rate_spread(out),
                "seconds": clock.seconds,
            }
            write_json(out / "manifest.json", manifest)
            with clock.stage("evaluation and report"):
                evaluation, missing = _report(out)
            write_json(out / "manifest.json", {**manifest, "seconds": clock.seconds})
            # Figures that are missing are tried again.
            if not missing:
                keep(out, sources, evaluation)
            return Run(out, evaluation, tuple(failures), only_controls)


def report(folder: Path) -> Evaluation:
    """Evaluate a run's predictions and write its tables and report, from its folder alone.

    Raises:
        TableError: a file of the folder is missing or wrong, or the protocol is not the one that
            its predictions were made by.
    """
    with writing_alone(folder):
        return _report(folder)[0]


def _report(folder: Path) -> tuple[Evaluation, dict[str, str]]:
    """Evaluation, and why figures are missing, by their names."""
    protocol, samples, predictions = read_run(folder)
    made_by = protocol_of_predictions(folder)
    if made_by is not None and made_by != protocol_hash(protocol):
        raise TableError(
            f"{folder / 'protocol.yaml'} is not the protocol that the predictions beside it were "
            "made by: it was changed since. Bring that back, or run the changed one into another "
            "folder"
        )
    evaluation = evaluate(
        predictions,
        samples,
        evaluation_settings(protocol, samples),
        read_fewer_patients(folder, protocol),
        on_progress=lambda part: _logger.info("evaluating %s", part),
    )
    write_tables(folder, evaluation)
    return evaluation, write_report(folder, evaluation, predictions)


def _refuse_another(folder: Path, mine: Protocol) -> None:
    """Refuse a folder whose run is of another protocol, or of one that nothing tells.

    Raises:
        ProtocolError: what differs, or what is damaged.
    """
    try:
        there = load_protocol(folder / "protocol.yaml")
    except ProtocolError as error:
        has_results = (folder / "manifest.json").exists() or (folder / "predictions").exists()
        if has_results and protocol_of_predictions(folder) != protocol_hash(mine):
            raise ProtocolError(
                f"{error}\nIt says of which protocol the run in {folder} is: if of this one, "
                "delete it and start again, otherwise choose another folder (--out)"
            ) from None
        _logger.warning("%s is damaged and written anew", folder / "protocol.yaml")
        return
    if protocol_hash(there) == protocol_hash(mine):
        return
    if there.name != mine.name:
        which = f"protocol '{there.name}', this is '{mine.name}'"
    else:
        differ = differing_settings(there, mine)
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        which = f"another protocol '{mine.name}', which differs in {', '.join(differ[:5])}{more}"
    raise ProtocolError(
        f"{folder} holds a run of {which}; choose another folder (--out). What both have in common "
        "is not computed again with the same store (--store)"
    )


def set_aside_damaged(store: Store, jobs: Sequence[Job], tasks: Iterable[Task]) -> None:
    """Read again what results are made of, and what is still to be computed from.

    Args:
        store: with the artefacts; damaged ones are set aside.
        jobs: of the run, which make the former anew.
        tasks: whose artefacts results are made of.

    Raises:
        ArtefactMissing: what is to be computed from was damaged, and these jobs do not make it.
    """
    for task in tasks:
        store.set_aside_if_damaged(task)
    makers = {task for job in jobs for task in job.tasks}
    unmade = [job for job in jobs if not all(map(store.has, job.tasks))]
    needs = dict.fromkeys(need for job in unmade for need in job.needs if need not in makers)
    if damaged := [need for need in needs if store.set_aside_if_damaged(need) is not None]:
        raise ArtefactMissing(
            f"{', '.join(map(str, damaged))}: damaged, and set aside; start the run again, which "
            "makes it anew"
        )


def geometries(protocol: Protocol, members: Sequence[Member]) -> dict[str, list[Geometry]]:
    """Every geometry that a run needs of each cohort, the thumbnails' last."""
    source, needed = protocol.source.name, dict[str, list[Geometry]]()
    for name in (source, *(dataset.name for dataset in protocol.external)):
        wanted = []
        for member in members:
            if member.geometry is not None:
                wanted.append(member.geometry)
                if name == source and member.trainings(protocol):
                    wanted.append(member.geometry.for_training())
        needed[name] = list(dict.fromkeys([*wanted, steps.THUMBNAIL]))
    return needed


def _with_backend(protocol: Protocol, device: str, *, here: bool) -> Protocol:
    backend = protocol.numerics.backend if device == "auto" else device
    if backend == "auto":
        backend = "cuda" if torch.cuda.is_available() else "cpu"
    if backend == "cuda" and here and not torch.cuda.is_available():
        raise ProtocolError("the device is cuda, and this machine has none; use --device cpu")
    precision = protocol.numerics.embedding_precision
    if here and lacks(backend, precision):
        raise ProtocolError(
            f"numerics.embedding_precision is {precision}, which this machine's {backend} device "
            "does not have; set it to fp32"
        )
    numerics = protocol.numerics.model_copy(update={"backend": backend})
    # What other machines have is not known here; what lacks bf16 will say so.
    has_bf16 = backend == "cuda" and not (here and lacks("cuda", "bf16"))
    adaptations = protocol.adaptations.with_precision("bf16" if has_bf16 else "fp32")
    return protocol.model_copy(update={"numerics": numerics, "adaptations": adaptations})


def _workers(protocol: Protocol, engine: EngineName) -> int:
    if engine != "local":
        return _CLUSTER_WORKERS
    cores = max(1, (os.cpu_count() or 1) // protocol.numerics.threads_per_task)
    if protocol.numerics.backend == "cuda":
        devices = len(_devices())
        return max(devices, min(cores, _SHARING * devices))
    return cores


def _devices() -> tuple[str, ...]:
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return tuple(visible.split(","))
    return tuple(map(str, range(torch.cuda.device_count())))
