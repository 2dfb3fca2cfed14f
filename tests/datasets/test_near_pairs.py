"""Who becomes one subject by nearly identical images: everybody that they link, and nobody else."""

import imagehash
import numpy as np
import pandas as pd
import pytest
from audited import cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from sonobench.datasets import Merging, make_splits, make_subjects
from sonobench.datasets.audit.near_duplicates import near_duplicates
from sonobench.datasets.near_pairs import NEAR_BITS, NearPairs, near_pairs
from sonobench.protocol import Split

# Hashes of different scenes differ in about half of their 256 bits.
SCENES = [int.from_bytes(np.random.default_rng(seed).bytes(32)) for seed in range(6)]
# Of each image: patient, scene, and how many bits its hash is from the scene's.
Images = list[tuple[int, int, int]]
images = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 120)), min_size=1, max_size=30
)


def seen(scene: int, moved: int) -> str:
    """The hash of a scene that was moved: those of it differ by as many bits as the moves do."""
    return f"{SCENES[scene] ^ ((1 << moved) - 1):064x}"


def table(rows: Images, **columns: object) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"home/{number:02d}" for number in range(len(rows))],
            "dataset": "home",
            "patient_id": [f"home/{patient}" for patient, _, _ in rows],
            "pixel_sha256": [f"pixels {number}" for number in range(len(rows))],
            "perceptual_hash": [seen(scene, moved) for _, scene, moved in rows],
            "official_split": "train",
        }
    ).assign(**columns)


def joined(
    samples: pd.DataFrame, *, drop: bool = False, join: bool = True
) -> tuple[pd.DataFrame, Merging]:
    return make_subjects(samples, "home", drop_copies=drop, join_near_duplicates=join)


def linked_by_hand(rows: Images) -> dict[int, set[int]]:
    """Of each patient all that are reached by pairs of near images, found one by one."""
    hashes = [imagehash.hex_to_hash(seen(scene, moved)) for _, scene, moved in rows]
    reached = {patient: {patient} for patient, _, _ in rows}
    near = [
        (rows[a][0], rows[b][0])
        for a in range(len(rows))
        for b in range(a)
        if hashes[a] - hashes[b] <= NEAR_BITS
    ]
    for _ in reached:
        for one, other in near:
            both = reached[one] | reached[other]
            reached |= {patient: both | reached[patient] for patient in both}
    return reached


@given(images)
def test_a_subject_is_all_patients_that_near_images_link_directly_or_through_others(
    rows: Images,
) -> None:
    samples, merging = joined(table(rows))
    reached = linked_by_hand(rows)
    assert samples["subject_id"].tolist() == [f"home/{min(reached[p])}" for p, _, _ in rows]
    groups = {tuple(f"home/{p}" for p in sorted(ids)) for ids in reached.values() if len(ids) > 1}
    assert set(merging.joined) == groups
    assert len(merging.joined) == len(groups)


@given(images, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_subject_and_not_who_is_told(rows: Images, random) -> None:  # type: ignore[no-untyped-def]
    samples, merging = joined(table(rows))
    order = list(range(len(rows)))
    random.shuffle(order)
    again, told = joined(table(rows).iloc[order])
    assert again["subject_id"].sort_index().equals(samples["subject_id"])
    assert told.joined == merging.joined


@given(images)
def test_without_the_setting_near_images_join_nobody(rows: Images) -> None:
    samples, merging = joined(table(rows), join=False)
    assert (samples["subject_id"] == samples["patient_id"]).all()
    assert merging.joined == ()


@given(
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=12),
    st.sampled_from(["official_test", "cross_validation"]),
)
@settings(max_examples=30)
def test_no_near_pair_is_developed_on_and_tested_in_any_fold(
    pairs: list[tuple[int, int]], scheme: str
) -> None:
    samples = pd.concat([cohort(30), cohort(6, "abroad")], ignore_index=True)
    for one, other in pairs:
        # Each of a patient's three images links him with at most one other.
        samples.loc[3 * one + other % 3, "perceptual_hash"] = samples.loc[
            3 * other, "perceptual_hash"
        ]
    samples, merging = joined(samples)
    splits = make_splits(samples, "home", Split(scheme=scheme, folds=3))  # type: ignore[arg-type]
    roles = splits.merge(samples[["image_id", "subject_id"]], on="image_id")
    developed = roles["role"].isin(["train", "validation"])
    tested = roles["role"].isin(["test", "external"])
    for fold in range(3):
        own = roles["fold"] == fold
        assert not set(roles["subject_id"][own & developed]) & set(
            roles["subject_id"][own & tested]
        )
    nearest = merging.near.nearest
    subject = samples.set_index("image_id")["subject_id"]
    one, other = (subject.loc[nearest[name]] for name in ("image_id_a", "image_id_b"))
    assert one.tolist() == other.tolist()


def test_patients_who_share_an_image_and_those_who_share_a_near_one_are_one_subject() -> None:
    samples = table([(4, 0, 0), (3, 1, 0), (3, 2, 0), (2, 2, 5), (1, 3, 0)])
    samples.loc[1, ["pixel_sha256", "perceptual_hash"]] = samples.loc[
        0, ["pixel_sha256", "perceptual_hash"]
    ]
    found, merging = joined(samples)
    assert found["subject_id"].tolist() == ["home/2"] * 4 + ["home/1"]
    # 3 and 4 were one before.
    assert (merging.near.between_subjects, merging.joined) == (1, (("home/2", "home/3", "home/4"),))


def test_those_who_only_share_an_image_are_not_told_as_joined() -> None:
    _, merging = joined(table([(1, 0, 0), (2, 1, 0)], pixel_sha256="one"))
    assert merging.joined == ()


def test_a_dropped_copy_joins_its_patient_all_the_same() -> None:
    # The image of patient 1 is the copy that stays; 2 has no other; 3 has nearly the same.
    samples = table([(1, 0, 0), (2, 0, 0), (3, 0, 7)], pixel_sha256=["one", "one", "other"])
    found, merging = joined(samples, drop=True)
    assert found["image_id"].tolist() == ["home/00", "home/02"]
    assert merging.dropped["subject_id"].tolist() == ["home/1"]
    assert merging.joined == (("home/1", "home/2", "home/3"),)


def test_pairs_beyond_the_thousand_that_are_listed_join_as_well() -> None:
    many = [(patient, 0, 0) for patient in (0, 1) for _ in range(33)]
    _, merging = joined(table([*many, (2, 1, 0), (3, 1, NEAR_BITS)]))
    assert merging.near.between_subjects == 33 * 33 + 1
    assert len(merging.near.nearest) == 1000
    assert merging.near.nearest["distance"].max() == 0
    assert merging.joined == (("home/0", "home/1"), ("home/2", "home/3"))


def test_one_picture_of_all_is_kept_as_few_links() -> None:
    rows = [(patient, 0, 0) for patient in range(200)]
    near = near_pairs(table(rows).assign(subject_id=lambda made: made["patient_id"]))
    assert (near.count, len(near.nearest), len(near.links)) == (200 * 199 // 2, 1000, 199)


def test_a_picture_that_joins_very_many_is_told_and_not_all_are_listed() -> None:
    samples = cohort(30)
    samples.loc[0:60:3, "perceptual_hash"] = samples.loc[0, "perceptual_hash"]
    found, merging = joined(samples)
    (message,) = [
        finding.message
        for finding in near_duplicates(found, None, merging)
        if finding.kind == "joined_subjects"
    ]
    assert message.startswith("21 patient ids are joined into 1 subject, as they share nearly")
    assert "home/000 = home/001 = home/002 = home/003 = home/004 = 16 more. One has 21" in message


@given(images)
def test_the_search_is_the_same_in_blocks_of_any_size(rows: Images) -> None:
    def found(block: int) -> NearPairs:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("sonobench.datasets.near_pairs._BLOCK", block)
            return near_pairs(table(rows).assign(subject_id=lambda made: made["patient_id"]))

    whole, parts = found(1024), found(4)
    assert (whole.count, whole.between_subjects) == (parts.count, parts.between_subjects)
    pd.testing.assert_frame_equal(whole.links, parts.links)
    order = ["distance", "image_id_a", "image_id_b"]
    pd.testing.assert_frame_equal(
        *(one.nearest.sort_values(order, ignore_index=True) for one in (whole, parts))
    )
