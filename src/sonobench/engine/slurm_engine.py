"""The engine of a Slurm cluster: jobs through submitit, in arrays of one kind."""

import importlib
import json
import logging
import math
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonobench.engine.display import Display
from sonobench.engine.engine import Engine, EngineError, Pool
from sonobench.engine.job import Failure, Job, Outcome, Resources
from sonobench.engine.parcel import Parcel, make, pack
from sonobench.engine.progress import Value
from sonobench.engine.store import Store

_logger = logging.getLogger("sonobench")

# Seconds between a job's reports: each is an append to a file on the shared file system.
_REPORT_EVERY = 1.0
# Seconds between the looks at what has ended.
_LOOK_EVERY = {"slurm": 2.0, "local": 0.1}
# Seconds between the questions to Slurm which jobs live, for all in one; submitit alone asks every
# ten minutes.
_ASK_EVERY = 60.0


class SlurmEngine(Engine):
    """Runs jobs as Slurm jobs. This process stays, and submits what can start, in waves.

    A job that Slurm preempts or that runs out of time is put into the queue again, by submitit;
    what it had finished is in the store.

    Args:
        store: where artefacts are looked for and put; the same folder on every machine.
        folder: for Slurm's logs and submitit's files, on the shared file system.
        workers: how many jobs are in the queue at a time.
        parameters: further options of `sbatch` by their long names (`partition`, `account`).
        cluster: `slurm`, or `local`: submitit's own executor of processes on this machine.

    Raises:
        EngineError: submitit is not installed, this machine cannot submit, or the folder's name
            has a control character in it.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        workers: int,
        parameters: Mapping[str, str | int] | None = None,
        cluster: str = "slurm",
    ) -> None:
        super().__init__(store)
        try:
            self._submitit = importlib.import_module("submitit")
        except ImportError:
            raise EngineError(
                "the engine 'slurm' needs submitit, which is not installed: "
                "pip install 'sonobench[slurm]'"
            ) from None
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise EngineError(
                "the engine 'slurm' needs the command sbatch, which is not here; run on a machine "
                "that can submit jobs"
            )
        # It becomes a line of the script that Slurm runs.
        if not str(folder.absolute()).isprintable():
            raise EngineError(
                f"the engine 'slurm' cannot write into {str(folder)!r}, whose name has a control "
                "character in it; choose another folder (--out)"
            )
        self._folder = folder
        self._workers = workers
        self._parameters = dict(parameters or {})
        self._cluster = cluster

    def _pool(self, display: Display) -> AbstractContextManager[Pool]:
        # A folder of this run's own: the numbers of jobs may come again.
        folder = self._folder.absolute() / uuid.uuid4().hex[:12]
        executor = self._submitit.AutoExecutor(folder, cluster=self._cluster)
        return _SlurmPool(
            executor, self._cluster, self._parameters, self._workers, folder, self.store, display
        )


@dataclass
class _Submission:
    """What a Slurm job runs: the same again after a preemption, since the store remembers."""

    parcel: Parcel
    reports: Path

    def __call__(self) -> Outcome:
        report = _FileReport(self.reports)
        outcome = make(self.parcel, report)
        report.flush()
        return outcome

    def checkpoint(self) -> Any:
        """What submitit puts into the queue when it is told to leave."""
        submitit = importlib.import_module("submitit")
        return submitit.helpers.DelayedSubmission(self)


class _FileReport:
    """Appends reports to a file, not more often than people read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._pending = 0
        self._wrote = 0.0

    def __call__(self, event: str, value: Value) -> None:
        if event == "advance":
            self._pending += int(str(value))
            if time.monotonic() - self._wrote >= _REPORT_EVERY:
                self.flush()
        else:
            self._write(event, value)

    def flush(self) -> None:
        """Write what was held back."""
        if self._pending:
            self._write("advance", self._pending)
        self._pending = 0
        self._wrote = time.monotonic()

    def _write(self, event: str, value: Value) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([event, value]) + "\n")


@dataclass
class _Submitted:
    """A job in the queue or running, and how far its reports were read."""

    job: Job
    handle: Any
    reports: Path
    read: int = 0


class _SlurmPool:
    tries = 3

    def __init__(
        self,
        executor: Any,
        cluster: str,
        parameters: Mapping[str, str | int],
        workers: int,
        folder: Path,
        store: Store,
        display: Display,
    ) -> None:
        self._executor = executor
        self._cluster = cluster
        self._asked = time.monotonic()
        self._parameters = parameters
        self._workers = workers
        self._folder = folder
        self._store = store
        self._display = display
        self._new: list[Job] = []
        self._submitted: list[_Submitted] = []
        self._logs_matter = False

    def __enter__(self) -> "_SlurmPool":
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._submitted:
            with suppress(Exception):
                each.handle.cancel(check=False)
        if not self._submitted and not self._logs_matter:
            shutil.rmtree(self._folder, ignore_errors=True)

    def fits(self, job: Job) -> bool:  # noqa: ARG002
        """Whether the queue takes another."""
        return len(self._new) + len(self._submitted) < self._workers

    def start(self, job: Job) -> None:
        """Take a job into the next wave."""
        self._new.append(job)

    def ended(self, timeout: float) -> list[tuple[Job, Outcome]]:  # noqa: ARG002
        """Submit the wave and pass on reports; returns the jobs that have ended."""
        ended = self._submit()
        if not ended:
            time.sleep(_LOOK_EVERY[self._cluster])
        if self._cluster == "slurm" and time.monotonic() - self._asked >= _ASK_EVERY:
            if self._submitted:
                self._submitted[0].handle.watcher.update()
            self._asked = time.monotonic()
        for each in list(self._submitted):
            done = each.handle.done()
            self._pass_reports(each)
            if done:
                self._submitted.remove(each)
                outcome = _outcome(each)
                self._logs_matter |= outcome.failure is not None
                ended.append((each.job, outcome))
        return ended

    def _submit(self) -> list[tuple[Job, Outcome]]:
        """One array for each kind of jobs; returns those that cannot be sent."""
        new, self._new = self._new, []
        unsent: list[tuple[Job, Outcome]] = []
        arrays: dict[tuple[str, Resources], list[tuple[Job, _Submission]]] = defaultdict(list)
        for job in new:
            parcel = pack(job, self._store)
            if isinstance(parcel, Outcome):
                unsent.append((job, parcel))
            else:
                reports = self._folder / f"{uuid.uuid4().hex}.reports"
                array = arrays[job.kind, job.resources]
                array.append((job, _Submission(parcel, reports)))
        for (kind, resources), array in arrays.items():
            self._executor.update_parameters(**self._limits(kind, resources))
            try:
                handles = self._executor.submit_array([submission for _, submission in array])
            except Exception as error:  # the others go on
                text = f"it cannot be submitted: {error}"
                unsent += [(job, Outcome(Failure(job.name, text))) for job, _ in array]
                continue
            number = str(handles[0].job_id).partition("_")[0]
            _logger.info("submitted %d of %s as Slurm job %s", len(array), kind, number)
            self._submitted += [
                _Submitted(job, handle, submission.reports)
                for (job, submission), handle in zip(array, handles, strict=True)
            ]
        return unsent

    def _limits(self, kind: str, resources: Resources) -> dict[str, Any]:
        return {
            "name": f"sonobench-{kind}",
            "timeout_min": max(1, round(resources.hours * 60)),
            "mem_gb": resources.memory_gb,
            "cpus_per_task": resources.cpus,
            # Slurm gives whole devices.
            "gpus_per_node": math.ceil(resources.gpus),
            "slurm_array_parallelism": self._workers,
            "slurm_additional_parameters": dict(self._parameters),
        }

    def _pass_reports(self, each: _Submitted) -> None:
        with suppress(FileNotFoundError), each.reports.open("rb") as file:
            file.seek(each.read)
            for line in file:
                # The last one may be in the middle of being written.
                if not line.endswith(b"\n"):
                    break
                each.read += len(line)
                event, value = json.loads(line)
                value = tuple(value) if isinstance(value, list) else value
                self._display.report(each.job, event, value)


def _outcome(each: _Submitted) -> Outcome:
    """How a job ended; lost where Slurm, and not its own code, ended it."""
    if not each.handle.paths.result_pickle.exists():
        text = f"it ended without a result, in state {each.handle.state}; its log: "
        return Outcome(Failure(each.job.name, text + str(each.handle.paths.stderr)), lost=True)
    error = each.handle.exception()
    if error is not None:
        return Outcome(Failure(each.job.name, str(error).strip()), lost=True)
    outcome: Outcome = each.handle.result()
    return outcome
