import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonobench.datasets import DatasetError, make_splits
from sonobench.protocol import Split


def cohort(subjects: int, seed: int = 0, *, classes: int = 3, name: str = "home") -> pd.DataFrame:
    """Every subject has one to four images; a third of the subjects are published as test."""
    rng = np.random.default_rng(seed)
    rows = []
    for subject in range(subjects):
        for image in range(rng.integers(1, 5)):
            rows.append(
                {
                    "image_id": f"{name}/{subject:03d}_{image}",
                    "dataset": name,
                    "label": f"class{(subject + image) % classes}",
                    "patient_id": f"{name}/{subject:03d}",
                    "subject_id": f"{name}/{subject:03d}",
                    "pixel_sha256": f"{name}{subject}_{image}",
                    "official_split": "test" if subject % 3 == 2 else "train",
                    "row": len(rows) + 2,
                }
            )
    return pd.DataFrame(rows)


def roles_of_subjects(samples: pd.DataFrame, splits: pd.DataFrame) -> pd.Series:
    joined = splits.merge(samples, on="image_id")
    return joined.groupby(["fold", "dataset", "subject_id"])["role"].nunique()


SCHEMES = ["official_test", "cross_validation"]


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=25)
@given(subjects=st.integers(24, 60), seed=st.integers(0, 10**6), folds=st.integers(2, 5))
def test_a_subject_has_one_role_in_a_fold(
    scheme: str, subjects: int, seed: int, folds: int
) -> None:
    samples = pd.concat([cohort(subjects, seed), cohort(9, seed, name="abroad")])
    samples = samples.reset_index(drop=True)
    splits = make_splits(samples, "home", Split(scheme=scheme, folds=folds, seed=seed))  # type: ignore[arg-type]
    assert (roles_of_subjects(samples, splits) == 1).all()
    assert len(splits) == folds * len(samples)


def test_official_test_patients_are_the_test_of_every_fold() -> None:
    samples = cohort(40)
    splits = make_splits(samples, "home", Split())
    published = set(samples.loc[samples["official_split"] == "test", "image_id"])
    for _, fold in splits.groupby("fold"):
        assert set(fold.loc[fold["role"] == "test", "image_id"]) == published


def test_every_development_image_is_validated_on_once() -> None:
    samples = cohort(40)
    splits = make_splits(samples, "home", Split())
    validated = splits.loc[splits["role"] == "validation", "image_id"]
    assert sorted(validated) == sorted(
        samples.loc[samples["official_split"] == "train", "image_id"]
    )


def test_in_cross_validation_every_image_is_tested_on_once() -> None:
    samples = cohort(40)
    splits = make_splits(samples, "home", Split(scheme="cross_validation"))
    assert sorted(splits.loc[splits["role"] == "test", "image_id"]) == sorted(samples["image_id"])
    assert (
        splits.groupby("fold")["role"].apply(set).tolist() == [{"train", "validation", "test"}] * 5
    )


def test_other_cohorts_are_external_in_every_fold() -> None:
    samples = pd.concat([cohort(40), cohort(9, name="abroad")], ignore_index=True)
    splits = make_splits(samples, "home", Split()).merge(samples, on="image_id")
    assert set(splits.loc[splits["dataset"] == "abroad", "role"]) == {"external"}
    assert "external" not in set(splits.loc[splits["dataset"] == "home", "role"])


def test_the_order_of_rows_changes_no_role() -> None:
    samples = cohort(40)
    shuffled = samples.sample(frac=1, random_state=1).reset_index(drop=True)
    pd.testing.assert_frame_equal(
        make_splits(samples, "home", Split()), make_splits(shuffled, "home", Split())
    )


def test_another_seed_gives_other_folds() -> None:
    samples = cohort(40)
    one, two = (make_splits(samples, "home", Split(seed=seed)) for seed in (0, 1))
    assert not one.equals(two)


def tie(samples: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    merged = samples["subject_id"].replace(other, one)
    return samples.assign(subject_id=merged)


def test_development_images_of_a_subject_with_test_images_are_excluded() -> None:
    samples = tie(cohort(40), "home/000", "home/002")  # 000 is published as train, 002 as test
    splits = make_splits(samples, "home", Split())
    role = splits[splits["fold"] == 0].set_index("image_id")["role"]
    patients = samples.set_index("image_id")["patient_id"]
    assert set(role[patients == "home/000"]) == {"excluded"}
    assert set(role[patients == "home/002"]) == {"test"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_development_images_of_a_subject_of_another_cohort_are_excluded(scheme: str) -> None:
    samples = pd.concat([cohort(40), cohort(9, name="abroad")], ignore_index=True)
    samples = tie(samples, "abroad/000", "home/000")
    splits = make_splits(samples, "home", Split(scheme=scheme))  # type: ignore[arg-type]
    role = splits[splits["fold"] == 0].set_index("image_id")["role"]
    assert set(role[role.index.str.startswith("home/000_")]) == {"excluded"}


def test_fewer_subjects_than_folds_are_refused_with_both_numbers() -> None:
    with pytest.raises(DatasetError, match=r"4 subjects to divide into 5 folds; set .* 4, or"):
        make_splits(cohort(6), "home", Split())


def test_the_number_of_folds_that_is_advised_can_be_made() -> None:
    # One subject an image, of one class: folds of equal size.
    samples = cohort(5, classes=1).drop_duplicates("subject_id").reset_index(drop=True)
    # 5 folds leave 4 subjects to divide again; of 4 folds one has 2 subjects and leaves 3.
    with pytest.raises(DatasetError, match=r"4 subjects, without those of a test fold, to .* 3, "):
        make_splits(samples, "home", Split(scheme="cross_validation", folds=5))
    make_splits(samples, "home", Split(scheme="cross_validation", folds=3))
    with pytest.raises(DatasetError, match=r"into 2 folds; bring more patients"):
        make_splits(samples[:2], "home", Split(scheme="cross_validation", folds=2))


def test_fewer_images_of_every_class_than_folds_are_refused_with_the_number() -> None:
    samples = cohort(6).drop_duplicates("subject_id").reset_index(drop=True)
    with pytest.raises(DatasetError, match="at most 2 images of a class to divide into 5 folds"):
        make_splits(samples, "home", Split(scheme="cross_validation"))


def test_a_class_without_training_images_in_a_fold_is_refused() -> None:
    samples = cohort(40)
    samples.loc[samples["subject_id"] == "home/000", "label"] = "rare"
    with pytest.raises(DatasetError, match=r"no training image of class 'rare': .* 1 "):
        make_splits(samples, "home", Split())


def test_an_image_without_published_split_is_refused_with_its_row() -> None:
    samples = cohort(40)
    samples.loc[7, "official_split"] = None
    with pytest.raises(DatasetError, match=r"\(row 9\).*'split.scheme' to cross_validation"):
        make_splits(samples, "home", Split())


def test_a_published_split_without_test_is_refused() -> None:
    with pytest.raises(DatasetError, match="no test images in its published split"):
        make_splits(cohort(40).assign(official_split="train"), "home", Split())
