"""Kill what runs, at random and again and again: is anything lost, half-written or made twice?

Rounds of a run of short tasks, each on a fresh store. A round is interrupted at random points: the
driver or one of its workers is killed with SIGKILL, an artefact is cut short, the disk fills up, a
machine of a Ray cluster is lost. Then it is resumed, until it ends well. Every task writes a line
when it begins and one when its artefact is published, so that executions can be counted.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sonobench.engine import Engine, Job, LocalEngine, Progress, RayEngine, Store, Task

_WORKERS = 2
_DISK_BYTES = 32 << 20


# ── the run ──────────────────────────────────────────────────────────────────────────────────────


def task(name: str) -> Task:
    return Task("chaos", 1, {"name": name})


def work(
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
    *,
    log: Path,
    needs: Sequence[Task],
    seconds: float,
) -> None:
    """Numbers from the task's name and from what it needs, at some cost."""
    for each in tasks:
        name = str(each.settings["name"])
        _append(log, f"begin {name}")
        seed = hashlib.sha256(name.encode())
        for need in needs:
            seed.update((store.folder(need) / "numbers.npy").read_bytes())
        numbers = np.random.default_rng(list(seed.digest())).standard_normal((64, 64))
        end = time.monotonic() + seconds
        with store.write(each) as folder:
            # Half before and half after the work, so that a kill meets a half-written artefact.
            np.save(folder / "half.npy", numbers[:32])
            while time.monotonic() < end:
                numbers @ numbers
            np.save(folder / "numbers.npy", numbers)
        _append(log, f"end {name}")
        progress.advance()


def _append(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(line + "\n")


def jobs(log: Path, width: int, seconds: float) -> list[Job]:
    """Three layers of `width` jobs; each needs two of the layer before."""
    made: list[Job] = []
    for layer in range(3):
        before = made[-width:] if layer else []
        for position in range(width):
            needed = [before[(position + step) % width] for step in (0, 1)] if before else []
            needs = tuple(one for job in needed for one in job.tasks)
            tasks = tuple(task(f"{layer}.{position}.{n}") for n in range(2))
            step = partial(work, log=log, needs=needs, seconds=seconds)
            made.append(Job(f"{layer}.{position}", tasks, step, needs=needs, total=len(tasks)))
    return made


def _drive(store: str, log: str, width: str, seconds: str, address: str) -> None:
    """One attempt at the run, as a program."""
    place = Store(Path(store))
    engine: Engine = RayEngine(place, address) if address else LocalEngine(place, _WORKERS)
    sys.exit(min(1, len(engine.run(jobs(Path(log), int(width), float(seconds))))))


# ── its enemies ──────────────────────────────────────────────────────────────────────────────────


@dataclass
class Figures:
    """What was done to the runs, and what came of it."""

    interruptions: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    tasks: int = 0
    executions: int = 0
    repeated: int = 0
    half_written: int = 0
    leftovers: int = 0
    different: int = 0


@dataclass
class _Round:
    """A store that is tormented."""

    folder: Path
    width: int
    seconds: float
    chance: random.Random
    figures: Figures
    disk: bool
    cluster: Any = None
    cut: set[str] = field(default_factory=set)

    @property
    def root(self) -> Path:
        return self.folder / "disk" / "store"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> subprocess.Popen[bytes]:
        address = self.cluster.address if self.cluster else ""
        arguments = [self.root, self.log, self.width, self.seconds, address]
        program = "import sys; from benchmarks.chaos import _drive; _drive(*sys.argv[1:])"
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdout=(self.folder / "messages").open("ab"),
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[1],
        )

    def run(self, interruptions: int) -> None:
        """Interrupt it so often, or until it has ended; then let it end."""
        left = interruptions
        while True:
            driver = self.start()
            while left and driver.poll() is None:
                begun = _count(self.log)
                # A random point: some more tasks, and then somewhere within one.
                goal = begun + self.chance.randrange(1, 8)
                while _count(self.log) < goal and driver.poll() is None:
                    time.sleep(0.005)
                time.sleep(self.chance.uniform(0, 2 * self.seconds))
                if driver.poll() is None and self.interrupt(driver):
                    left -= 1
            ended = driver.wait()
            self.check()
            if ended == 0:
                return
            if left and self.chance.random() < 0.3:
                self.cut_an_artefact()

    def interrupt(self, driver: subprocess.Popen[bytes]) -> bool:
        kinds = ["driver", "worker", "worker"] + ["disk full"] * self.disk
        kinds += ["machine", "machine"] * (self.cluster is not None)
        kind = self.chance.choice(kinds)
        if kind == "driver":
            driver.kill()
            driver.wait()
        elif kind == "worker":
            workers = _ray_workers() if self.cluster else _workers(driver.pid)
            if not workers:
                return False
            with suppress(ProcessLookupError):
                os.kill(self.chance.choice(workers), signal.SIGKILL)
        elif kind == "disk full":
            ballast = self.folder / "disk" / "ballast"
            with suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            time.sleep(6 * self.seconds)
            ballast.unlink()
        else:
            lost = self.chance.choice(sorted(self.cluster.worker_nodes, key=id))
            self.cluster.remove_node(lost, allow_graceful=False)
            self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        self.figures.interruptions[kind] += 1
        return True

    def cut_an_artefact(self) -> None:
        """Cut a file of a published artefact short, while nothing runs."""
        folders = [folder for _, folder in Store(self.root).artefacts()]
        if folders:
            folder = self.chance.choice(folders)
            os.truncate(folder / "numbers.npy", 100)
            self.cut.add(folder.name)
            self.figures.interruptions["artefact cut short"] += 1
            name = next(name for name in self.names() if task(name).key == folder.name)
            _append(self.log, f"cut {name}")

    def names(self) -> list[str]:
        made = jobs(self.log, self.width, self.seconds)
        return [str(one.settings["name"]) for job in made for one in job.tasks]

    def check(self) -> None:
        """Nothing that is seen in the store is half-written."""
        damaged = {folder.name for folder, _ in Store(self.root).damaged()}
        self.figures.half_written += len(damaged - self.cut)

    def finish(self, expected: str) -> None:
        """Compare with a run that was left in peace, and count executions."""
        figures, events = self.figures, [line.split() for line in _lines(self.log)]
        figures.rounds += 1
        figures.tasks += len(self.names())
        published = set[str]()
        for event, name in events:
            if event == "begin":
                figures.executions += 1
                figures.repeated += name in published
            elif event == "end":
                published.add(name)
            else:
                published.discard(name)
        # Counted before a store is opened, which would clear up.
        figures.leftovers += len(list(self.root.glob("aside/*")))
        figures.different += digest(Store(self.root)) != expected


def digest(store: Store) -> str:
    """SHA-256 of all artefacts."""
    total = hashlib.sha256()
    for _, folder in store.artefacts():
        for file in sorted(folder.iterdir()):
            total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def _count(log: Path) -> int:
    return sum(line.startswith("begin") for line in _lines(log))


def _parents() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            found[int(entry.name)] = (parent, (entry / "cmdline").read_text())
    return found


def _workers(driver: int) -> list[int]:
    return [
        pid
        for pid, (parent, command) in _parents().items()
        if parent == driver and "spawn_main" in command
    ]


def _ray_workers() -> list[int]:
    """Those of our own cluster that are at a task."""
    parents = _parents()

    def ours(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid][0]
            if pid == os.getpid():
                return True
        return False

    # Ray calls a process by the task that it is at.
    return [p for p, (_, command) in parents.items() if command.startswith("ray::") and ours(p)]


@contextmanager
def _disk(folder: Path) -> Iterator[bool]:
    """A small file system for the store, where this process may mount one."""
    place = folder / "disk"
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def torment(
    folder: Path,
    interruptions: int,
    *,
    seed: int = 0,
    width: int = 10,
    seconds: float = 0.1,
    a_round: int = 8,
    cluster: Any = None,
) -> Figures:
    """Rounds until there were so many interruptions.

    Args:
        folder: for stores and logs; emptied round by round.
        interruptions: how many at least.
        seed: of what is done, and when.
        width: jobs a layer; a round has three layers and two tasks a job.
        seconds: a task takes.
        a_round: interruptions of one round at most.
        cluster: a `ray.cluster_utils.Cluster` to run on; local workers if None.
    """
    calm = Store(folder / "calm")
    LocalEngine(calm, 1).run(jobs(folder / "calm.log", width, 0.0))
    expected, chance, figures = digest(calm), random.Random(seed), Figures()
    while (done := figures.interruptions.total()) < interruptions:
        place = folder / f"round-{figures.rounds}"
        with _disk(place) as disk:
            each = _Round(place, width, seconds, chance, figures, disk, cluster)
            each.run(min(a_round, interruptions - done))
            each.finish(expected)
        shutil.rmtree(place)
    return figures


@contextmanager
def _ray_cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    head = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    made: Any = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=100 << 20)
    try:
        yield made
    finally:
        made.shutdown()


def main(*, small: bool = False) -> dict[str, object]:
    """At least 100 interruptions of local runs, and 20 of runs on a Ray cluster of three nodes."""
    result: dict[str, object] = {}
    for name, count in (("local", 6 if small else 110), ("ray", 0 if small else 20)):
        if not count:
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            if name == "ray":
                with _ray_cluster() as cluster:
                    figures = torment(
                        Path(folder), count, seed=1, width=6, seconds=0.3, cluster=cluster
                    )
            else:
                figures = torment(Path(folder), count)
        result[name] = {
            **vars(figures),
            "interruptions": dict(figures.interruptions),
            "all_interruptions": figures.interruptions.total(),
            "seconds": round(time.monotonic() - start, 1),
        }
    return result
