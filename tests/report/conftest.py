"""Folders of small simulated runs: every file that a benchmark leaves for its report."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sonobench.evaluation import Evaluation, EvaluationSettings, evaluate
from sonobench.protocol import Protocol, safe_name
from sonobench.tables import SAMPLES, SPLITS, write_parquet

FOLDS = 3


@dataclass(frozen=True)
class Written:
    """A run's folder and what its predictions say."""

    folder: Path
    evaluation: Evaluation
    protocol: Protocol


def _samples(classes: tuple[str, ...]) -> pd.DataFrame:
    """24 home patients of all classes; abroad 12 at two sites, without the last class.

    Abroad two patients share an image, so there are distinct images and a merged subject.
    """
    rows = []
    for dataset, patients, labels in (("home", 24, classes), ("abroad", 12, classes[:-1])):
        for patient in range(patients):
            site = ("north", "south")[patient % 2]
            subject = f"{dataset}/{patient:02d}"
            if dataset == "abroad" and patient == 3:
                subject = "abroad/01"  # as merging gives: the smallest of both ids
            for k, label in enumerate((labels * 2)[: 3 + patient % 3]):
                image = f"{dataset}/scans/{patient:02d}_{k}.png"
                twin = dataset == "abroad" and patient in (1, 3) and k == 0
                rows.append(
                    {
                        "image_id": image,
                        "dataset": dataset,
                        "path": image.removeprefix(f"{dataset}/"),
                        "pixel_sha256": "shared" if twin else f"pixels of {image}",
                        "label": label,
                        "patient_id": f"{dataset}/{patient:02d}",
                        "subject_id": subject,
                        "site": site,
                        "device": "Aloka" if dataset == "home" else None,
                        "operator": None,
                        "official_split": "test" if patient % 2 else "train",
                    }
                )
    return pd.DataFrame(rows)


def _splits(samples: pd.DataFrame) -> pd.DataFrame:
    patient = samples["patient_id"].str[-2:].astype(int)
    tables = []
    for fold in range(FOLDS):
        role = np.where(patient // 2 % FOLDS == fold, "validation", "train")
        role = np.where(samples["official_split"] == "test", "test", role)
        role = np.where(samples["dataset"] == "abroad", "external", role)
        tables.append(pd.DataFrame({"image_id": samples["image_id"], "fold": fold, "role": role}))
    return pd.concat(tables, ignore_index=True)


def _predictions(
    samples: pd.DataFrame, splits: pd.DataFrame, classes: tuple[str, ...], skills: dict[str, float]
) -> pd.DataFrame:
    """Logits are noise plus a model's skill on the true class; the majority class is the first."""
    rng = np.random.default_rng(5)
    tested = splits[splits["role"].isin(["test", "external"])].merge(samples, on="image_id")
    true = tested["label"].map(classes.index).to_numpy()
    columns = ["dataset", "role", "fold", "image_id", "subject_id", "label"]
    parts = []
    for encoder, skill in skills.items():
        logits = rng.normal(size=(len(tested), len(classes)))
        logits[np.arange(len(tested)), true] += skill
        if encoder == "none":
            logits = np.tile(-np.arange(len(classes), dtype=float), (len(tested), 1))
        adaptation = "majority_class" if encoder == "none" else "linear_probe"
        parts.append(
            tested[columns].assign(
                encoder=encoder, adaptation=adaptation, seed=0, logits=list(np.float32(logits))
            )
        )
    return pd.concat(parts, ignore_index=True)


def _audit(samples: pd.DataFrame) -> dict[str, Any]:
    cohorts = {
        name: {
            "images": len(rows),
            "distinct_images": rows["pixel_sha256"].nunique(),
            "patients": rows["patient_id"].nunique(),
            "subjects": rows["subject_id"].nunique(),
            "duplicate_sets": int(name == "abroad"),
            "duplicate_sets_across_patients": int(name == "abroad"),
            "duplicate_sets_across_published_split": 0,
            "images_of_each_class": rows["label"].value_counts().to_dict(),
            "excluded_images": 0,
            "duplicates": [["abroad/scans/01_0.png", "abroad/scans/03_0.png"]]
            if name == "abroad"
            else [],
        }
        for name, rows in samples.groupby("dataset", sort=False)
    }
    return {
        "cohorts": cohorts,
        "images_shared_between_cohorts": 0,
        "left_out": [],
        "images_of_each_role": {},
    }


def _record(label: str, control: bool) -> dict[str, Any]:
    seed = label.startswith("random:")
    pretraining = {"fetal_planes_db": {"status": "not_listed", "evidence": "ImageNet-1k only"}}
    return {
        "label": label,
        "architecture": "timm net",
        "feature": "global average",
        "dimension": 8,
        "citation": "Somebody 2020",
        "licence": "Apache-2.0",
        "control": control,
        "weights": {"random_seed": 0} if seed else {"sha256": "ab" * 32},
        "preprocess": {
            "geometry": {"kind": "squash", "size": 224, "interpolation": "bicubic"},
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "pretraining": {} if seed else pretraining,
        "verified": True,
    }


def _certificate(label: str, random_looking: bool) -> dict[str, Any]:
    return {
        "encoder": label,
        "parameters": 3371008,
        "tensors_loaded": 294,
        "tensors_dropped": {"head.weight": "classifier"},
        "effective_rank": 31.03,
        "spectral_distance_median": 0.017 if random_looking else 0.149,
        "random_looking": random_looking,
        "random_looking_matrices": ["blocks.0.weight"] if random_looking else [],
    }


def _probe(encoders: list[str], unconverged: str | None) -> pd.DataFrame:
    rows = [
        {
            "fold": fold,
            "penalty": penalty,
            "objective": 0.5,
            "gradient": 2e-6,
            "converged": not (encoder == unconverged and fold == 1 and penalty == 0.1),
            "iterations": 20,
            "validation_nll": 0.4,
            "validation_macro_f1": 0.8,
            "chosen": penalty == 0.1,
            "at_edge": False,
            "encoder": encoder,
            "seed": 0,
        }
        for encoder in encoders
        for fold in range(FOLDS)
        for penalty in (1.0, 0.1, 0.01)
    ]
    return pd.DataFrame(rows)


def _pictures(folder: Path, samples: pd.DataFrame) -> None:
    folder.mkdir(parents=True)
    chosen = samples.groupby(["dataset", "label"]).head(2).reset_index(drop=True)
    rng = np.random.default_rng(0)
    for number in chosen.index:
        noise = rng.integers(0, 255, (96, 96), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    files = [f"{number}.png" for number in chosen.index]
    index = pd.DataFrame({"image_id": chosen["image_id"], "file": files})
    index.to_csv(folder / "index.csv", index=False)


def _write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_run(
    folder: Path,
    *,
    classes: tuple[str, ...] = ("brain", "femur", "other"),
    encoder: str = "net",
    second: str = "net_b",
    skipped: str = "absent",
    reason: str = "its weights are not at hand",
    random_looking: str | None = None,
    unconverged: str | None = None,
) -> Written:
    twin = f"random:{encoder}"
    protocol = Protocol.model_validate(
        {
            "name": "tiny_run",
            "description": "Which of two encoders?",
            "source": {
                "loader": "manifest",
                "name": "home",
                "path": "home.csv",
                "note": "Home is small.",
            },
            "external": [{"loader": "manifest", "name": "abroad", "path": "abroad.csv"}],
            "classes": classes,
            "split": {"folds": FOLDS},
            "encoders": [
                {"name": "timm:resnet50", "label": encoder},
                {"name": "timm:vit", "label": second},
                {"name": "timm:gone", "label": skipped},
                {"name": "random:timm:resnet50", "label": twin},
                "pixel_stats",
            ],
            "numerics": {"backend": "cpu"},
            "evaluation": {"bootstrap_draws": 200},
        }
    )
    controls = [twin, "pixel_stats"]
    trained = [encoder, second, *controls]
    samples = _samples(classes)
    splits = _splits(samples)
    skills = {encoder: 3.0, second: 2.6, twin: 0.8, "pixel_stats": 1.2, "none": 0.0}
    evaluation = evaluate(
        _predictions(samples, splits, classes, skills),
        samples,
        EvaluationSettings(
            classes, "home", {"abroad": classes[:-1]}, bootstrap_draws=200, confidence=0.95
        ),
    )
    folder.mkdir(parents=True)
    (folder / "protocol.yaml").write_text(protocol.to_yaml(), encoding="utf-8")
    write_parquet(samples, folder / "samples.parquet", SAMPLES)
    write_parquet(splits, folder / "splits.parquet", SPLITS)
    _write_json(folder / "audit.json", _audit(samples))
    manifest = {
        "python": "3.11.7",
        "packages": {"sonobench": "0.1.0", "torch": "2.14.1"},
        "machine": "x86_64",
        "system": "Linux",
        "cpu_count": 2,
        "device": "cpu",
        "started": "2026-01-02T03:04:05+0000",
        "encoders": [_record(label, label in controls) for label in trained],
        "skipped": [{"encoder": skipped, "reason": reason}],
        "failures": [],
        "datasets": {
            name: {"images": len(rows), "fingerprint": "cd" * 32}
            for name, rows in samples.groupby("dataset")
        },
    }
    _write_json(folder / "manifest.json", manifest)
    diagnostics = folder / "diagnostics"
    for label in trained:
        certificate = _certificate(label, label in (random_looking, twin))
        _write_json(diagnostics / "certificates" / f"{safe_name(label)}.json", certificate)
    _probe(trained, unconverged).to_parquet(diagnostics / "probe.parquet", index=False)
    _pictures(diagnostics / "thumbnails", samples)
    return Written(folder, evaluation, protocol)


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Two encoders and three controls, one encoder skipped, nothing else amiss."""
    return write_run(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Labels and messages that would break a page, a template, a table or LaTeX."""
    return write_run(
        tmp_path_factory.mktemp("hostile") / "run",
        classes=(
            "<script>alert(1)</script>",
            "{{ 7 * 7 }} {% raw %} #1 ~^\\",
            "50 % & a_b | c [d] $e$ *f*",
        ),
        encoder='net"><img src=x onerror=alert(2)>_&_{1}',
        second="[second] | encoder",
        skipped="<b>gone</b>",
        reason="not at <i>hand</i> & never {{ was }}",
    )


@pytest.fixture(scope="session")
def doubtful_run(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """One encoder looks random, another has a probe that did not converge."""
    return write_run(
        tmp_path_factory.mktemp("doubtful") / "run", random_looking="net", unconverged="net_b"
    )


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Written], Written]:
    """A run that a test may change."""

    def copy(run: Written) -> Written:
        shutil.copytree(run.folder, tmp_path / "run")
        return Written(tmp_path / "run", run.evaluation, run.protocol)

    return copy
