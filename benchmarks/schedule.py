"""How long the paper's protocol takes on many GPUs, and what limits it: a simulation.

Jobs of the study's shape go through the engine's own plan and driver; only the pool is imaginary:
it has so many GPUs, and a clock of its own. Seconds of tasks are in `schedule_times.json`, with
their source. Beside it, measured here: what the engine itself takes for a task.
"""

import heapq
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sonobench.engine import Engine, Job, LocalEngine, Progress, RayEngine, Resources, Store, Task
from sonobench.engine.display import Display
from sonobench.engine.engine import drive
from sonobench.engine.job import Failure, Outcome
from sonobench.engine.plan import Plan
from sonobench.engine.progress import Value

_GPUS = (1, 8, 64, 512)
_FOLDS = 5
_SHARES = 4
_SHARE_OF_GPU = 0.25


def _nothing(tasks: Sequence[Task], store: Store, progress: Progress) -> None:  # noqa: ARG001
    for task in tasks:
        with store.write(task):
            pass


# ── the study as jobs ────────────────────────────────────────────────────────────────────────────


def study(times: dict[str, Any], copies: int) -> list[tuple[Job, float]]:
    """Jobs of the paper's protocol and the GPU seconds of each, `copies` times as many encoders."""
    images, flops = times["images"], times["gflops_an_image"]
    embedding = times["sustained_tflops"]["embedding_fp32"] * 1000
    training = times["sustained_tflops"]["training_bf16"] * 1000
    names = sorted({name.split(" (")[0] for name in flops})
    made: list[tuple[Job, float]] = []

    def add(
        name: str, seconds: float, gpus: float, needs: tuple[Task, ...] = ()
    ) -> tuple[Task, ...]:
        tasks = (Task("simulated", 1, {"name": name}),)
        job = Job(name, tasks, _nothing, needs=needs, resources=Resources(gpus=gpus))
        made.append((job, seconds))
        return tasks

    for copy in range(copies):
        for name in names:
            label = f"{name} {copy}"
            probed = flops.get(f"{name} (probe)", flops.get(name))
            tuned = flops.get(f"{name} (fine-tuning)", flops.get(name))
            load = times["load_seconds"]
            certificate = add(f"admit {label}", load + 5, _SHARE_OF_GPU)
            features: tuple[Task, ...] = ()
            for cohort, parts in (("home", _SHARES), ("abroad", 1)):
                seconds = images[cohort] / parts * probed / embedding
                for part in range(parts):
                    title = f"embed {label} {cohort} {part}"
                    features += add(title, load + seconds, _SHARE_OF_GPU, certificate)
            add(f"probe {label}", times["probe_seconds"], _SHARE_OF_GPU, features)
            epoch = (3 * images["train"] + images["judged"] / 5) * tuned / training
            for fold in range(_FOLDS):
                seconds = load + times["epochs"] * epoch + images["judged"] * tuned / training
                add(f"fine-tune {label} {fold}", seconds, 1.0, certificate)
    return made


# ── the imaginary cluster ────────────────────────────────────────────────────────────────────────


class _NoStore(Store):
    """Remembers what was made."""

    def __init__(self) -> None:
        self.made: set[str] = set()

    def has(self, task: Any) -> bool:
        return task.key in self.made


class _NoDisplay(Display):
    """Shows nothing."""

    def __init__(self) -> None:
        pass

    def ended(self, jobs: int) -> None:
        pass

    def end(self, job: Job, failure: Failure | None) -> None:
        pass

    def report(self, job: Job, event: str, value: Value) -> None:
        pass


class _Imaginary:
    """GPUs with a clock: a job takes its seconds over its share of a device.

    The driver starts one job after the other, each at the engine's overhead.
    """

    tries = 1

    def __init__(
        self, gpus: int, seconds: dict[str, float], overhead: float, store: _NoStore
    ) -> None:
        self._free = [1.0] * gpus
        self._seconds = seconds
        self._overhead = overhead
        self._store = store
        self._running: list[tuple[float, int, Job, int]] = []
        self._started = 0
        self.clock = 0.0
        self.busy = 0.0

    def fits(self, job: Job) -> bool:
        return max(self._free) >= job.resources.gpus - 1e-9

    def start(self, job: Job) -> None:
        asked = job.resources.gpus
        # The fullest that has room, so that whole devices stay for those who need one.
        device = min(
            (d for d, free in enumerate(self._free) if free >= asked - 1e-9),
            key=lambda d: self._free[d],
        )
        self.clock += self._overhead
        taken = self._seconds[job.name]
        self.busy += taken
        self._free[device] -= asked
        heapq.heappush(self._running, (self.clock + taken / asked, self._started, job, device))
        self._started += 1

    def ended(self, timeout: float) -> list[tuple[Job, Outcome]]:  # noqa: ARG002
        if not self._running:
            return []
        end, _, job, device = heapq.heappop(self._running)
        self.clock = max(self.clock, end)
        self._free[device] += job.resources.gpus
        self._store.made.update(task.key for task in job.tasks)
        return [(job, Outcome())]


def simulate(
    jobs: list[tuple[Job, float]], gpus: int, overhead: float, times: dict[str, Any]
) -> dict[str, object]:
    """Wall time on so many GPUs, and the lower bounds among which the largest limits it."""
    store = _NoStore()
    pool = _Imaginary(gpus, {job.name: seconds for job, seconds in jobs}, overhead, store)
    plan = Plan([job for job, _ in jobs], store)
    drive(plan, pool, _NoDisplay(), store)
    assert not plan.failures
    written = len(jobs) * times["images"]["home"] * times["embedding_bytes_an_image"] / _SHARES
    read = len(jobs) * times["weights_bytes"]
    bounds = {
        "work over GPUs": pool.busy / gpus,
        "longest chain of tasks": _longest_chain(jobs),
        "engine": len(jobs) * overhead,
        "store": (written + read) / times["store_bytes_a_second"],
    }
    return {
        "gpus": gpus,
        "hours": round(pool.clock / 3600, 3),
        "utilisation": round(pool.busy / gpus / pool.clock, 3),
        "limit": max(bounds, key=lambda name: bounds[name]),
        "bounds_hours": {name: round(bound / 3600, 3) for name, bound in bounds.items()},
    }


def _longest_chain(jobs: list[tuple[Job, float]]) -> float:
    ends: dict[Task, float] = {}
    for job, seconds in jobs:
        start = max((ends[need] for need in job.needs), default=0.0)
        end = start + seconds / job.resources.gpus
        ends |= dict.fromkeys(job.tasks, end)
    return max(ends.values())


# ── the engine's own time ────────────────────────────────────────────────────────────────────────


def overhead(engine: str, count: int) -> float:
    """Seconds a task of no work takes beyond the start of the workers, measured here."""

    def seconds(jobs: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder))
            engines: dict[str, Engine] = {
                "local, in this process": LocalEngine(store, 1),
                "local, 2 workers": LocalEngine(store, 2),
            }
            chosen = engines.get(engine) or RayEngine(store)
            tasks = [Task("nothing", 1, {"number": number}) for number in range(jobs)]
            start = time.perf_counter()
            failures = chosen.run([Job(task.key, (task,), _nothing) for task in tasks])
            assert not failures
            return time.perf_counter() - start

    few = max(2, count // 10)
    return (seconds(count) - seconds(few)) / (count - few)


def main(*, small: bool = False) -> dict[str, object]:
    times = json.loads(Path(__file__).with_name("schedule_times.json").read_text())
    count = 40 if small else 200
    engines = ["local, in this process", "local, 2 workers"]
    if not small:
        # A cluster of this machine for all of it, so that its start is not in the difference.
        import ray  # noqa: PLC0415

        ray.init("local", include_dashboard=False, log_to_driver=False)
        engines.append("ray, this machine")
    result: dict[str, object] = {
        "overhead_ms_a_task": {name: round(1000 * overhead(name, count), 1) for name in engines},
        "times": times["source"],
    }
    for title, copies in (("paper", 1), ("ten times the encoders", 10)):
        jobs = study(times, copies)
        for name, seconds in times["overhead_seconds"].items():
            result[f"{title}, {name}"] = {
                "jobs": len(jobs),
                "runs": [simulate(jobs, gpus, seconds, times) for gpus in _GPUS],
            }
    return result
