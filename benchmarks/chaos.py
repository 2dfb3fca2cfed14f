"""Kill what runs, at random and again and again: is anything lost, half-written or made twice?

Rounds of a run of short tasks, each on a fresh store. A round is interrupted at random points: the
driver or one of its workers is killed with SIGKILL, a worker is stopped for a while (SIGSTOP,
SIGCONT), an artefact is zeroed while it may be read, one is cut short, the disk fills up, a machine
of a Ray cluster is lost. Then it is resumed, until it ends well; what nothing has read is verified
at the end. Every task writes a line when it begins and one when its artefact is published, so that
executions can be counted.

Then rounds of a whole run, beside which another protocol of the same name is started in its folder.
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
from PIL import Image

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
            seed.update(np.load(store.folder(need) / "numbers.npy").tobytes())
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
            if ended == 0 and not self.set_aside_damaged():
                return
            if left and self.chance.random() < 0.3:
                self.cut_an_artefact()

    def interrupt(self, driver: subprocess.Popen[bytes]) -> bool:
        kinds = ["driver", "worker", "worker", "worker stopped", "artefact zeroed"]
        kinds += ["disk full"] * self.disk
        kinds += ["machine", "machine"] * (self.cluster is not None)
        kind = self.chance.choice(kinds)
        if kind == "driver":
            driver.kill()
            driver.wait()
        elif kind in ("worker", "worker stopped"):
            workers = _ray_workers() if self.cluster else _workers(driver.pid)
            if not workers:
                return False
            chosen = self.chance.choice(workers)
            with suppress(ProcessLookupError):
                if kind == "worker":
                    os.kill(chosen, signal.SIGKILL)
                else:
                    os.kill(chosen, signal.SIGSTOP)
                    time.sleep(self.chance.uniform(0, 10 * self.seconds))
                    os.kill(chosen, signal.SIGCONT)
        elif kind == "artefact zeroed":
            if not self.zero_an_artefact():
                return False
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
            self.tell_damage(folder)
            os.truncate(folder / "numbers.npy", 100)
            self.figures.interruptions["artefact cut short"] += 1

    def zero_an_artefact(self) -> bool:
        """Zero a file of a published artefact, of which readers see the old content or the new."""
        files = sorted(self.root.glob("chaos/??/*/*.npy"))
        if not files:
            return False
        file = self.chance.choice(files)
        self.tell_damage(file.parent)
        # It may be set aside at this moment, and the disk be full.
        with suppress(OSError):
            zeros = self.folder / "disk" / "zeros"
            zeros.write_bytes(bytes(file.stat().st_size))
            zeros.replace(file)
            return True
        return False

    def tell_damage(self, folder: Path) -> None:
        """Write down, beforehand, that an artefact is made anew for good reason."""
        self.cut.add(folder.name)
        name = next(name for name in self.names() if task(name).key == folder.name)
        _append(self.log, f"cut {name}")

    def set_aside_damaged(self) -> bool:
        """As `sonobench store verify` does; whether there was something."""
        store = Store(self.root)
        damaged = list(store.damaged())
        for place, trouble in damaged:
            store.set_aside(place, trouble)
        return bool(damaged)

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


# ── two protocols in one folder ──────────────────────────────────────────────────────────────────


@dataclass
class FolderFigures:
    """What became of runs in whose folder another protocol was started."""

    rounds: int = 0
    killed: int = 0
    started_beside: int = 0
    refused: int = 0
    different: int = 0


def torment_folder(folder: Path, rounds: int, *, seed: int = 0) -> FolderFigures:
    """Whole runs, killed at random, beside each of which another protocol is started.

    Args:
        folder: for images, protocols and runs.
        rounds: how many runs.
        seed: of the images, and of when what is done.
    """
    chance, figures = random.Random(seed), FolderFigures()
    _write_hospital(folder, seed)
    _command(folder, "mine.yaml", "calm").wait()
    expected = _tables(folder / "calm")
    for number in range(rounds):
        figures.rounds += 1
        out = folder / f"run-{number}"
        mine = _command(folder, "mine.yaml", out.name)
        while not (out / "protocol.yaml").exists() and mine.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 2))
        other = _command(folder, "other.yaml", out.name)
        figures.started_beside += 1
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, 4))
            figures.killed += mine.poll() is None
            mine.kill()
        figures.refused += other.wait() == 2
        mine.wait()
        ended = _command(folder, "mine.yaml", out.name).wait()
        figures.different += ended != 0 or _tables(out) != expected
        shutil.rmtree(out)
    return figures


def _write_hospital(folder: Path, seed: int) -> None:
    """Images of twelve patients, and two protocols of one name that divide them otherwise."""
    rng, rows = np.random.default_rng(seed), []
    for patient in range(12):
        for place, label in enumerate(("abdomen", "brain", "femur")):
            pixels = rng.rayleigh(30, (40, 48))
            pixels[6 + 10 * place : 12 + 10 * place] += 80
            file = f"{patient}_{label}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / file)
            rows.append(f"{file},{label},p{patient}")
    (folder / "manifest.csv").write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    for name, of_split in (("mine", 0), ("other", 1)):
        (folder / f"{name}.yaml").write_text(
            "{name: t, source: {loader: manifest, name: home, path: manifest.csv}, "
            "classes: [abdomen, brain, femur], encoders: [pixel_stats], "
            f"split: {{scheme: cross_validation, folds: 3, seed: {of_split}}}, "
            "evaluation: {bootstrap_draws: 200}}"
        )


def _command(folder: Path, protocol: str, out: str) -> subprocess.Popen[bytes]:
    program = "from sonobench.cli.main import app; app()"
    arguments = ["run", protocol, "--out", out, "--workers", "1", "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=(folder / "messages").open("ab"),
        stderr=subprocess.STDOUT,
        cwd=folder,
    )


def _tables(out: Path) -> dict[str, bytes]:
    """Content of a run's results and predictions."""
    files = [*out.glob("*.csv"), *(out / "predictions").glob("*.parquet")]
    return {file.name: file.read_bytes() for file in files}


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
    """At least 110 interruptions of local runs, 20 of runs on a Ray cluster of three nodes, and
    six runs beside which another protocol is started in their folder."""
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
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = vars(torment_folder(Path(folder), 1 if small else 6))
    result["two protocols"] = {**found, "seconds": round(time.monotonic() - start, 1)}
    return result
