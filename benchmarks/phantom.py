"""How hard the phantom is: what the demonstration and the tests that rest on it may count on.

Macro F1 of a linear probe under the demonstration's protocol (official test patients, five
stratified folds of the other patients, mean of the folds), mean of several phantoms:

- an ImageNet encoder is to find the task neither trivial nor hopeless (at most 0.97);
- pixel statistics, which see no anatomy, are to stay at least 0.15 below it;
- to test on images instead of patients is to flatter it by at least 0.03: as many training,
  validation and test images, drawn from all home images without regard to patients.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, train_test_split

from sonobench.adaptation import linear_probe
from sonobench.datasets import load_cohort, make_splits, write_phantom
from sonobench.encoders import EncoderSpec, embed, open_encoder, resolve
from sonobench.images import Geometry, Pack, decode_all
from sonobench.protocol import FETAL_PLANES, Dataset, EncoderEntry, LinearProbe, Split

_ENCODERS = {
    "efficientnet_lite0": "efficientnet_lite0",
    "random_twin": "random:efficientnet_lite0",
    "pixel_statistics": "pixel_stats",
}
_FOLDS = 5


def main(*, small: bool = False) -> dict[str, object]:
    """Measure the three targets, and what else a reader of the demonstration wants to know."""
    specs = {
        name: resolve(EncoderEntry(name=entry), 0, Path()) for name, entry in _ENCODERS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(1 if small else 5)
        figures = pd.DataFrame([_measure(Path(folder) / str(seed), seed, specs) for seed in seeds])
    mean = {str(name): round(float(value), 3) for name, value in figures.mean().items()}
    encoder = mean["in_domain_efficientnet_lite0"]
    return {
        "phantoms": len(figures),
        **mean,
        "in_domain_efficientnet_lite0_highest": figures["in_domain_efficientnet_lite0"].max(),
        "pixel_statistics_below_it": round(encoder - mean["in_domain_pixel_statistics"], 3),
        "random_twin_below_it": round(encoder - mean["in_domain_random_twin"], 3),
        "image_level_above_it": round(mean["image_level_efficientnet_lite0"] - encoder, 3),
    }


def _measure(folder: Path, seed: int, specs: dict[str, EncoderSpec]) -> dict[str, float]:
    start = time.process_time()
    write_phantom(folder, seed=seed)
    figures = {"processor_seconds_to_write": time.process_time() - start}
    cohorts = [
        load_cohort(Dataset(loader="phantom", name=name, cohort=name), Path(), folder)
        for name in ("home", "external")
    ]
    samples = pd.concat([cohort.samples for cohort in cohorts], ignore_index=True)
    samples["subject_id"] = samples["patient_id"]
    for cohort in cohorts:
        figures[f"{cohort.name}_images"] = len(cohort.samples)
    by_patient = make_splits(samples, "home", Split(scheme="official_test", folds=_FOLDS))
    by_image = _without_regard_to_patients(samples, by_patient)
    packs = _decoded([file for cohort in cohorts for file in cohort.files()], folder, specs)
    for name, spec in specs.items():
        encoder, _ = open_encoder(spec, "cpu")
        pack = packs[spec.card.preprocess.geometry]
        features = embed(encoder, pack, np.arange(len(samples)), micro_batch=32)
        figures[f"in_domain_{name}"] = _macro_f1(features, samples, by_patient, "test")
        figures[f"external_{name}"] = _macro_f1(features, samples, by_patient, "external")
        figures[f"image_level_{name}"] = _macro_f1(features, samples, by_image, "test")
    return figures


def _without_regard_to_patients(samples: pd.DataFrame, by_patient: pd.DataFrame) -> pd.DataFrame:
    """Draw parts of the sizes of the patient-level split from the images, stratified by class."""
    home = samples[samples["dataset"] == "home"]
    held_out = int(by_patient.query("fold == 0")["role"].eq("test").sum())
    development, test = train_test_split(
        home, test_size=held_out, stratify=home["label"], random_state=0
    )
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    tables = []
    for fold, (_, validation) in enumerate(folds.split(development, development["label"])):
        role = pd.Series("train", index=development["image_id"])
        role.iloc[validation] = "validation"
        role = pd.concat([role, pd.Series("test", index=test["image_id"])])
        role = role.reindex(samples["image_id"], fill_value="external")
        tables.append(pd.DataFrame({"image_id": role.index, "fold": fold, "role": role.to_numpy()}))
    return pd.concat(tables, ignore_index=True)


def _decoded(
    files: list[Path], folder: Path, specs: dict[str, EncoderSpec]
) -> dict[Geometry, Pack]:
    geometries = {spec.card.preprocess.geometry for spec in specs.values()}
    folders = {geometry: folder / f"pack{n}" for n, geometry in enumerate(geometries)}
    for pack_folder in folders.values():
        pack_folder.mkdir()
    decode_all(files, None, folders)
    return {geometry: Pack(pack_folder, geometry) for geometry, pack_folder in folders.items()}


def _macro_f1(
    features: npt.NDArray[np.float32], samples: pd.DataFrame, splits: pd.DataFrame, role: str
) -> float:
    """Mean over the folds, over the classes that the images of `role` have."""
    adapted = linear_probe(features, samples, splits, FETAL_PLANES, LinearProbe())
    rows = adapted.predictions[adapted.predictions["role"] == role]
    predicted = np.array(FETAL_PLANES)[np.stack(rows["logits"].tolist()).argmax(1)]
    rows = rows.assign(predicted=predicted)
    declared = sorted(rows["label"].unique())
    return statistics.mean(
        float(f1_score(part["label"], part["predicted"], labels=declared, average="macro"))
        for _, part in rows.groupby("fold")
    )
