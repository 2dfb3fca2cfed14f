"""What a run leaves beside its results: data, predictions, certificates, the manifest's facts."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sonobench import steps
from sonobench.encoders import file_sha256
from sonobench.engine import Store, Task
from sonobench.preparation import Data, Member
from sonobench.protocol import Protocol, safe_name
from sonobench.tables import PREDICTIONS, SAMPLES, SPLITS, replace_file, write_parquet

_PACKAGES = (
    "sonobench",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "pillow",
)


def write_data(out: Path, data: Data) -> None:
    """The tables of who was scanned and how they were divided, and what was found in them."""
    write_parquet(data.samples, out / "samples.parquet", SAMPLES)
    write_parquet(data.splits, out / "splits.parquet", SPLITS)
    write_json(out / "audit.json", data.audit)


def write_predictions(
    out: Path, store: Store, adapted: dict[tuple[str, str, int], Task], protocol: Protocol
) -> list[dict[str, str]]:
    """Predictions of every model that was trained, and its diagnostics; returns those models."""
    predictions: dict[tuple[str, str], list[pd.DataFrame]] = {}
    paths = []
    for (encoder, adaptation, seed), task in adapted.items():
        if not store.has(task):
            continue
        made = steps.read_adapted(store, task)
        rows = made.predictions.assign(encoder=encoder, adaptation=adaptation, seed=seed)
        predictions.setdefault((encoder, adaptation), []).append(rows)
        if adaptation == "linear_probe":
            paths.append(made.diagnostics.assign(encoder=encoder, seed=seed))
    written = set()
    for (encoder, adaptation), tables in predictions.items():
        file = out / "predictions" / f"{safe_name(encoder)}__{adaptation}.parquet"
        write_parquet(pd.concat(tables, ignore_index=True), file, PREDICTIONS, protocol.classes)
        written.add(file)
    # What an earlier protocol of this folder left is not of this run.
    for file in set((out / "predictions").glob("*.parquet")) - written:
        file.unlink()
    probes = out / "diagnostics" / "probe.parquet"
    probes.unlink(missing_ok=True)
    if paths:
        replace_file(probes, pd.concat(paths, ignore_index=True).to_parquet(index=False))
    return [{"encoder": encoder, "adaptation": adaptation} for encoder, adaptation in predictions]


def write_certificates(out: Path, store: Store, certificates: dict[str, Task]) -> None:
    """The certificate of every encoder that was admitted."""
    for label, task in certificates.items():
        if store.has(task):
            text = (store.folder(task) / "certificate.json").read_bytes()
            replace_file(out / "diagnostics" / "certificates" / f"{safe_name(label)}.json", text)


def encoder_record(member: Member) -> dict[str, Any]:
    """What the manifest says of an encoder."""
    if not member.specs:
        file = member.embeddings
        assert file is not None
        record = {"embeddings": file.name, "sha256": file_sha256(file), "verified": False}
        return {"label": member.entry.label, **record}
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


def environment() -> dict[str, Any]:
    """Versions and hardware, for the manifest."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu_count": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def write_json(file: Path, content: Any) -> None:
    """JSON with sorted keys, put in place at once."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    replace_file(file, (text + "\n").encode())
