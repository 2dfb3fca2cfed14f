"""What the audit finds in tables whose faults are known."""

from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from audited import audited, cohort, found, one
from PIL import Image, ImageOps

from sonobench.datasets import audit, load_cohort, make_splits
from sonobench.datasets.near_pairs import NEAR_BITS, near_pairs
from sonobench.images.appearance import appearance
from sonobench.protocol import Dataset, Split


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
    finding = one(result, "duplicates_across_cohorts")
    assert (finding["count"], finding["cohort"]) == (1, "home")
    assert finding["message"] == (
        "1 image occurs in more than one cohort (abroad and home); development images of the "
        "source among them are excluded from training"
    )
    assert result["images_shared_between_cohorts"] == 1


def shared(one_cohort: pd.DataFrame, other: pd.DataFrame, place: int) -> pd.DataFrame:
    """The other cohort's first image is that at `place` of the one."""
    pixels = ["label", "pixel_sha256", "perceptual_hash"]
    other.loc[0, pixels] = one_cohort.loc[place, pixels]
    return pd.concat([one_cohort, other])


def test_a_subject_tested_at_home_and_abroad_is_a_warning_and_stops_nothing() -> None:
    # Patient 2 is published as test.
    result = audited(shared(cohort(), cohort(9, "abroad"), 6))
    leak = one(result, "leak")
    assert (leak["severity"], leak["count"]) == ("warning", 1)
    assert "1 subjects are tested at home and in another cohort" in leak["message"]
    assert not [f for f in result["findings"] if f["severity"] == "error"]


def test_two_other_cohorts_that_share_an_image_are_named_without_the_source() -> None:
    others = shared(cohort(9, "abroad"), cohort(9, "beyond"), 0)
    finding = one(audited(pd.concat([cohort(), others])), "duplicates_across_cohorts")
    assert finding["cohort"] == "abroad"
    assert finding["message"] == "1 image occurs in more than one cohort (abroad and beyond)"


def test_an_image_of_very_many_patients_is_told_with_their_number() -> None:
    samples = cohort()
    # The brain images of five patients are one blank image.
    blank = [1, 4, 7, 10, 13]
    for column in ("pixel_sha256", "perceptual_hash"):
        samples.loc[blank, column] = samples.loc[1, column]
    message = one(audited(samples), "shared_by_many")["message"]
    assert "1 image occurs under more than 3 patient ids, one of them under 5" in message
    samples.loc[blank[3:], "pixel_sha256"] = ["a" * 64, "b" * 64]
    assert not found(audited(samples), "shared_by_many")


def test_unreadable_images_are_told_of_their_cohort_and_are_errors_where_a_run_stops() -> None:
    left_out = {"home": [], "abroad": ["a.png: no such file"]}
    for unreadable, severity in (("leave_out", "warning"), ("stop", "error")):
        samples = cohort().assign(subject_id="x")
        result = audit(samples, None, left_out, source="home", published={}, unreadable=unreadable)
        finding = one(result, "unreadable")
        assert (finding["cohort"], finding["severity"]) == ("abroad", severity)
        assert result["left_out"] == ["a.png: no such file"]


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


@pytest.mark.parametrize("changed", [ImageOps.mirror, lambda image: image.resize((90, 70))])
def test_mirrored_and_rescaled_copies_are_near(
    changed: Callable[[Image.Image], Image.Image],
) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC)
    samples = cohort()
    for row, copy in ((0, image), (6, changed(image))):
        samples.loc[row, "perceptual_hash"] = appearance(np.asarray(copy)).perceptual_hash
    result = audited(samples)
    assert result["near_duplicates"]["pairs_of_different_subjects"] == 1
    mirrored = changed is ImageOps.mirror
    assert result["near_duplicates"]["nearest"][0]["mirrored"] == mirrored
    message = one(result, "near_duplicates")["message"]
    assert ("1 are mirror images" in message) == mirrored
    assert "1 have one image in development and one in test" in message


def test_patients_with_several_near_pairs_are_likely_one() -> None:
    samples = cohort()
    # Patients 0 and 2 share two views, 3 and 4 one.
    for row, like in ((6, 0), (7, 1), (12, 9)):
        samples.loc[row, "perceptual_hash"] = flipped(samples.loc[like, "perceptual_hash"], 5)
    finding = one(audited(samples), "likely_same_patient")
    assert "patients home/000 and home/002 share 2 nearly identical images" in finding["message"]
    assert finding["image_ids"] == ("home/000_0", "home/002_0", "home/000_1", "home/002_1")


def test_in_cross_validation_a_near_pair_counts_when_any_fold_tears_it() -> None:
    split = Split(scheme="cross_validation")
    samples = cohort()
    roles = make_splits(samples.assign(subject_id=samples["patient_id"]), "home", split)
    tested = roles[roles["role"] == "test"].set_index("image_id")["fold"]
    fold = samples["image_id"].map(tested)
    # Each is tested in a fold that the other is developed in, and neither in the first.
    first, second = fold.index[fold == 1][0], fold.index[fold == 2][0]
    samples.loc[second, "perceptual_hash"] = samples.loc[first, "perceptual_hash"]
    message = one(audited(samples, split), "near_duplicates")["message"]
    assert "1 have one image in development and one in test" in message
    # Two patients of one test fold are never apart.
    samples = cohort()
    same = samples[fold == 1].drop_duplicates("patient_id").index[:2]
    samples.loc[same[1], "perceptual_hash"] = samples.loc[same[0], "perceptual_hash"]
    assert "in development" not in one(audited(samples, split), "near_duplicates")["message"]


def test_near_pairs_of_two_cohorts_are_said_to_be_of_these() -> None:
    home, abroad = cohort(), cohort(9, "abroad")
    beyond = cohort(9, "beyond")
    # The nearest of all pairs is at home; it is not what is told of the other cohorts.
    home.loc[6, "perceptual_hash"] = home.loc[0, "perceptual_hash"]
    beyond.loc[0, "perceptual_hash"] = flipped(abroad.loc[0, "perceptual_hash"], 3)
    findings = found(audited(pd.concat([home, abroad, beyond])), "near_duplicates")
    assert [finding["cohort"] for finding in findings] == ["home", "abroad"]
    assert "pairs of nearly identical images of abroad and beyond" in findings[1]["message"]


def test_the_search_agrees_with_comparing_every_pair() -> None:
    samples = cohort(20)
    near = [flipped(text, n) for n, text in enumerate(samples["perceptual_hash"])]
    samples = pd.concat([samples, cohort(20, "abroad", perceptual_hash=near)], ignore_index=True)
    samples = samples.assign(subject_id=samples["patient_id"])
    hashes = [imagehash.hex_to_hash(text) for text in samples["perceptual_hash"]]
    expected = sum(a - b <= NEAR_BITS for n, a in enumerate(hashes) for b in hashes[:n])
    searched = near_pairs(samples)
    assert searched.count == expected > 0
    assert searched.nearest["distance"].is_monotonic_increasing


def test_images_of_one_patient_are_expected_to_be_alike() -> None:
    samples = cohort()
    samples.loc[1, "perceptual_hash"] = samples.loc[0, "perceptual_hash"]
    assert not found(audited(samples), "near_duplicates")


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
    result = audit(samples, None, {}, source=name, published={name: 12_400})
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
    # Patients counted from the published CSV.
    assert "operator Op. 3 (270 patients) only with device Aloka" in together
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
