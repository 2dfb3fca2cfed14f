"""Outputs of a run that are as they were written, from what they would be made of again."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from sonobench.engine import Store, Task
from sonobench.evaluation import Evaluation
from sonobench.outputs import installed_packages, write_json
from sonobench.tables import TableError, read_json, read_parquet, replace_file

# In the run's folder: the evaluation's tables, for the terminal and Python, and `record.json`.
_KEPT, _RECORD = ".evaluation", "record.json"
# What the last steps of a run write; other files of the folder are told apart from them.
_OUTPUTS = (
    "*.csv",
    "*.html",
    "*.parquet",
    "predictions/**/*",
    "diagnostics/**/*",
    "tables/*",
    "figures/*",
    "manifest.json",
    f"{_KEPT}/*",
)


def digest_of_sources(
    out: Path, store: Store, tasks: Iterable[Task], facts: Mapping[str, Any]
) -> str:
    """SHA-256 of everything that predictions, evaluation, diagnostics and report are made of.

    Args:
        out: the run's folder, which has its samples, splits and audit.
        store: with the artefacts, whose checksums count.
        tasks: whose artefacts the outputs are made of; one that is not there counts as such.
        facts: what else they show, as JSON values.
    """
    content = {
        "facts": facts,
        "package": _package_digest(),
        "installed": installed_packages(),
        "data": [
            _sha256(out / name) for name in ("audit.json", "samples.parquet", "splits.parquet")
        ],
        "artefacts": {task.key: store.digest(task) for task in tasks if store.has(task)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_kept(out: Path, sources: str) -> Evaluation | None:
    """The evaluation of a run whose outputs are whole and were made of these sources, else None."""
    try:
        record = read_json(out / _KEPT / _RECORD)
        if record != {"sources": sources, "outputs": _outputs_digest(out)}:
            return None
        # Parquet does not tell text from objects.
        types = read_json(out / _KEPT / "types.json")
        return Evaluation(
            **{
                name: read_parquet(out / _KEPT / f"{name}.parquet").astype(of_columns)
                for name, of_columns in types.items()
            }
        )
    except (OSError, TableError):
        return None


def keep(out: Path, sources: str, evaluation: Evaluation) -> None:
    """Remember that the outputs that are there were made of these sources."""
    frames: dict[str, pd.DataFrame] = vars(evaluation)
    for name, frame in frames.items():
        replace_file(out / _KEPT / f"{name}.parquet", frame.to_parquet(index=False))
    types = {name: frame.dtypes.astype(str).to_dict() for name, frame in frames.items()}
    write_json(out / _KEPT / "types.json", types)
    # Last: without it nothing is kept.
    write_json(out / _KEPT / _RECORD, {"sources": sources, "outputs": _outputs_digest(out)})


def _outputs_digest(out: Path) -> str:
    """SHA-256 of names and contents of all output files."""
    files = {file for pattern in _OUTPUTS for file in out.glob(pattern) if file.is_file()}
    files.discard(out / _KEPT / _RECORD)
    lines = [f"{file.relative_to(out).as_posix()} {_sha256(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@cache
def _package_digest() -> str:
    """SHA-256 of the package's own files: another version of the code makes outputs anew."""
    package = Path(__file__).parent
    files = (file for file in package.rglob("*") if file.is_file() and file.suffix != ".pyc")
    lines = [f"{file.relative_to(package).as_posix()} {_sha256(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
