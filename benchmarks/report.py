"""The report of a run of the paper's size: seconds and bytes against the limits set for it.

Seven encoders and their controls, probed and fine-tuned in five folds, tested on 5,271 images of
896 patients at home and 450 of 112 in five centres abroad; predictions are simulated. Evaluation is
timed apart. The alternative that the report's time is set against is evaluating the predictions.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.simulated_run import Mishaps, Skills, simulate_samples, write_run
from sonobench.evaluation import evaluate
from sonobench.preflight import evaluation_settings
from sonobench.protocol import FETAL_PLANES, Protocol
from sonobench.report import write_report

ENCODERS = {
    "usfm": 4.2,
    "mofo": 3.1,
    "ultrasam": 3.2,
    "fetalclip": 4.6,
    "resnet50": 3.8,
    "efficientnet_v2": 3.9,
    "dinov3": 4.3,
}
SECONDS, MEGABYTES = 60, 15


def main(small: bool = False) -> dict[str, Any]:
    """Measure; `small` is the same at a tenth of the patients."""
    folder = Path(tempfile.mkdtemp()) / "run"
    try:
        protocol = simulate(folder, share=0.1 if small else 1.0)
        start = time.perf_counter()
        samples = pd.read_parquet(folder / "samples.parquet")
        files = sorted((folder / "predictions").glob("*.parquet"))
        predictions = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
        read = time.perf_counter()
        evaluation = evaluate(predictions, samples, evaluation_settings(protocol, samples))
        evaluated = time.perf_counter()
        write_report(folder, evaluation, predictions)
        reported = time.perf_counter()
        page = (folder / "report.html").stat().st_size
        return {
            "predictions": len(predictions),
            "seconds_to_read": read - start,
            "seconds_to_evaluate": evaluated - read,
            "seconds_to_report": reported - evaluated,
            "ratio_to_evaluation": (evaluated - read) / (reported - evaluated),
            "page_megabytes": page / 1e6,
            "page_within_limit": page / 1e6 < MEGABYTES,
            "report_within_limit": reported - evaluated < SECONDS,
        }
    finally:
        shutil.rmtree(folder.parent)


def simulate(folder: Path, share: float = 1.0) -> Protocol:
    """Write a run of the paper's size, or of a share of its patients, and return its protocol."""
    protocol = Protocol.model_validate(
        {
            "name": "simulated-paper",
            "description": "Which pre-trained encoder should a fetal plane classifier be built "
            "on? Simulated predictions of the size of arXiv 2605.27796.",
            "source": {
                "loader": "manifest",
                "name": "home",
                "path": "home.csv",
                "note": "Simulated: these numbers mean nothing.",
            },
            "external": [{"loader": "manifest", "name": "abroad", "path": "abroad.csv"}],
            "encoders": list(ENCODERS),
            "adaptations": {"full_finetune": {}},
            "numerics": {"backend": "cpu"},
            "evaluation": {"bootstrap_draws": 2000 if share == 1 else 300},
        }
    )
    rng = np.random.default_rng(1)
    samples = simulate_samples(
        "home", round(1792 * share), 12400 / 1792, FETAL_PLANES, ["north", "south"], rng
    )
    abroad = [name for name in FETAL_PLANES if name.startswith("Fetal")]
    centres = ["Algeria", "Egypt", "Ghana", "Malawi", "Uganda"]
    away = simulate_samples("abroad", round(112 * max(share, 0.4)), 450 / 112, abroad, centres, rng)
    samples = pd.concat([samples, away], ignore_index=True)
    patient = samples["patient_id"].str.rsplit("/", n=1).str[-1].astype(int)
    home = samples["dataset"] == "home"
    parts = []
    for fold in range(5):
        role = np.where(patient // 2 % 5 == fold, "validation", "train")
        role = np.where(samples["official_split"] == "test", "test", role)
        role = np.where(home, role, "external")
        parts.append(pd.DataFrame({"image_id": samples["image_id"], "fold": fold, "role": role}))
    splits = pd.concat(parts, ignore_index=True)
    skills: dict[tuple[str, str], float] = {("none", "majority_class"): 0.0}
    for encoder, skill in ENCODERS.items():
        skills[encoder, "linear_probe"] = skill
        if encoder != "mofo":
            skills[encoder, "full_finetune"] = skill + 0.3
    skills["random:usfm", "linear_probe"] = 1.6
    skills["pixel_stats", "linear_probe"] = 2.0
    findings: list[dict[str, Any]] = [
        {
            "kind": "confounding",
            "severity": "warning",
            "cohort": "abroad",
            "message": "every centre has one device: what differs between them may be either",
            "count": 5,
            "image_ids": [],
        }
    ]
    mishaps = Mishaps(
        random_looking=["ultrasam"],
        diverged=["mofo"],
        at_chance=["ultrasam"],
        findings=findings,
    )
    ordered: Skills = dict(sorted(skills.items()))
    write_run(folder, protocol, samples, splits, ordered, mishaps)
    return protocol
