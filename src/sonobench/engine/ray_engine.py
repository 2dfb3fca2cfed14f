"""The engine of a Ray cluster: jobs as Ray tasks, which ask for what they need."""

import importlib
import logging
import os
import socket
import time
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

from sonobench.engine.display import Display
from sonobench.engine.engine import Engine, EngineError, Pool
from sonobench.engine.job import Failure, Job, Outcome
from sonobench.engine.parcel import Parcel, make, pack
from sonobench.engine.progress import Value
from sonobench.engine.store import Store

_logger = logging.getLogger("sonobench")


class RayEngine(Engine):
    """Runs jobs on a Ray cluster whose machines share the store's file system.

    Args:
        store: where artefacts are looked for and put; the same folder on every machine.
        address: of a running cluster (`HOST:PORT`, or `auto`); one is started on this machine,
            and ended with the run, if None.

    Raises:
        EngineError: Ray is not installed.
    """

    def __init__(self, store: Store, address: str | None = None) -> None:
        super().__init__(store)
        self._ray = _import_ray()
        self._address = address

    def _pool(self, display: Display) -> AbstractContextManager[Pool]:
        return _RayPool(self._ray, self._address, self.store, display)


def _import_ray() -> Any:
    # Ray tells its makers of every start otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # And it would hide all devices from a job that asks for none, which also warns of itself.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise EngineError(
            "the engine 'ray' needs Ray, which is not installed: pip install 'sonobench[ray]'"
        ) from None


def _knock(address: str | None) -> None:
    """Fail within seconds where nobody listens; Ray itself would wait for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


class _Reports:
    """An actor that keeps what jobs report until the driver takes it."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, str, Value]] = []

    def add(self, job: str, event: str, value: Value) -> None:
        self._kept.append((job, event, value))

    def take(self) -> list[tuple[str, str, Value]]:
        taken, self._kept = self._kept, []
        return taken


def _make_on_ray(parcel: Parcel, reports: Any) -> Outcome:
    # Nobody waits for a report to arrive: a driver that is slow must not slow a job down.
    return make(parcel, partial(reports.add.remote, parcel.name))


class _RayPool:
    """Ray queues jobs itself, by what they ask for."""

    tries = 3

    def __init__(self, ray: Any, address: str | None, store: Store, display: Display) -> None:
        self._ray = ray
        self._address = address
        self._store = store
        self._display = display
        self._running: dict[Any, Job] = {}
        self._unsent: list[tuple[Job, Outcome]] = []
        self._told: set[tuple[float, float]] = set()

    def __enter__(self) -> "_RayPool":
        ray = self._ray
        self._started = not ray.is_initialized()
        if self._started:
            try:
                _knock(self._address)
                # One that is started needs no web page.
                own = {} if self._address else {"include_dashboard": False}
                address = self._address or "local"
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
            except (OSError, RuntimeError, ValueError) as error:
                raise EngineError(
                    f"no Ray cluster answers at {self._address or 'this machine'}: {error}"
                ) from error
        here = ray.get_runtime_context().get_node_id()
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=True)
        # Where the driver is: no loss of another machine takes it away.
        self._reports = (
            ray.remote(_Reports)
            .options(num_cpus=0, max_restarts=-1, scheduling_strategy=affinity)
            .remote()
        )
        # A process keeps the device that it saw first, and the device's memory: each has one job.
        self._make = {False: ray.remote(_make_on_ray), True: ray.remote(max_calls=1)(_make_on_ray)}
        return self

    def __exit__(self, *_: object) -> None:
        for reference in self._running:
            with suppress(Exception):
                self._ray.cancel(reference, force=True)
        with suppress(Exception):
            self._ray.kill(self._reports)
        if self._started:
            self._ray.shutdown()

    def fits(self, job: Job) -> bool:  # noqa: ARG002
        """Always: what has no place yet waits in Ray's own queue."""
        return True

    def start(self, job: Job) -> None:
        """Submit a job."""
        parcel = pack(job, self._store)
        if isinstance(parcel, Outcome):
            self._unsent.append((job, parcel))
            return
        asked = job.resources
        self._tell_if_nowhere(asked.cpus, asked.gpus)
        # Tried again by the driver, which tells people why.
        task = self._make[asked.gpus > 0].options(
            name=job.name, num_cpus=asked.cpus, num_gpus=asked.gpus, max_retries=0
        )
        self._running[task.remote(parcel, self._reports)] = job

    def ended(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """Pass on reports until jobs have ended, or for `timeout` seconds; returns those jobs."""
        ended, self._unsent = self._unsent, []
        ready: list[Any] = []
        if self._running:
            waiting = list(self._running)
            ready, _ = self._ray.wait(waiting, timeout=0 if ended else timeout)
            if ready:
                # And all others that have ended by now.
                ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        elif not ended:
            time.sleep(timeout)
        self._pass_reports()
        for reference in ready:
            job = self._running.pop(reference)
            ended.append((job, self._outcome(job, reference)))
        return ended

    def _pass_reports(self) -> None:
        jobs = {job.name: job for job in self._running.values()}
        try:
            reports = self._ray.get(self._reports.take.remote(), timeout=10)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError):
            return  # restarted; what it held is lost to the display alone
        for name, event, value in reports:
            if name in jobs:
                self._display.report(jobs[name], event, value)

    def _outcome(self, job: Job, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return Outcome(Failure(job.name, f"Ray cannot run it: {error}"))
        except self._ray.exceptions.RayError as error:
            text = " ".join(str(error).split())[:200]
            return Outcome(Failure(job.name, f"{type(error).__name__}: {text}"), lost=True)
        return outcome

    def _tell_if_nowhere(self, cpus: float, gpus: float) -> None:
        """Say once that no machine is large enough: Ray waits for one without a word."""
        if (cpus, gpus) in self._told:
            return
        self._told.add((cpus, gpus))
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines):
            _logger.warning(
                "no machine of the Ray cluster has %g CPUs and %g GPUs, as some jobs ask for; they "
                "wait until one joins",
                cpus,
                gpus,
            )
