"""`python -m benchmarks.mutants [AREA …]`: which changes of the code do the tests let pass?

Cosmic Ray's operators change one thing in one module: a comparison, a sign, a number, a boolean, a
loop that is never entered, an exception that is not caught, a decorator that is missing. The tests
of the module's area must fail then. A sample of the places at which a change can be made is drawn
with a seed, at each place one change; messages and annotations are not changed.

Each mutant is a process forked from one that has imported torch and whatever else is slow, in a
copy of the project, so that workers and command lines that a test starts see the mutant, too. It
first meets the tests that run through the changed statement, the quick ones first; if they let it
live, all tests of the area.
"""

import os

# Before numpy and torch are loaded, as in tests/conftest.py.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# A mutant's byte code must not outlive it.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

import argparse
import ast
import contextlib
import importlib
import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
# Modules under src/sonobench; the tests that are to tell when one of them is changed.
AREAS = {
    "evaluation": (["evaluation/*.py"], ["tests/evaluation", "tests/test_evaluate_command.py"]),
    "cohorts": (
        ["datasets/splits.py", "datasets/subjects.py"],
        [
            "tests/datasets/test_splits.py",
            "tests/datasets/test_subjects.py",
            "tests/test_duplicates_setting.py",
        ],
    ),
    "images": (["images/*.py"], ["tests/images"]),
    "checkpoints": (
        ["encoders/checkpoint*.py", "encoders/inert_pickle.py"],
        ["tests/encoders/test_checkpoint.py", "tests/encoders/test_checkpoint_file.py"],
    ),
    "probe": (
        [
            "adaptation/solver.py",
            "adaptation/probe_*.py",
            "adaptation/linear_probe.py",
            "diagnostics.py",
        ],
        [
            "tests/adaptation/test_solver.py",
            "tests/adaptation/test_probe_*.py",
            "tests/adaptation/test_adaptations.py",
            "tests/test_diagnostics.py",
        ],
    ),
}
# What the tests import and takes long; never sonobench itself, which each mutant imports anew.
SLOW_TO_IMPORT = (
    *("hypothesis", "pandas", "pyarrow", "pydantic", "pydicom", "scipy.stats", "typer", "yaml"),
    *("PIL.Image", "imagehash", "sklearn.metrics", "sklearn.linear_model", "safetensors.torch"),
    *("torch", "torchvision", "timm", "open_clip", "lightning_fabric"),
)
OPTIONS = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not realdata and not gpu"]
# A mutant that takes this many times as long as the tests do without it never ends.
PATIENCE, LEAST_PATIENCE_SECONDS = 10, 60


@dataclass(frozen=True)
class Mutant:
    """One change of one module; `operator` and `occurrence` name it to Cosmic Ray."""

    module: str
    operator: str
    occurrence: int
    line: int


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant; `by` is the first test that failed, or why else it ended."""

    mutant: Mutant
    killed: bool
    by: str
    change: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=", ".join(AREAS))
    parser.add_argument("--places", type=int, default=100, help="mutants of each area")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for all verdicts")
    arguments = parser.parse_args()
    if unknown := set(arguments.areas) - set(AREAS):
        parser.error(f"no area {', '.join(sorted(unknown))}; there are {', '.join(AREAS)}")
    for module in SLOW_TO_IMPORT:
        importlib.import_module(module)
    everything = {}
    for area in arguments.areas or AREAS:
        verdicts, places = _measure(area, arguments.places, arguments.seed, arguments.workers)
        killed = sum(verdict.killed for verdict in verdicts)
        interval = binomtest(killed, len(verdicts)).proportion_ci(method="wilson")
        print(
            f"{area}: {killed} of {len(verdicts)} killed, {places} places "
            f"(95 % interval {interval.low:.1%} to {interval.high:.1%})"
        )
        for verdict in verdicts:
            if not verdict.killed:
                print(f"  lives: {verdict.mutant.module}:{verdict.mutant.line}\n{verdict.change}")
        everything[area] = [asdict(verdict) for verdict in verdicts]
    if arguments.out:
        arguments.out.write_text(json.dumps(everything, indent=1, ensure_ascii=False))


def _measure(area: str, number: int, seed: int, workers: int) -> tuple[list[Verdict], int]:
    """Verdicts of a sample of an area's mutants; and how many places there are."""
    patterns, tests = AREAS[area]
    source = ROOT / "src" / "sonobench"
    modules = sorted(file for pattern in patterns for file in source.glob(pattern))
    test_files = [
        str(found.relative_to(ROOT)) for name in tests for found in sorted(ROOT.glob(name))
    ]
    sample, places = _sample(modules, number, seed)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees: Queue[Path] = Queue()
        for worker in range(workers):
            trees.put(_copy_of_the_project(Path(folder) / f"project-{worker}"))
        first = Path(folder) / "project-0"
        tests_of = _TestsOf(first, modules, test_files)

        def judge(drawn: tuple[Mutant, str]) -> Verdict:
            tree = trees.get()
            try:
                verdict = _judge(*drawn, tests_of, tree)
            finally:
                trees.put(tree)
            told = verdict.by or f"lives\n{verdict.change}"
            print(f"{verdict.mutant.module}:{verdict.mutant.line} {told}", file=sys.stderr)
            return verdict

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(judge, sample)), places


def _sample(modules: list[Path], number: int, seed: int) -> tuple[list[tuple[Mutant, str]], int]:
    """Mutants with their code, one at each of `number` random places; how many places there are."""
    at_place: dict[tuple[str, Any], list[Mutant]] = defaultdict(list)
    code = {}
    for file in modules:
        name = str(file.relative_to(ROOT))
        code[name] = file.read_text()
        nodes = list(ast_nodes(get_ast(code[name])))
        for operator_name in operator_names():
            operator = get_operator(operator_name)
            if operator.arguments():
                continue  # replaces variables that the user names
            positions = [p for node in nodes for p in operator().mutation_positions(node)]
            for occurrence, position in enumerate(positions):
                mutant = Mutant(name, operator_name, occurrence, position[0][0])
                at_place[name, position].append(mutant)
    generator = random.Random(seed)
    places = sorted(at_place)
    generator.shuffle(places)
    sample = list[tuple[Mutant, str]]()
    for place in places:
        if len(sample) == number:
            break
        mutant = generator.choice(at_place[place])
        if mutated := _mutated(code[mutant.module], mutant):
            sample.append((mutant, mutated))
    return sample, len(places)


def _mutated(original: str, mutant: Mutant) -> str | None:
    """The changed code; none if it is no program or differs in annotations and spelling alone."""
    try:
        mutated = mutate_code(original, get_operator(mutant.operator)(), mutant.occurrence)
    except AttributeError:
        return None  # `except package.Error`: the operator knows plain names only
    return mutated if mutated and _differs(original, mutated) else None


def _differs(original: str, mutated: str) -> bool:
    try:
        return _without_annotations(original) != _without_annotations(mutated)
    except SyntaxError:
        return False


def _without_annotations(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def _copy_of_the_project(folder: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class _TestsOf:
    """The tests of an area, those that run through a statement, and how long they take."""

    def __init__(self, tree: Path, modules: list[Path], test_files: list[str]) -> None:
        answer = tree.parent / "coverage"
        included = [str(tree / file.relative_to(ROOT)) for file in modules]

        def trace() -> int:
            recorder = _Recorder(included)
            with recorder.recording():
                status = int(pytest.main([*OPTIONS, *test_files], plugins=[recorder]))
            answer.write_bytes(pickle.dumps((recorder.contexts_by_line(), recorder.tests)))
            return status

        status, output = _forked(tree, trace, seconds=None)
        if status:
            sys.exit(f"the tests fail without a mutant:\n{output}")
        self._tests: dict[str, tuple[float, list[str]]]
        lines, self._tests = pickle.loads(answer.read_bytes())
        self._contexts = {str(Path(file).relative_to(tree)): found for file, found in lines.items()}
        self.all = self._ordered(set(self._tests))

    def running_through(self, module: str, line: int, tree: Path) -> list[str]:
        """Tests that run the statement of a line, quick ones first; all for what runs at import."""
        code = ast.parse((tree / module).read_text())
        first, last = _statement(code, line)
        contexts = {
            context
            for at in range(first, last + 1)
            for context in self._contexts.get(module, {}).get(at, ())
        }
        if "" in contexts:
            return self.all
        return self._ordered(
            {name for name, (_, own) in self._tests.items() if contexts & {name, *own}}
        )

    def seconds(self, tests: list[str]) -> float:
        return sum(self._tests[name][0] for name in tests)

    def _ordered(self, names: set[str]) -> list[str]:
        return sorted(names, key=lambda name: (self._tests[name][0], name))


def _statement(code: ast.Module, line: int) -> tuple[int, int]:
    """First and last line of the innermost statement of a line; of a compound one, its head."""
    best = (line, line)
    for node in ast.walk(code):
        if isinstance(node, ast.stmt) and node.end_lineno is not None:
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
            if node.lineno <= line <= last:
                best = (node.lineno, last)
    return best


class _Recorder:
    """A pytest plugin: lines that each test, and each fixture that several tests share, runs."""

    def __init__(self, included: list[str]) -> None:
        self.tests: dict[str, tuple[float, list[str]]] = {}
        self._coverage = coverage.Coverage(data_file=None, include=included)
        self._test = ""

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        self._coverage.start()
        yield
        self._coverage.stop()

    def contexts_by_line(self) -> dict[str, dict[int, list[str]]]:
        data = self._coverage.get_data()
        return {file: data.contexts_by_lineno(file) for file in data.measured_files()}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._test = item.nodeid
        self._coverage.switch_context(self._test)
        start = time.perf_counter()
        yield
        shared = [f"fixture {name}" for name in getattr(item, "fixturenames", ())]
        self.tests[self._test] = (time.perf_counter() - start, shared)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        if fixturedef.scope != "function":
            self._coverage.switch_context(f"fixture {fixturedef.argname}")
        yield
        self._coverage.switch_context(self._test)


def _judge(mutant: Mutant, mutated: str, tests_of: _TestsOf, tree: Path) -> Verdict:
    file = tree / mutant.module
    original, times = file.read_text(), file.stat()
    near = tests_of.running_through(mutant.module, mutant.line, tree)
    file.write_text(mutated)
    by = ""
    try:
        for tests in (near, tests_of.all):
            if not by and tests:
                by = _killer(tree, tests, tests_of.seconds(tests))
    finally:
        file.write_text(original)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return Verdict(mutant, bool(by), by, _change(original, mutated))


def _killer(tree: Path, tests: list[str], seconds: float) -> str:
    patience = max(LEAST_PATIENCE_SECONDS, PATIENCE * seconds)
    status, output = _forked(tree, lambda: int(pytest.main([*OPTIONS, *tests])), patience)
    if status == 0:
        return ""
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"status {status}"


def _forked(tree: Path, work: Callable[[], int], seconds: float | None) -> tuple[int, str]:
    """Exit status and output of `work`, done in the project's copy by a process of its own."""
    log = tree.parent / f"{tree.name}.log"
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 70
        try:
            os.setsid()
            with log.open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            os.chdir(tree)
            os.environ["PYTHONPATH"] = str(tree / "src")
            sys.path[:] = [str(tree / "src"), *(p for p in sys.path if p != str(ROOT / "src"))]
            for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
                del sys.modules[name]
            sys.dont_write_bytecode = True
            os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.mkdtemp(dir=tree.parent)
            status = work()
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = _wait(child, seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    # A failing example that hypothesis found belongs to one mutant.
    shutil.rmtree(tree / ".hypothesis", ignore_errors=True)
    return status, log.read_text(errors="replace")


def _wait(child: int, seconds: float | None) -> int:
    end = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _change(original: str, mutated: str) -> str:
    """The changed lines, before and after."""
    pairs = zip(original.split("\n"), mutated.split("\n"), strict=False)
    return "\n".join(f"    - {a.strip()}\n    + {b.strip()}" for a, b in pairs if a != b)


if __name__ == "__main__":
    main()
