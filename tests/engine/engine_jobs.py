"""Steps for the engine's tests; a module of their own, so that worker processes can load them."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sonobench.engine import Job, LocalEngine, Progress, Store, Task

# Every engine, with a name that can be given to a program; one that joins is one line here.
ENGINES: dict[str, Callable[[Store], LocalEngine]] = {
    "local-1": partial(LocalEngine, workers=1),
    "local-2": partial(LocalEngine, workers=2),
}


def task(name: str, kind: str = "text") -> Task:
    return Task(kind, 1, {"name": name})


def make(
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
    *,
    calls: Path,
    reads: Sequence[Task] = (),
    seconds: float = 0.0,
) -> None:
    """Write each task's name and what it reads, in two parts; one line in `calls` per artefact."""
    for each in tasks:
        with store.write(each) as folder:
            (folder / "name.txt").write_text(str(each.settings["name"]))
            with calls.open("a") as file:
                file.write(f"{each.settings['name']}\n")
            time.sleep(seconds)
            read = [(store.folder(one) / "name.txt").read_text() for one in reads]
            (folder / "read.txt").write_text(" ".join(read))
        progress.advance()


def make_first_then_fail(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    with store.write(tasks[0]) as folder:
        (folder / "name.txt").write_text("first")
    raise ValueError("image 7 is broken")


def make_nothing(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    pass


def fill_the_disk(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    with store.write(tasks[0]) as folder, (folder / "large.bin").open("wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))


def be_killed_once(tasks: Sequence[Task], store: Store, progress: Progress, *, calls: Path) -> None:
    """The first time only, in the middle of writing."""
    with store.write(tasks[0]) as folder:
        (folder / "name.txt").write_text(str(tasks[0].settings["name"]))
        with calls.open("a") as file:
            file.write(f"{tasks[0].settings['name']}\n")
        if len(calls.read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def be_killed(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_on_ray(tasks: Sequence[Task], store: Store, progress: Progress, *, calls: Path) -> None:
    """Write down on which machine; the first time, sleep long there."""
    import ray  # noqa: PLC0415

    with calls.open("a") as file:
        file.write(f"{ray.get_runtime_context().get_node_id()}\n")
    if len(lines(calls)) == 1:
        time.sleep(60)
    make(tasks, store, progress, calls=calls.with_name("made"))


def make_slowly_the_first_time(
    tasks: Sequence[Task], store: Store, progress: Progress, *, calls: Path
) -> None:
    """Write down the process; the first one sleeps in the middle of writing."""
    with calls.open("a") as file:
        file.write(f"{os.getpid()}\n")
    with store.write(tasks[0]) as folder:
        (folder / "name.txt").write_text(str(tasks[0].settings["name"]))
        if len(lines(calls)) == 1:
            time.sleep(60)


def tell_the_devices(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    """Write down which CUDA devices the process may see."""
    with store.write(tasks[0]) as folder:
        (folder / "name.txt").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        time.sleep(0.5)


def tell_the_process(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    with store.write(tasks[0]) as folder:
        (folder / "name.txt").write_text(str(os.getpid()))


def start_a_child_and_sleep(
    tasks: Sequence[Task], store: Store, progress: Progress, *, processes: Path
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with processes.open("a") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    time.sleep(600)


def speak(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    logging.getLogger("sonobench.somewhere").warning("careful with %s", "image 3")
    progress.note("reading weights")
    for _ in range(4):
        progress.advance(25)
        time.sleep(0.15)
    with store.write(tasks[0]):
        pass


def chain(calls: Path, seconds: float = 0.0) -> list[Job]:
    """Two jobs of three artefacts, and one that reads them all."""
    first = tuple(task(f"a{n}") for n in range(3))
    second = tuple(task(f"b{n}") for n in range(3))
    return [
        Job("last", (task("c"),), partial(make, calls=calls, reads=(*first, *second)),
            needs=(*first, *second)),
        Job("first", first, partial(make, calls=calls, seconds=seconds), total=3),
        Job("second", second, partial(make, calls=calls, seconds=seconds), total=3),
    ]  # fmt: skip


ALL_OF_CHAIN = ["a0", "a1", "a2", "b0", "b1", "b2", "c"]


def run_chain(engine: str, store: str, calls: str, seconds: str) -> None:
    """Run `chain` as a program; see `start`."""
    failures = ENGINES[engine](Store(Path(store))).run(chain(Path(calls), float(seconds)))
    sys.exit(len(failures))


def run_sleepers(store: str, processes: str) -> None:
    """Run two jobs that start a child and sleep in two workers, as a program."""
    step = partial(start_a_child_and_sleep, processes=Path(processes))
    jobs = [Job(f"sleeper {n}", (task(f"s{n}"),), step) for n in range(2)]
    LocalEngine(Store(Path(store)), workers=2).run(jobs)


def start(function: Callable[..., None], *arguments: object) -> subprocess.Popen[str]:
    """Call a function of this module in a new Python, as a user's program would."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import engine_jobs; "
        f"engine_jobs.{function.__name__}(*sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
    )


def send(what: signal.Signals, process: str) -> None:
    os.kill(int(process), what)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def text(store: Store, name: str) -> str:
    return (store.folder(task(name)) / "name.txt").read_text()
