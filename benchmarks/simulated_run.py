"""A run's folder with simulated predictions: everything that a benchmark leaves for its report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from sonobench.protocol import Protocol, safe_name
from sonobench.report import Opinions, pictured_images
from sonobench.tables import (
    PREDICTIONS,
    SAMPLES,
    SPLITS,
    replace_file,
    write_parquet,
)

Skills = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Mishaps:
    """What may go wrong in a run.

    Attributes:
        skipped: encoders without weights, and why.
        random_looking: labels of encoders whose weights look random.
        unconverged: labels of encoders with a probe that did not converge.
        diverged: labels of encoders whose fine-tuning diverged.
        at_chance: labels of encoders whose fine-tuning stayed at chance.
        findings: of the audit, beside what it always has.
    """

    skipped: Mapping[str, str] = field(default_factory=dict)
    random_looking: Sequence[str] = ()
    unconverged: Sequence[str] = ()
    diverged: Sequence[str] = ()
    at_chance: Sequence[str] = ()
    findings: Sequence[Mapping[str, Any]] = ()


def simulate_samples(
    dataset: str,
    patients: int,
    images_a_patient: float,
    classes: Sequence[str],
    sites: Sequence[str],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """A cohort's sample table: sites in turn, every second patient in the published test half."""
    counts = 1 + rng.poisson(images_a_patient - 1, patients)
    patient = np.repeat(np.arange(patients), counts)
    number = np.concatenate([np.arange(count) for count in counts])
    weights = np.linspace(1, 2.5, len(classes))
    label = rng.choice(np.array(classes, dtype=object), len(patient), p=weights / weights.sum())
    path = [f"{p:04d}_{n}.png" for p, n in zip(patient, number, strict=True)]
    name = [f"{dataset}/{p:04d}" for p in patient]
    device = np.array(["Voluson E6", "Aloka", "Voluson S10", "Other"], dtype=object)
    of_patient = device[rng.choice(4, patients, p=[0.5, 0.2, 0.2, 0.1])]
    return pd.DataFrame(
        {
            "image_id": [f"{dataset}/{file}" for file in path],
            "dataset": dataset,
            "path": path,
            "pixel_sha256": [f"pixels of {dataset} {file}" for file in path],
            "label": label,
            "patient_id": name,
            "subject_id": name,
            "site": np.array(sites, dtype=object)[patient % len(sites)],
            "device": of_patient[patient],
            "operator": None,
            "official_split": np.where(patient % 2, "test", "train"),
        }
    )


def simulate_predictions(
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    skills: Skills,
    seed: int = 5,
) -> pd.DataFrame:
    """Predictions of every model: noise, that of images and patients shared, and its skill.

    Args:
        samples, splits: the tables.
        classes: order of the logits.
        skills: by encoder and adaptation; what is added to the logit of the true class.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    tested = splits[splits["role"].isin(["validation", "test", "external"])]
    tested = tested.merge(samples, on="image_id")
    true = tested["label"].map({name: k for k, name in enumerate(classes)}).to_numpy()
    image = tested["image_id"].factorize()[0]
    subject = tested["subject_id"].factorize()[0]
    hard = rng.normal(size=(image.max() + 1, len(classes))) * 0.9
    hard_patient = rng.normal(size=(subject.max() + 1, len(classes))) * 0.7
    columns = ["dataset", "role", "fold", "image_id", "subject_id", "label"]
    parts = []
    for (encoder, adaptation), skill in skills.items():
        logits = hard[image] + hard_patient[subject] + rng.normal(size=(len(tested), len(classes)))
        logits[np.arange(len(tested)), true] += skill
        if adaptation == "majority_class":
            logits = np.tile(-np.arange(len(classes), dtype=float), (len(tested), 1))
        parts.append(
            tested[columns].assign(
                encoder=encoder,
                adaptation=adaptation,
                seed=0,
                logits=list(logits.astype(np.float32)),
            )
        )
    return pd.concat(parts, ignore_index=True)


def write_run(
    folder: Path,
    protocol: Protocol,
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    skills: Skills,
    mishaps: Mishaps | None = None,
    pictures: int = 1500,
) -> pd.DataFrame:
    """Write every file but those of the evaluation and the report.

    Args:
        folder: does not exist yet.
        protocol: what the run pretends to have measured.
        samples, splits: its tables.
        skills: of every model that has predictions.
        mishaps: none if None.
        pictures: how many images have a thumbnail.

    Returns:
        The predictions.
    """
    mishaps = mishaps or Mishaps()
    rng = np.random.default_rng(0)
    predictions = simulate_predictions(samples, splits, protocol.classes, skills)
    folder.mkdir(parents=True)
    (folder / "protocol.yaml").write_text(protocol.to_yaml(), encoding="utf-8")
    write_parquet(samples, folder / "samples.parquet", SAMPLES)
    write_parquet(splits, folder / "splits.parquet", SPLITS)
    for (encoder, adaptation), rows in predictions.groupby(["encoder", "adaptation"]):
        file = folder / "predictions" / f"{safe_name(str(encoder))}__{adaptation}.parquet"
        write_parquet(rows, file, PREDICTIONS, protocol.classes)
    trained = [e for e in protocol.encoders if e.label not in mishaps.skipped]
    controls = [e.label for e in trained if _is_control(str(e.name))]
    _write_json(folder / "audit.json", _audit(samples, mishaps))
    manifest = {
        "python": "3.11.7",
        "packages": {"sonobench": "0.1.0", "torch": "2.14.1"},
        "machine": "x86_64",
        "system": "Linux",
        "cpu_count": 2,
        "device": "cpu",
        "started": "2026-01-02T03:04:05+0000",
        "encoders": [_record(e.label, e.label in controls) for e in trained],
        "skipped": [{"encoder": e, "reason": r} for e, r in mishaps.skipped.items()],
        "failures": [],
        "datasets": {
            name: {"images": len(rows), "fingerprint": "cd" * 32}
            for name, rows in samples.groupby("dataset")
        },
    }
    _write_json(folder / "manifest.json", manifest)
    diagnostics = folder / "diagnostics"
    for place, entry in enumerate(trained):
        looks_random = entry.label in mishaps.random_looking or "random:" in str(entry.name)
        certificate = _certificate(entry.label, looks_random, place)
        _write_json(diagnostics / "certificates" / f"{safe_name(entry.label)}.json", certificate)
    labels = [entry.label for entry in trained]
    probe = _probe(labels, protocol, mishaps, rng)
    probe.to_parquet(diagnostics / "probe.parquet", index=False)
    tuned = [encoder for encoder, adaptation in skills if adaptation == "full_finetune"]
    tuned += list(mishaps.diverged)
    if tuned:
        _finetune(tuned, protocol, mishaps, rng).to_parquet(diagnostics / "finetune.parquet")
        _search(tuned).to_parquet(diagnostics / "learning_rate_search.parquet")
    opinions = Opinions.of(predictions, samples, protocol.classes)
    chosen = pictured_images(opinions, samples, controls, pictures // 2)
    _maps(labels, samples, chosen, splits, protocol.classes, rng, diagnostics)
    others = samples.loc[~samples["image_id"].isin(chosen), "image_id"].to_list()
    pictured = [*chosen, *others][:pictures]
    _pictures(diagnostics / "thumbnails", pictured, samples, protocol.classes)
    return predictions


def _is_control(name: str) -> bool:
    return name.startswith("random:") or name == "pixel_stats"


def _audit(samples: pd.DataFrame, mishaps: Mishaps) -> dict[str, Any]:
    cohorts = {}
    for name, rows in samples.groupby("dataset", sort=False):
        copies = rows[rows.duplicated("pixel_sha256", keep=False)]
        sets = [list(group["image_id"]) for _, group in copies.groupby("pixel_sha256")]
        cohorts[name] = {
            "images": len(rows),
            "distinct_images": rows["pixel_sha256"].nunique(),
            "patients": rows["patient_id"].nunique(),
            "subjects": rows["subject_id"].nunique(),
            "duplicate_sets": len(sets),
            "duplicate_sets_across_patients": len(sets),
            "duplicate_sets_across_published_split": 0,
            "images_of_each_class": rows["label"].value_counts().to_dict(),
            "excluded_images": 0,
            "duplicates": sets,
        }
    return {
        "cohorts": cohorts,
        "images_shared_between_cohorts": 0,
        "left_out": [],
        "images_of_each_role": {},
        "findings": [dict(finding) for finding in mishaps.findings],
        "known_counts": {
            name: {"published_images": None, "here": len(rows)}
            for name, rows in samples.groupby("dataset")
        },
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


def _certificate(label: str, random_looking: bool, place: int) -> dict[str, Any]:
    return {
        "encoder": label,
        "parameters": 3371008 * (1 + 9 * place),
        "images_a_second": 60.5 / (1 + place),
        "device": "cuda" if place else "cpu",
        "precision": "bf16" if place else "fp32",
        "difference_from_fp32": 0.0031 if place else None,
        "difference_from_cpu": 1.2e-6 if place else None,
        "tensors_loaded": 294,
        "tensors_dropped": {"head.weight": "classifier"},
        "effective_rank": 31.03,
        "spectral_distance_median": 0.017 if random_looking else 0.149,
        "random_looking": random_looking,
        "random_looking_matrices": ["blocks.0.weight"] if random_looking else [],
        "cka_with_random_twins": [0.31, 0.3, 0.32],
        "cka_among_random_twins": [0.9, 0.91, 0.92],
    }


def _probe(
    encoders: Sequence[str], protocol: Protocol, mishaps: Mishaps, rng: np.random.Generator
) -> pd.DataFrame:
    penalties = [1.0, 0.1, 0.01]
    rows = [
        {
            "fold": fold,
            "penalty": penalty,
            "objective": 0.5,
            "gradient": 2e-6,
            "converged": not (encoder in mishaps.unconverged and fold == 1 and penalty == 0.1),
            "iterations": 20,
            "validation_nll": 0.4 + 0.1 * abs(np.log10(penalty) + 1) + 0.03 * rng.random(),
            "validation_macro_f1": 0.8,
            "chosen": penalty == 0.1,
            "at_edge": False,
            "encoder": encoder,
            "seed": 0,
        }
        for encoder in encoders
        for fold in range(protocol.split.folds)
        for penalty in penalties
    ]
    return pd.DataFrame(rows)


def _finetune(
    encoders: Sequence[str], protocol: Protocol, mishaps: Mishaps, rng: np.random.Generator
) -> pd.DataFrame:
    epochs = np.arange(12)
    tables = []
    for encoder in encoders:
        for fold in range(protocol.split.folds):
            score = 0.93 - 0.5 * np.exp(-epochs / 2) + 0.01 * rng.normal(size=len(epochs))
            nll = 0.3 + np.exp(-epochs / 2) + 0.01 * epochs
            loss = 0.2 + 1.3 * np.exp(-epochs / 3)
            status, reason = "trained", ""
            if encoder in mishaps.diverged:
                status, reason = "diverged", f"the loss of fold {fold} is not finite in epoch 4"
                score[4:], nll[4:], loss[4:] = np.nan, np.nan, np.nan
            elif encoder in mishaps.at_chance:
                status, reason = "at_chance", "macro F1 on validation patients never left chance"
                score = 0.16 + 0.01 * rng.normal(size=len(epochs))
            tables.append(
                pd.DataFrame(
                    {
                        "encoder": encoder,
                        "adaptation": "full_finetune",
                        "seed": 0,
                        "fold": fold,
                        "epoch": epochs,
                        "learning_rate": 1e-4,
                        "train_loss": loss,
                        "validation_nll": nll,
                        "validation_macro_f1": score,
                        "images_per_second": 31.5,
                        "lowest_rate": 0.75**12,
                        "share_below_1_percent": 0.0,
                        "best": epochs == np.nanargmax(score),
                        "status": status,
                        "status_reason": reason,
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def _search(encoders: Sequence[str]) -> pd.DataFrame:
    rates = (3e-5, 1e-4, 3e-4)
    return pd.DataFrame(
        [
            {
                "encoder": encoder,
                "adaptation": "full_finetune",
                "seed": 0,
                "fold": 0,
                "learning_rate": rate,
                "validation_macro_f1": 0.9 - abs(np.log10(rate / 1e-4)) / 10,
                "validation_nll": 0.4,
                "chosen": rate == 1e-4,
            }
            for encoder in encoders
            for rate in rates
        ]
    )


def _maps(
    encoders: Sequence[str],
    samples: pd.DataFrame,
    chosen: Sequence[str],
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    rng: np.random.Generator,
    folder: Path,
) -> None:
    of_class = samples["label"].map({name: k for k, name in enumerate(classes)}).to_numpy()
    angle = 2 * np.pi * of_class / len(classes)
    trained = splits.loc[splits["role"] == "train", "image_id"].unique()
    projections, neighbours = [], []
    for encoder in encoders:
        places = 6 * np.column_stack([np.cos(angle), np.sin(angle)])
        places += 2.5 * rng.normal(size=places.shape)
        projections.append(
            pd.DataFrame(
                {
                    "image_id": samples["image_id"],
                    "x": np.float32(places[:, 0]),
                    "y": np.float32(places[:, 1]),
                    "explained": 0.41,
                    "encoder": encoder,
                }
            )
        )
        near = rng.integers(len(trained), size=(len(chosen), 3))
        neighbours.append(
            pd.DataFrame(
                {
                    "image_id": np.repeat(np.array(chosen, dtype=object), 3),
                    "rank": np.tile([1, 2, 3], len(chosen)),
                    "neighbour": trained[near.ravel()],
                    "similarity": np.tile([0.9, 0.8, 0.7], len(chosen)),
                    "encoder": encoder,
                }
            )
        )
    pd.concat(projections).to_parquet(folder / "projection.parquet", index=False)
    pd.concat(neighbours).to_parquet(folder / "neighbours.parquet", index=False)


def _pictures(
    folder: Path, image_ids: Sequence[str], samples: pd.DataFrame, classes: tuple[str, ...]
) -> None:
    """Speckle within a fan, which compresses as badly as a real image."""
    folder.mkdir(parents=True)
    labels = samples.set_index("image_id")["label"]
    y, x = np.mgrid[0:96, 0:96]
    fan = (np.hypot(x - 48, y + 20) < 112) & (abs(x - 48) < 0.6 * (y + 20))
    rows = []
    for number, image_id in enumerate(image_ids):
        rng = np.random.default_rng(number)
        k = classes.index(labels[image_id])
        shape = np.hypot(x - 30 - 7 * k, (y - 50) * (1 + 0.2 * k)) < 10 + 3 * k
        speckle = rng.rayleigh(0.5, (96, 96)) * (60 + 90 * shape) * fan
        file = f"{number:04d}.webp"
        Image.fromarray(np.uint8(np.clip(speckle, 0, 255))).save(folder / file, quality=80)
        rows.append({"image_id": image_id, "file": file})
    index = pd.DataFrame(rows, columns=["image_id", "file"])
    index.to_csv(folder / "index.csv", index=False)


def _write_json(file: Path, content: object) -> None:
    replace_file(file, json.dumps(content).encode())
