"""What the audit finds in tables whose faults are known."""

from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sonobench.datasets import audit, load_cohort, make_splits, merge_subjects
from sonobench.datasets.audit.near_duplicates import NEAR_BITS, near_duplicates
from sonobench.protocol import Dataset, Split

RNG = np.random.default_rng(0)


def cohort(patients: int = 30, name: str = "home", **columns: object) -> pd.DataFrame:
    """Three images a patient, one a class; every third patient is a test patient."""
    rows = [
        {
            "image_id": f"{name}/{patient:03d}_{position}",
            "dataset": name,
            "path": f"{RNG.integers(10**9):09d}.png",
            "label": label,
            "patient_id": f"{name}/{patient:03d}",
            "site": None,
            "device": None,
            "operator": None,
            "official_split": "test" if patient % 3 == 2 else "train",
            "row": 3 * patient + position + 2,
            "pixel_sha256": RNG.bytes(32).hex(),
            "perceptual_hash": RNG.bytes(32).hex(),
            "width": 640,
            "height": 480,
            "mean_intensity": RNG.normal(50, 5),
            "text_marks": 0,
            "caliper_marks": 0,
            "coloured_share": 0.0,
        }
        for patient in range(patients)
        for position, label in enumerate(("abdomen", "brain", "femur"))
    ]
    return pd.DataFrame(rows).assign(**columns)


def audited(samples: pd.DataFrame, **settings: Any) -> dict[str, Any]:
    samples = samples.reset_index(drop=True)
    samples = samples.assign(subject_id=merge_subjects(samples))
    splits = make_splits(samples, "home", Split())
    published = dict.fromkeys(samples["dataset"].unique())
    return audit(samples, splits, [], **{"source": "home", "published": published} | settings)


def found(result: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [finding for finding in result["findings"] if finding["kind"] == kind]


def one(result: dict[str, Any], kind: str) -> dict[str, Any]:
    findings = found(result, kind)
    assert len(findings) == 1, result["findings"]
    return findings[0]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    result = audited(pd.concat([cohort(), cohort(9, "abroad")]))
    assert result["findings"] == []


# ── duplicates and conflicts ─────────────────────────────────────────────────────────────────────


def with_copy(samples: pd.DataFrame, of: int, under: int, **changes: object) -> pd.DataFrame:
    """A row's pixels a second time, under another row's patient."""
    pixels = samples.loc[of, ["label", "pixel_sha256", "perceptual_hash"]].to_dict()
    copy = samples.loc[[under]].assign(**pixels, image_id="home/copy", row=999, **changes)
    return pd.concat([samples, copy], ignore_index=True)


def test_identical_images_of_two_patients_across_the_split_are_a_warning_with_their_ids() -> None:
    samples = cohort()
    # Patient 0 is published as train and patient 2 as test.
    result = audited(with_copy(samples, 0, 6))
    assert one(result, "exact_duplicates")["severity"] == "warning"
    assert one(result, "duplicates_across_split")["image_ids"] == ("home/000_0", "home/copy")
    home = result["cohorts"]["home"]
    assert home["duplicate_sets"] == home["duplicate_sets_across_patients"] == 1
    assert (home["patients"], home["subjects"]) == (30, 29)
    assert home["duplicates"] == [["home/000_0", "home/copy"]]
    # The three development images of the subject that is also tested.
    assert home["excluded_images"] == 3
    assert home["subjects_across_published_split"] == 1
    assert home["test_images_of_those_subjects"] == 4


def test_identical_images_of_one_patient_are_only_to_be_known() -> None:
    result = audited(with_copy(cohort(), 0, 1))
    assert one(result, "exact_duplicates")["severity"] == "info"
    assert not found(result, "duplicates_across_split")


def test_an_image_in_two_cohorts_is_a_warning() -> None:
    home, abroad = cohort(), cohort(9, "abroad")
    abroad.loc[0, ["pixel_sha256", "perceptual_hash"]] = home.loc[
        0, ["pixel_sha256", "perceptual_hash"]
    ]
    result = audited(pd.concat([home, abroad]))
    assert one(result, "duplicates_across_cohorts")["count"] == 1
    assert result["images_shared_between_cohorts"] == 1


def test_one_image_under_two_labels_is_an_error_with_both_rows() -> None:
    samples = cohort()
    samples.loc[1, "pixel_sha256"] = samples.loc[0, "pixel_sha256"]
    conflict = one(audited(samples), "label_conflict")
    assert conflict["severity"] == "error"
    assert "home/000_0 (row 2): abdomen; home/000_1 (row 3): brain" in conflict["message"]


def test_a_patient_in_both_published_parts_is_an_error_at_home_and_a_fact_abroad() -> None:
    home, abroad = cohort(), cohort(9, "abroad")
    home.loc[0, "official_split"] = abroad.loc[0, "official_split"] = "test"
    severities = [f["severity"] for f in found(audited(pd.concat([home, abroad])), "leak")]
    assert severities == ["error", "info"]


def flipped(hash_text: str, bits: int) -> str:
    return f"{int(hash_text, 16) ^ ((1 << bits) - 1):064x}"


@pytest.mark.parametrize(("bits", "pairs"), [(0, 1), (NEAR_BITS, 1), (NEAR_BITS + 1, 0)])
def test_hashes_are_near_up_to_the_limit(bits: int, pairs: int) -> None:
    samples = cohort()
    samples.loc[6, "perceptual_hash"] = flipped(samples.loc[0, "perceptual_hash"], bits)
    result = audited(samples)
    assert result["near_duplicates"]["pairs_of_different_subjects"] == pairs
    if pairs:
        finding = one(result, "near_duplicates")
        # Patient 0 is developed on and patient 2 is tested.
        assert "1 have one image in development and one in test" in finding["message"]
        assert finding["image_ids"] == ("home/000_0", "home/002_0")


def test_the_search_agrees_with_comparing_every_pair() -> None:
    samples = cohort(20)
    near = [flipped(text, n) for n, text in enumerate(samples["perceptual_hash"])]
    samples = pd.concat([samples, cohort(20, "abroad", perceptual_hash=near)], ignore_index=True)
    samples = samples.assign(subject_id=samples["patient_id"])
    hashes = [imagehash.hex_to_hash(text) for text in samples["perceptual_hash"]]
    expected = sum(a - b <= NEAR_BITS for n, a in enumerate(hashes) for b in hashes[:n])
    searched = near_duplicates(samples, pd.Series("", index=samples.index))
    assert searched.count == expected > 0
    assert searched.pairs["distance"].is_monotonic_increasing


def test_images_of_one_patient_are_expected_to_be_alike() -> None:
    samples = cohort()
    samples.loc[1, "perceptual_hash"] = samples.loc[0, "perceptual_hash"]
    assert not found(audited(samples), "near_duplicates")


# ── metadata ─────────────────────────────────────────────────────────────────────────────────────


def test_an_operator_who_has_one_machine_is_confounded_with_it() -> None:
    third = np.arange(90) % 3
    samples = cohort(device=np.where(third == 0, "A", "B"), operator=third.astype(str))
    message = one(audited(samples.assign(label=RNG.permutation(samples["label"]))), "confounding")
    assert "operator 0 (30 images) only with device A" in message["message"]


def test_a_site_without_a_class_is_told() -> None:
    samples = cohort(site=np.repeat(["north", "south", "west"], 30))
    samples = samples[(samples["site"] != "south") | (samples["label"] != "femur")]
    message = one(audited(samples), "confounding")["message"]
    assert "class and site go together" in message
    assert "site south has no femur" in message


def test_a_machine_that_is_rare_in_training_is_told() -> None:
    test = np.arange(90) // 3 % 3 == 2
    device = np.where(test & (RNG.random(90) < 0.9), "new", "old")
    device[0] = "new"
    message = [f["message"] for f in found(audited(cohort(device=device)), "imbalance")]
    assert any(text.startswith("device new: 1 training images and") for text in message)


def test_a_class_in_the_path_is_told_with_an_example() -> None:
    samples = cohort()
    samples["path"] = samples["label"] + "/" + samples["path"]
    finding = one(audited(samples), "path_leak")
    assert (finding["severity"], finding["count"]) == ("info", 90)
    assert "is abdomen" in finding["message"]


def test_a_patients_own_name_is_no_leak_of_the_class() -> None:
    samples = cohort(90)
    samples = samples[samples["label"] == np.repeat(["abdomen", "brain", "femur"], 90)]
    samples["path"] = samples["patient_id"].str.replace("home/", "patient") + ".png"
    assert not found(audited(samples), "path_leak")


def test_counts_against_the_published_ones_are_kept_and_a_part_is_named() -> None:
    result = audited(cohort(), published={"home": 12_400})
    assert result["known_counts"] == {"home": {"published_images": 12_400, "here": 90}}
    assert one(result, "partial_copy")["message"] == "90 of 12,400 published images are here"


# ── looks ────────────────────────────────────────────────────────────────────────────────────────


def test_calipers_on_one_class_are_a_shortcut() -> None:
    samples = cohort()
    samples["caliper_marks"] = np.where(samples["label"] == "femur", 2, 0)
    finding = one(audited(samples), "burned_in")
    assert finding["severity"] == "warning"
    assert "from 0% of abdomen to 100% of femur" in finding["message"]


def test_text_on_every_image_is_only_to_be_known() -> None:
    finding = one(audited(cohort(text_marks=12)), "burned_in")
    assert (finding["severity"], finding["count"]) == ("info", 90)


def test_a_brighter_cohort_and_a_stretched_one_are_told() -> None:
    bright = cohort(9, "abroad", mean_intensity=90.0)
    assert (
        "brighter than those of home"
        in one(audited(pd.concat([cohort(), bright])), "size_or_intensity")["message"]
    )
    square = cohort(width=640, height=640)
    finding = one(audited(pd.concat([square, cohort(9, "abroad")])), "size_or_intensity")
    assert (finding["cohort"], finding["severity"]) == ("home", "warning")


def test_the_audit_is_the_same_whatever_the_order_of_rows() -> None:
    samples = with_copy(cohort(), 0, 6)
    shuffled = samples.sample(frac=1, random_state=0)
    kinds = [sorted(f["message"] for f in audited(s)["findings"]) for s in (samples, shuffled)]
    assert kinds[0] == kinds[1]


# ── the published sets: reference figures of the metadata files and the images ───────────────────


@pytest.mark.realdata
def test_the_spanish_metadata_alone_give_the_known_figures(real_data: Path) -> None:
    samples = load_cohort(Dataset(loader="fetal_planes_db"), real_data).samples
    name = "fetal_planes_db"
    result = audit(samples, None, [], source=name, published={name: 12_400})
    spain = result["cohorts"][name]
    # Images test / train / all, and patients test / train, counted from the published CSV.
    assert {
        label: tuple(
            [classes[part]["images"] for part in ("test", "train", "all")]
            + [classes[part]["patients"] for part in ("test", "train")]
        )
        for label, classes in spain["classes"].items()
    } == {
        "Fetal abdomen": (358, 353, 711, 303, 292),
        "Fetal brain": (1472, 1620, 3092, 546, 536),
        "Fetal femur": (524, 516, 1040, 384, 370),
        "Fetal thorax": (660, 1058, 1718, 312, 443),
        "Maternal cervix": (645, 981, 1626, 418, 499),
        "Other": (1612, 2601, 4213, 347, 387),
    }
    assert spain["parts"] == {
        "test": {"images": 5271, "patients": 896},
        "train": {"images": 7129, "patients": 896},
    }
    assert spain["images_a_patient"] == {
        "mean": 6.92,
        "median": 4.0,
        "maximum": 88,
        "patient": f"{name}/Barcelona/792",
    }
    assert spain["patients_of_several"] == {"site": 0, "device": 6, "operator": 32}
    together = " ".join(f["message"] for f in found(result, "confounding"))
    for operator, device in (("1", "Voluson E6"), ("2", "Voluson E6"), ("3", "Aloka")):
        assert f"operator Op. {operator} (" in together
        assert spain["attributes"]["operator"][f"Op. {operator}"]["images"] > 0
        only = samples[samples["operator"] == f"Op. {operator}"]["device"]
        assert set(only) == {device}
    assert "operator Op. 3 (3,560 images) only with device Aloka" in together
    messages = [f["message"] for f in found(result, "imbalance")]
    assert "device Voluson S10: 11 training images and 1,071 test images" in messages
    assert one(result, "path_leak")["count"] == 12_400


def test_a_real_pictures_hash_survives_stretching_and_jpeg(
    phantom_folder: Path, tmp_path: Path
) -> None:
    file = next((phantom_folder / "home" / "images").iterdir())
    image = Image.open(file)
    image.resize((640, 640)).save(tmp_path / "stretched.jpg", quality=80)
    hashes = [imagehash.phash(Image.open(f), 16) for f in (file, tmp_path / "stretched.jpg")]
    assert hashes[0] - hashes[1] <= NEAR_BITS
