import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonobench.datasets import DatasetError, duplicate_groups, merge_subjects, refuse_conflicts
from sonobench.datasets.subjects import copies_to_drop

Rows = list[tuple[int, int]]


def table(patients_and_images: Rows) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(len(patients_and_images))],
            "dataset": "home",
            "label": "x",
            "patient_id": [f"p{patient}" for patient, _ in patients_and_images],
            "pixel_sha256": [f"h{image}" for _, image in patients_and_images],
            "official_split": "train",
            "row": range(2, len(patients_and_images) + 2),
        }
    )


def test_patients_who_share_no_image_stay_apart() -> None:
    assert merge_subjects(table([(1, 1), (2, 2), (1, 3)])).tolist() == ["p1", "p2", "p1"]


def test_ids_that_share_an_image_become_the_smallest_of_them() -> None:
    assert merge_subjects(table([(3, 7), (2, 7)])).tolist() == ["p2", "p2"]


def test_merging_is_transitive() -> None:
    chain = [(1, 1), (2, 1), (2, 2), (3, 2), (4, 9)]
    assert merge_subjects(table(chain)).tolist() == ["p1", "p1", "p1", "p1", "p4"]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 20)), min_size=1, max_size=40))
def test_rows_of_one_patient_or_one_image_are_always_one_subject(rows: Rows) -> None:
    samples = table(rows)
    subject = merge_subjects(samples)
    for column in ("patient_id", "pixel_sha256"):
        assert (subject.groupby(samples[column]).nunique() == 1).all()


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 20)), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_the_order_of_rows_changes_no_subject(rows: Rows, random) -> None:  # type: ignore[no-untyped-def]
    samples = table(rows).assign(subject_id=merge_subjects)
    order = list(range(len(rows)))
    random.shuffle(order)
    again = merge_subjects(samples.iloc[order])
    assert (again.sort_index() == samples["subject_id"]).all()


def test_identical_images_stand_together_in_groups() -> None:
    groups = duplicate_groups(table([(1, 1), (2, 2), (3, 1)]))
    assert groups["image_id"].tolist() == ["i0", "i2"]


def test_one_image_under_two_labels_stops_with_both_rows() -> None:
    samples = table([(1, 1), (2, 1)]).assign(label=["x", "y"])
    with pytest.raises(DatasetError, match=r"i0 \(row 2\): x; i1 \(row 3\): y"):
        refuse_conflicts(samples, "home")


def test_a_patient_in_train_and_test_stops_with_both_rows() -> None:
    samples = table([(1, 1), (1, 2)]).assign(official_split=["train", "test"])
    with pytest.raises(DatasetError, match=r"p1 \(row 2: train, row 3: test\)"):
        refuse_conflicts(samples, "home")


def test_the_published_split_of_an_external_cohort_plays_no_part() -> None:
    samples = table([(1, 1), (1, 2)]).assign(official_split=["train", "test"], dataset="abroad")
    refuse_conflicts(samples, "home")


# The order of ids would keep the first of each pair, or of three.
COPIES = {
    "a published test image of the source before one of another cohort": (
        [("abroad", ""), ("home", "test")],
        1,
    ),
    "an image of another cohort before the source's training image": (
        [("home", "train"), ("abroad", "")],
        1,
    ),
    "an image of another cohort before the source's image without a published split": (
        [("home", ""), ("abroad", "")],
        1,
    ),
    "a published test image before a training image of the source": (
        [("home", "train"), ("home", "test")],
        1,
    ),
    "a test image of the source before all others": (
        [("home", "train"), ("abroad", "test"), ("home", "test")],
        2,
    ),
    "of another cohort's two the smaller id, whatever its own split": (
        [("abroad", "train"), ("abroad", "test")],
        0,
    ),
}


@pytest.mark.parametrize(("copies", "kept"), COPIES.values(), ids=COPIES)
def test_of_identical_images_one_is_kept(copies: list[tuple[str, str]], kept: int) -> None:
    samples = table([(number, 1) for number in range(len(copies))])
    samples["dataset"], samples["official_split"] = zip(*copies, strict=True)
    dropped = copies_to_drop(samples, "home")
    assert dropped.index[~dropped].tolist() == [kept]
    backwards = copies_to_drop(samples.iloc[::-1], "home")
    assert backwards.index[~backwards].tolist() == [kept]


def test_images_that_occur_once_are_all_kept() -> None:
    assert not copies_to_drop(table([(1, 1), (1, 2), (2, 3)]), "home").any()
