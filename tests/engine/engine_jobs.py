"""Steps for the engine's tests; a module of their own, so that worker processes can load them."""

import json
import logging
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sonobench.engine import Job, LocalEngine, Progress, Store, Task

# Seconds after which something hangs. No test passes or fails by how fast a machine is.
HANGS = 600.0

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
    gate: Path | None = None,
    free: int = 0,
) -> None:
    """Write each task's name and what it reads, in two parts; one line in `calls` per artefact.

    All but the first `free` artefacts of `calls` wait, half-written, until `gate` exists.
    """
    for each in tasks:
        with store.write(each) as folder:
            (folder / "name.txt").write_text(str(each.settings["name"]))
            with calls.open("a") as file:
                file.write(f"{each.settings['name']}\n")
            if gate is not None and len(lines(calls)) > free:
                wait_until(gate.exists)
            read = [(store.folder(one) / "name.txt").read_text() for one in reads]
            (folder / "read.txt").write_text(" ".join(read))
        progress.advance()


def take_a_share(
    tasks: Sequence[Task], store: Store, progress: Progress, *, calls: Path, share: float
) -> None:
    """Take a share of a device; all but the first of three wait for each other."""
    progress.device_share = share
    with calls.open("a") as file:
        file.write(f"{tasks[0].settings['name']}\n")
    if len(lines(calls)) > 1:
        wait_until(lambda: len(lines(calls)) == 3)
    make(tasks, store, progress, calls=calls.with_name("made"))


def read_numbers(tasks: Sequence[Task], store: Store, progress: Progress, *, need: Task) -> None:
    """Read an artefact that is JSON."""
    json.loads((store.folder(need) / "name.txt").read_text())
    make(tasks, store, progress, calls=store.root / "calls")


def read_name(tasks: Sequence[Task], store: Store, progress: Progress, *, need: Task) -> None:
    """Read an artefact whose content is known, and make one."""
    name = (store.folder(need) / "name.txt").read_text()
    if name != need.settings["name"]:
        raise ValueError(f"{name!r} is not what was written")
    make(tasks, store, progress, calls=store.root.parent / "calls")


def make_what_is_spoilt(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    """What is written is lost as soon as it is there."""
    for each in tasks:
        with store.write(each) as folder:
            (folder / "name.txt").write_text("a")
        (store.folder(each) / "name.txt").write_bytes(bytes(1))


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


def read_what_is_cut_short(
    tasks: Sequence[Task], store: Store, progress: Progress, *, file: Path
) -> None:
    """Touch a page of a mapped file that the file no longer has."""
    file.write_bytes(bytes(2 * mmap.PAGESIZE))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        os.truncate(file, 0)
        mapped[mmap.PAGESIZE]


def end_by_signal(
    tasks: Sequence[Task], store: Store, progress: Progress, *, number: signal.Signals
) -> None:
    os.kill(os.getpid(), number)


def end_with_status_3(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    os._exit(3)


def stay_on_ray(tasks: Sequence[Task], store: Store, progress: Progress, *, calls: Path) -> None:
    """Write down on which machine; the first time, stay there until it is lost."""
    import ray  # noqa: PLC0415

    with calls.open("a") as file:
        file.write(f"{ray.get_runtime_context().get_node_id()}\n")
    if len(lines(calls)) == 1:
        time.sleep(HANGS)
    make(tasks, store, progress, calls=calls.with_name("made"))


def hang_the_first_time(
    tasks: Sequence[Task], store: Store, progress: Progress, *, calls: Path
) -> None:
    """Write down the process; the first one hangs in the middle of writing."""
    with calls.open("a") as file:
        file.write(f"{os.getpid()}\n")
    with store.write(tasks[0]) as folder:
        (folder / "name.txt").write_text(str(tasks[0].settings["name"]))
        if len(lines(calls)) == 1:
            time.sleep(HANGS)


def tell_the_devices(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    """Write down which CUDA devices the process may see."""
    with store.write(tasks[0]) as folder:
        (folder / "name.txt").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))


def tell_the_process(tasks: Sequence[Task], store: Store, progress: Progress) -> None:
    with store.write(tasks[0]) as folder:
        (folder / "name.txt").write_text(str(os.getpid()))


def start_a_child_and_hang(
    tasks: Sequence[Task], store: Store, progress: Progress, *, processes: Path
) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({HANGS})"])
    with processes.open("a") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    time.sleep(HANGS)


def speak(
    tasks: Sequence[Task], store: Store, progress: Progress, *, gate: Path | None = None
) -> None:
    """Warn, note and advance by 100; half of the way it waits until `gate` exists."""
    logging.getLogger("sonobench.somewhere").warning("careful with %s", "image 3")
    progress.note("reading weights")
    for _ in range(2):
        progress.advance(25)
        progress.flush()
    if gate is not None:
        wait_until(gate.exists)
    progress.advance(50)
    with store.write(tasks[0]):
        pass


def chain(calls: Path, gate: Path | None = None, free: int = 0) -> list[Job]:
    """Two jobs of three artefacts, and one that reads them all; `gate` is that of `make`."""
    first = tuple(task(f"a{n}") for n in range(3))
    second = tuple(task(f"b{n}") for n in range(3))
    return [
        Job("last", (task("c"),), partial(make, calls=calls, reads=(*first, *second)),
            needs=(*first, *second)),
        Job("first", first, partial(make, calls=calls, gate=gate, free=free), total=3),
        Job("second", second, partial(make, calls=calls, gate=gate, free=free), total=3),
    ]  # fmt: skip


ALL_OF_CHAIN = ["a0", "a1", "a2", "b0", "b1", "b2", "c"]


def run_chain(engine: str, store: str, calls: str, gate: str, free: str = "0") -> None:
    """Run `chain` as a program (see `start`), which adds a line to `programs` beside `calls`."""
    jobs = chain(Path(calls), Path(gate), int(free))
    with Path(calls).with_name("programs").open("a") as file:
        file.write(f"{os.getpid()}\n")
    sys.exit(len(ENGINES[engine](Store(Path(store))).run(jobs)))


def run_two_that_hang(store: str, processes: str) -> None:
    """Run two jobs that start a child and hang, in two workers, as a program."""
    step = partial(start_a_child_and_hang, processes=Path(processes))
    jobs = [Job(f"hanging {n}", (task(f"s{n}"),), step) for n in range(2)]
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


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {HANGS:.0f} s"
        time.sleep(0.01)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def text(store: Store, name: str) -> str:
    return (store.folder(task(name)) / "name.txt").read_text()
