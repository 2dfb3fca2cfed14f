"""Folders of small simulated runs: every file that a benchmark leaves for its report."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated_run import Mishaps, simulate_predictions, write_run
from sonobench.evaluation import Evaluation, evaluate
from sonobench.preflight import evaluation_settings
from sonobench.protocol import Protocol
from sonobench.report import Opinions, write_report
from sonobench.report.charts import Figure
from sonobench.report.comparisons import Comparisons
from sonobench.report.material import Material
from sonobench.report.page import page
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores
from sonobench.report.write import write_tables

FOLDS = 3


@dataclass(frozen=True)
class Written:
    """A run's folder, its predictions and what they say."""

    folder: Path
    predictions: pd.DataFrame
    evaluation: Evaluation
    protocol: Protocol
    drawn: dict[str, Figure]

    def report(self) -> dict[str, str]:
        """Write everything; returns why figures are missing."""
        return write_report(self.folder, self.evaluation, self.predictions)

    def material(self) -> Material:
        """What the report is made of; charts take long, and are drawn once for all copies."""
        run, scores = RunFolder.read(self.folder), Scores.from_results(self.evaluation.results)
        return Material(
            run,
            self.evaluation,
            scores,
            Comparisons.of(self.evaluation.comparisons, 0.95),
            Opinions.of(self.predictions, run.samples, run.protocol.classes),
            self.drawn,
        )


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


def _splits(samples: pd.DataFrame, scheme: str) -> pd.DataFrame:
    patient = samples["patient_id"].str[-2:].astype(int)
    tested = samples["official_split"] == "test"
    tables = []
    for fold in range(FOLDS):
        role = np.where(patient // 2 % FOLDS == fold, "validation", "train")
        if scheme == "cross_validation":
            tested = (patient // 2 + 1) % FOLDS == fold
        role = np.where(tested, "test", role)
        role = np.where(samples["dataset"] == "abroad", "external", role)
        tables.append(pd.DataFrame({"image_id": samples["image_id"], "fold": fold, "role": role}))
    return pd.concat(tables, ignore_index=True)


def simulated(
    folder: Path,
    *,
    classes: tuple[str, ...] = ("brain", "femur", "other"),
    encoder: str = "net",
    second: str = "net_b",
    skipped: str = "absent",
    reason: str = "its weights are not at hand",
    random_looking: tuple[str, ...] = (),
    unconverged: tuple[str, ...] = (),
    diverged: tuple[str, ...] = (),
    at_chance: tuple[str, ...] = (),
    scheme: str = "official_test",
    seeds: tuple[int, ...] = (0,),
    abroad: bool = True,
) -> Written:
    """Two encoders and three controls; the first encoder is also fine-tuned."""
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
            "external": [{"loader": "manifest", "name": "abroad", "path": "abroad.csv"}] * abroad,
            "classes": classes,
            "seeds": seeds,
            "split": {"folds": FOLDS, "scheme": scheme},
            "encoders": [
                {"name": "timm:resnet50", "label": encoder},
                {"name": "timm:vit", "label": second}
                | ({} if second in diverged else {"adaptations": ["linear_probe"]}),
                {"name": "timm:gone", "label": skipped},
                {
                    "name": "random:timm:resnet50",
                    "label": twin,
                    "adaptations": ["linear_probe"],
                },
                "pixel_stats",
            ],
            "adaptations": {"full_finetune": {}},
            "numerics": {"backend": "cpu"},
            "evaluation": {"bootstrap_draws": 200, "rank_draws": 100},
        }
    )
    samples = _samples(classes)
    samples = samples[(samples["dataset"] == "home") | abroad].reset_index(drop=True)
    splits = _splits(samples, scheme)
    probed = {encoder: 3.6, second: 3.1, twin: 0.9, "pixel_stats": 1.5}
    skills = {(name, "linear_probe"): skill for name, skill in probed.items()}
    skills |= {("none", "majority_class"): 0.0, (encoder, "full_finetune"): 4.2}
    predictions = write_run(
        folder,
        protocol,
        samples,
        splits,
        skills,
        Mishaps({skipped: reason}, random_looking, unconverged, diverged, at_chance),
        pictures=60,
    )
    trained = {model: skill for model, skill in skills.items() if model[0] != "none"}
    again = [
        simulate_predictions(samples, splits, classes, trained, seed=5 + seed).assign(seed=seed)
        for seed in seeds[1:]
    ]
    predictions = pd.concat([predictions, *again], ignore_index=True)
    settings = evaluation_settings(protocol, samples)
    evaluation = evaluate(predictions, samples, settings)
    drawn = Material.read(folder, evaluation, predictions).figures
    return Written(folder, predictions, evaluation, protocol, drawn)


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Two encoders and three controls, one encoder skipped, nothing else amiss."""
    return simulated(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Labels and messages that would break a page, a template, a table or LaTeX."""
    return simulated(
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
    """Encoders that look random, did not converge, stayed at chance or diverged."""
    return simulated(
        tmp_path_factory.mktemp("doubtful") / "run",
        random_looking=("net",),
        unconverged=("net_b",),
        diverged=("net_b",),
        at_chance=("net",),
    )


@pytest.fixture(scope="session")
def home_run(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Cross-validation with two seeds in a single hospital."""
    return simulated(
        tmp_path_factory.mktemp("home") / "run",
        scheme="cross_validation",
        seeds=(0, 1),
        abroad=False,
    )


@pytest.fixture(scope="session")
def plain_page(plain_run: Written) -> Path:
    """The page of the plain run."""
    plain_run.report()
    return plain_run.folder / "report.html"


@pytest.fixture(scope="session")
def hostile_page(hostile_run: Written) -> Path:
    """The page of the hostile run, beside its tables."""
    material, file = hostile_run.material(), hostile_run.folder / "report.html"
    write_tables(material, hostile_run.folder / "tables")
    file.write_text(page(material), encoding="utf-8")
    return file


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Written], Written]:
    """A run that a test may change."""

    def copy(run: Written) -> Written:
        shutil.copytree(run.folder, tmp_path / "run")
        return replace(run, folder=tmp_path / "run")

    return copy
