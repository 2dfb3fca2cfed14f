"""What a run leaves beside its results: data, predictions, certificates, the manifest's facts."""

import json
import logging
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from sonobench import steps
from sonobench.engine import Store, Task
from sonobench.members import Member
from sonobench.preparation import Data
from sonobench.protocol import Protocol, safe_name
from sonobench.tables import (
    PREDICTIONS,
    SAMPLES,
    SPLITS,
    TableError,
    read_json,
    replace_file,
    write_parquet,
)

_logger = logging.getLogger("sonobench")

# Tables in `diagnostics/` on how models were trained.
_DIAGNOSTICS = ("probe", "finetune", "learning_rate_search")


def write_data(out: Path, data: Data, *, pseudonymised: bool) -> None:
    """The tables of who was scanned and how they were divided, and what was found in them."""
    # First: from here on the folder may not be gone on with under the patients' own ids.
    write_json(out / "audit.json", {"pseudonymised": pseudonymised, **data.audit})
    write_parquet(data.samples, out / "samples.parquet", SAMPLES)
    write_parquet(data.splits, out / "splits.parquet", SPLITS)


def write_predictions(
    out: Path,
    store: Store,
    adapted: dict[tuple[str, str, int], steps.AdaptedTasks],
    protocol: Protocol,
) -> list[dict[str, str]]:
    """Predictions of every model that was trained, and its diagnostics; returns those models.

    A model with a fold that failed or diverged has no predictions: a mean over the others would
    flatter it.
    """
    predictions: dict[tuple[str, str], list[pd.DataFrame]] = {}
    incomplete = set()
    diagnostics: dict[str, list[pd.DataFrame]] = {name: [] for name in _DIAGNOSTICS}
    for (encoder, adaptation, seed), tasks in adapted.items():
        own: dict[str, Any] = {"encoder": encoder, "adaptation": adaptation, "seed": seed}
        made = [steps.read_adapted(store, task) for task in tasks.parts if store.has(task)]
        whole = len(made) == len(tasks.parts) and not any(part.predictions.empty for part in made)
        if not whole:
            incomplete.add((encoder, adaptation))
        rows = predictions.setdefault((encoder, adaptation), [])
        rows += [part.predictions.assign(**own) for part in made]
        if adaptation == "linear_probe":
            told: dict[str, Any] = {"encoder": encoder, "seed": seed}
            diagnostics["probe"] += [part.diagnostics.assign(**told) for part in made]
        elif adaptation != "majority_class":
            diagnostics["finetune"] += [part.diagnostics.assign(**own) for part in made]
        if tasks.trials and all(map(store.has, tasks.trials)):
            settings = getattr(protocol.adaptations, adaptation)
            search = steps.learning_rate_search(settings, tasks.trials, store)
            diagnostics["learning_rate_search"].append(search.assign(**own))
    written = set()
    for (encoder, adaptation), tables in predictions.items():
        if (encoder, adaptation) in incomplete:
            continue
        file = out / "predictions" / f"{safe_name(encoder)}__{adaptation}.parquet"
        write_parquet(pd.concat(tables, ignore_index=True), file, PREDICTIONS, protocol.classes)
        written.add(file)
    # What an earlier protocol of this folder left is not of this run.
    for file in set((out / "predictions").glob("*.parquet")) - written:
        file.unlink()
    for name, tables in diagnostics.items():
        file = out / "diagnostics" / f"{name}.parquet"
        file.unlink(missing_ok=True)
        if tables:
            replace_file(file, pd.concat(tables, ignore_index=True).to_parquet(index=False))
    return [
        {"encoder": encoder, "adaptation": adaptation}
        for encoder, adaptation in predictions
        if (encoder, adaptation) not in incomplete
    ]


def learning_rate_spread(out: Path) -> list[dict[str, Any]]:
    """For the manifest: how learning rates are spread over each fine-tuned model's parameters."""
    file = out / "diagnostics" / "finetune.parquet"
    if not file.is_file():
        return []
    model, figures = ["encoder", "adaptation"], ["lowest_rate", "share_below_1_percent"]
    epochs = pd.read_parquet(file, columns=[*model, *figures])
    rows = epochs.drop_duplicates(model).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def write_certificates(out: Path, store: Store, certificates: dict[str, Task]) -> None:
    """The certificate of every encoder that was admitted, and of no other."""
    folder, written = out / "diagnostics" / "certificates", set()
    for label, task in certificates.items():
        if store.has(task):
            file = folder / f"{safe_name(label)}.json"
            replace_file(file, (store.folder(task) / "certificate.json").read_bytes())
            written.add(file)
    for file in set(folder.glob("*.json")) - written:
        file.unlink()


def encoder_record(member: Member) -> dict[str, Any]:
    """What the manifest says of an encoder."""
    if not member.specs:
        file = member.embeddings
        assert file is not None
        record = {"embeddings": file.name, "sha256": member.embeddings_sha256}
        return {"label": member.entry.label, **record, "verified": False}
    card = member.specs[0].card
    return {
        "label": member.entry.label,
        "architecture": card.architecture,
        "feature": card.feature,
        "dimension": card.dimension,
        "citation": card.citation,
        "licence": card.licence,
        "control": card.control,
        "weights": member.specs[0].identity["weights"],
        "preprocess": member.specs[0].identity["preprocess"],
        "pretraining": {
            name: {"status": record.status, "evidence": record.evidence}
            for name, record in card.pretraining.items()
        },
        "verified": True,
    }


@contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a run's folder: each in turn, and all the same bytes."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _logger.info("waiting: another process writes the results into %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def recorded_data_root(folder: Path) -> Path | None:
    """Where the datasets were when a run was made; None where no manifest says so."""
    try:
        recorded = read_json(folder / "manifest.json", ["data_root"])["data_root"]
    except TableError:
        return None
    # A run with pseudonyms does not tell.
    return None if recorded is None else Path(str(recorded))


def protocol_of_predictions(folder: Path) -> str | None:
    """Hash of the protocol that a run's predictions were made by, from its manifest.

    None without one, and where another version of sonobench wrote it: a protocol that has more
    settings has another hash.
    """
    try:
        manifest = read_json(folder / "manifest.json", ["packages", "protocol"])
        if manifest["packages"]["sonobench"] != installed_packages()["sonobench"]:
            return None
        return str(manifest["protocol"]["sha256"])
    except (TableError, KeyError, TypeError):
        return None


def environment() -> dict[str, Any]:
    """Versions and hardware, for the manifest."""
    return {
        "python": platform.python_version(),
        "packages": installed_packages(),
        "git": _git(),
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "device_count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
    }


def installed_packages() -> dict[str, str]:
    """The version of sonobench and of all that it depends on directly and that is installed."""
    needed = [one for one in metadata.requires("sonobench") or () if 'extra == "dev"' not in one]
    names = [re.split(r"[^A-Za-z0-9._-]", one)[0] for one in needed]
    versions = {}
    for name in ["sonobench", *names]:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    """The CPU's name, on which the bytes of a result may depend."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1) if found else platform.processor()


def _git() -> dict[str, Any] | None:
    """The commit of the code that runs, and whether it was changed since; None outside of git."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An installed copy may lie in a folder of somebody's own repository.
        tracked = [*git, "ls-files", "--error-unmatch", here.name]
        subprocess.run(tracked, capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.decode().strip(), "changed": bool(changes.stdout.strip())}


def write_json(file: Path, content: Any) -> None:
    """JSON with sorted keys, put in place at once."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    replace_file(file, (text + "\n").encode())
