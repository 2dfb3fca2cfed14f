"""What the demonstration and many tests rest on: the synthetic cohorts, their plan and physics."""

import hashlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from sonobench.datasets import phantom, write_phantom
from sonobench.datasets.phantom_imaging import (
    BEAMS,
    DEPTH_SAMPLES,
    SOFT_TISSUE_ATTENUATION,
    Array,
    Beams,
    Setting,
    Tissue,
    acquire,
    scan_convert,
    speckle_envelope,
)

CLASSES = {
    "Fetal abdomen",
    "Fetal brain",
    "Fetal femur",
    "Fetal thorax",
    "Maternal cervix",
    "Other",
}
EXTERNAL_CLASSES = CLASSES - {"Maternal cervix", "Other"}


@pytest.fixture(scope="session")
def folder(phantom_folder: Path) -> Path:
    return phantom_folder


@pytest.fixture(scope="session")
def home(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "home" / "manifest.csv", keep_default_na=False)


@pytest.fixture(scope="session")
def external(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "external" / "manifest.csv", keep_default_na=False)


@pytest.fixture
def few_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan the first four series of each cohort only: a phantom of seconds becomes one of less."""
    for cohort in ("_home", "_external"):
        whole: Callable[[int], list[phantom.Series]] = getattr(phantom, cohort)
        monkeypatch.setattr(phantom, cohort, lambda seed, whole=whole: whole(seed)[:4])


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_each_cohort_is_a_manifest_and_exactly_its_images(
    folder: Path, home: pd.DataFrame, external: pd.DataFrame
) -> None:
    for name, manifest in (("home", home), ("external", external)):
        assert tuple(manifest.columns) == phantom.COLUMNS
        images = {f"images/{file.name}" for file in (folder / name / "images").iterdir()}
        assert images == set(manifest["path"])
        assert manifest["path"].is_unique


def test_images_are_grey_of_eight_bits_in_the_size_of_their_device(
    folder: Path, home: pd.DataFrame
) -> None:
    sizes = {scanner.name: (scanner.width, scanner.height) for scanner in phantom.HOME_SCANNERS}
    assert len(set(sizes.values())) == 2
    for row in home.itertuples():
        with Image.open(folder / "home" / str(row.path)) as image:
            assert (image.mode, image.size) == ("L", sizes[str(row.device)])


def test_home_has_six_classes_and_outside_has_four(
    home: pd.DataFrame, external: pd.DataFrame
) -> None:
    assert set(home["label"]) == CLASSES
    assert set(external["label"]) == EXTERNAL_CLASSES


def test_home_has_forty_train_and_twenty_test_patients_with_every_class_in_both(
    home: pd.DataFrame,
) -> None:
    assert home.groupby("split")["patient_id"].nunique().to_dict() == {"train": 40, "test": 20}
    assert home["patient_id"].nunique() == 60
    # Every choice of three of six classes twice in train, once in test: 20 × 3 / 6 = 10, and twice.
    patients = home.groupby(["split", "label"])["patient_id"].nunique()
    assert set(patients["train"]) == {20}
    assert set(patients["test"]) == {10}


def test_outside_are_24_patients_of_three_sites_without_a_split(external: pd.DataFrame) -> None:
    assert external["patient_id"].nunique() == 24
    assert external.groupby("site")["patient_id"].nunique().tolist() == [8, 8, 8]
    assert set(external["split"]) == {""}
    assert external["device"].nunique() == 1


def test_a_patient_has_several_images_on_one_device(home: pd.DataFrame) -> None:
    assert home.groupby("patient_id")["device"].nunique().max() == 1
    assert home.groupby("patient_id").size().min() >= 3


def test_every_class_is_scanned_on_both_devices_by_all_operators(home: pd.DataFrame) -> None:
    train = home[home["split"] == "train"]
    assert set(train.groupby("label")["device"].nunique()) == {2}
    assert set(train.groupby("label")["operator"].nunique()) == {3}


def test_five_patient_folds_have_every_class_in_both_parts(home: pd.DataFrame) -> None:
    train = home[home["split"] == "train"]
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for parts in folds.split(train, train["label"], train["patient_id"]):
        for part in parts:
            assert set(train["label"].iloc[part]) == CLASSES


def test_no_two_images_have_the_same_pixels(folder: Path) -> None:
    pixels = [hashlib.sha256(Image.open(file).tobytes()).digest() for file in folder.rglob("*.png")]
    assert len(set(pixels)) == len(pixels)


def test_file_names_and_metadata_tell_neither_class_nor_patient(
    folder: Path, home: pd.DataFrame, external: pd.DataFrame
) -> None:
    for name, manifest in (("home", home), ("external", external)):
        assert all(re.fullmatch(r"images/\d{4}\.png", path) for path in manifest["path"])
        # Neighbours by number are of one patient as often as chance has it, a few in a hundred;
        # of numbers dealt in the order of patients it would be more than half.
        ordered = manifest.sort_values("path")
        assert (ordered["patient_id"] == ordered["patient_id"].shift()).mean() < 0.15
        with Image.open(folder / name / manifest["path"].iloc[0]) as image:
            assert image.info == {}


@pytest.mark.usefixtures("few_series")
def test_the_same_seed_gives_the_same_bytes_on_any_number_of_cores_and_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed, cores in (("first", 3, 1), ("again", 3, 4), ("other", 4, 2)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        write_phantom(tmp_path / name, seed=seed)
    first = _hashes(tmp_path / "first")
    assert first == _hashes(tmp_path / "again")
    assert not set(first.values()) & set(_hashes(tmp_path / "other").values())


@pytest.mark.usefixtures("few_series")
def test_progress_counts_every_image_up_to_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_phantom(tmp_path, seed=0, progress=lambda done, total: calls.append((done, total)))
    images = len(list(tmp_path.rglob("*.png")))
    assert calls == [(done + 1, images) for done in range(images)]


def test_an_image_drawn_alone_is_the_one_drawn_with_all_others(
    folder: Path, home: pd.DataFrame
) -> None:
    last = phantom._home(0)[-1]
    alone = phantom._image(0, 0, last, last.images - 1)
    of_patient = home[(home["patient_id"] == last.patient_id) & (home["label"] == last.label)]
    written = [np.asarray(Image.open(folder / "home" / path)) for path in of_patient["path"]]
    assert any(np.array_equal(alone, pixels) for pixels in written)


def test_the_nearest_image_of_a_class_is_mostly_of_the_same_patient(
    folder: Path, home: pd.DataFrame
) -> None:
    # 24 × 18 grey means, whatever the device's size: an image's gross appearance.
    small = np.stack(
        [
            np.asarray(Image.open(folder / "home" / path).resize((24, 18), Image.Resampling.BOX))
            for path in home["path"]
        ]
    ).reshape(len(home), -1)
    same_patient = []
    for _, rows in home.groupby("label").indices.items():
        patients = home["patient_id"].to_numpy()[rows]
        distance = np.linalg.norm(small[rows, None].astype(float) - small[None, rows], axis=2)
        np.fill_diagonal(distance, np.inf)
        has_other = np.array([(patients == patient).sum() > 1 for patient in patients])
        same_patient += (patients[distance.argmin(1)] == patients)[has_other].tolist()
    # By chance it would be about one in 30: a class has 30 patients.
    assert np.mean(same_patient) > 0.6


@pytest.mark.parametrize("sigmas", [(0.7, 0.75), (1.5, 2.0)])
def test_fully_developed_speckle_is_rayleigh_distributed(sigmas: tuple[float, float]) -> None:
    scattering = np.full((600, 400), 2.0, np.float32)
    envelope = speckle_envelope(
        scattering, np.zeros_like(scattering), *sigmas, np.random.default_rng(0)
    )
    # Wagner et al. 1983: mean / standard deviation of a Rayleigh variable, sqrt(pi / (4 - pi)).
    assert envelope.mean() / envelope.std() == pytest.approx(1.913, rel=0.02)
    assert envelope.mean() == pytest.approx(2.0 * math.sqrt(math.pi / 2), rel=0.02)


def _scan(attenuation: Array) -> tuple[Array, Beams, Setting]:
    """Image homogeneous soft tissue, but for its attenuation, without noise or error."""
    beams = Beams.of(phantom.EXTERNAL_SCANNER, depth_cm=10.0)
    nothing = np.zeros_like(attenuation)
    setting = Setting(
        depth_cm=10.0,
        gain_db=-4.0,
        compensation_error_db=0.0,
        contact_db=(0.0, 0.0),
        noise_db=-200.0,
        window_centre_cm=(0.0, 5.0),
        window_height_cm=10.0,
    )
    tissue = Tissue(echogenicity=nothing, reflection=nothing, attenuation=attenuation)
    return acquire(tissue, beams, setting, np.random.default_rng(0)), beams, setting


def _soft_tissue() -> Array:
    return np.full((DEPTH_SAMPLES, BEAMS), SOFT_TISSUE_ATTENUATION, np.float32)


def test_compensation_makes_soft_tissue_equally_bright_at_all_depths() -> None:
    image, _, _ = _scan(_soft_tissue())
    near, far = image[:100].mean(), image[-100:].mean()
    assert near == pytest.approx(far, abs=0.02)


def test_bone_casts_a_shadow_and_fluid_enhances_what_lies_behind() -> None:
    attenuation = _soft_tissue()
    attenuation[100:120, 20:60] = 9.0
    attenuation[60:120, 110:150] = 0.0
    image, _, _ = _scan(attenuation)
    behind_bone, beside, behind_fluid = (
        image[200:, first : first + 20].mean() for first in (30, 75, 120)
    )
    # 20 samples of 10 / 352 cm, 8.5 dB / (cm MHz) more, 3.2 MHz, both ways: 31 dB of 47.
    assert behind_bone < beside - 0.3
    # 60 samples, 0.5 less: 5.5 dB of 47, as 0.116 of full scale.
    assert behind_fluid - beside == pytest.approx(0.116, abs=0.02)


def test_speckle_widens_with_depth_on_the_screen() -> None:
    image, beams, setting = _scan(_soft_tissue())
    screen = scan_convert(image, beams, setting).astype(float)
    height, width = screen.shape
    middle = screen[:, width // 2 - 60 : width // 2 + 60]

    def correlation(rows: slice) -> float:
        part, lag = middle[rows], 4
        return float(np.corrcoef(part[:, lag:].ravel(), part[:, :-lag].ravel())[0, 1])

    shallow = correlation(slice(height // 10, height // 4))
    assert correlation(slice(3 * height // 4, height)) > shallow + 0.1
