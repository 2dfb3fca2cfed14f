"""What a run writes for the report's pictures."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sonobench import benchmark
from sonobench.diagnostics import nearest_training_images, projection, standardised, wanted_pictures


def table(n):
    return pd.DataFrame({"image_id": [f"image {i}" for i in range(n)]})


def splits(*roles):
    rows = [
        {"image_id": f"image {i}", "fold": fold, "role": role}
        for fold, of_fold in enumerate(roles)
        for i, role in enumerate(of_fold)
    ]
    return pd.DataFrame(rows)


def test_constant_features_become_zero():
    features = np.array([[1, 5], [3, 5], [5, 5]], dtype=np.float32)
    assert standardised(features)[:, 1].tolist() == [0, 0, 0]
    assert standardised(features)[:, 0].std() == pytest.approx(1)


def test_components_have_the_signs_that_make_their_largest_loading_positive():
    rng = np.random.default_rng(0)
    features = standardised(rng.normal(size=(40, 5)).astype(np.float32) * [5, 3, 1, 1, 1])
    places = projection(features, table(40))
    for component in ("x", "y"):
        loadings = features.T @ places[component]
        assert loadings[np.abs(loadings).argmax()] > 0
    # The same cloud upside down has the same axes, so each point lands on the other side.
    flipped = projection(-features, table(40))
    np.testing.assert_allclose(flipped["x"], -places["x"], atol=1e-4)


def test_the_explained_share_is_that_of_both_components():
    # Two independent columns and a third that is constant: two components hold everything.
    features = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]], dtype=np.float32)
    assert projection(features, table(4))["explained"].iloc[0] == pytest.approx(1)


def test_neighbours_are_images_trained_on_in_a_fold_that_tests_the_image():
    features = np.array([[1, 0], [0.9, 0.1], [0.99, 0], [0, 1]], dtype=np.float32)
    division = splits(["test", "train", "validation", "train"], ["train", "test", "train", "train"])
    nearest = nearest_training_images(features, table(4), division, ["image 0"])
    # Image 2 is nearer, but in the fold that tests image 0 it is validation.
    assert nearest["neighbour"].tolist() == ["image 1", "image 3"]
    assert nearest["rank"].tolist() == [1, 2]
    assert nearest["similarity"].iloc[0] == pytest.approx(0.9 / np.hypot(0.9, 0.1))


def test_pictures_are_the_chosen_images_their_neighbours_and_then_others():
    near = pd.DataFrame(
        {
            "image_id": ["image 1", "image 1", "image 0"],
            "rank": [1, 2, 1],
            "neighbour": ["image 5", "image 6", "image 7"],
        }
    )
    wanted = wanted_pictures(["image 0", "image 1"], [near], table(9))
    assert wanted[:5] == ["image 0", "image 1", "image 7", "image 5", "image 6"]
    assert sorted(wanted) == sorted(table(9)["image_id"])


def test_a_run_leaves_a_picture_of_every_image_of_small_cohorts(write_protocol, tmp_path):
    run = benchmark.run(write_protocol(), tmp_path / "out")
    folder = run.folder / "diagnostics"
    index = pd.read_csv(folder / "thumbnails" / "index.csv")
    samples = pd.read_parquet(run.folder / "samples.parquet")
    assert set(index["image_id"]) == set(samples["image_id"])
    with Image.open(folder / "thumbnails" / index["file"][0]) as picture:
        assert picture.size == (96, 96)
    places = pd.read_parquet(folder / "projection.parquet")
    assert set(places["image_id"]) == set(samples["image_id"])
    near = pd.read_parquet(folder / "neighbours.parquet").merge(samples, on="image_id")
    trained = near.merge(samples, left_on="neighbour", right_on="image_id", suffixes=("", "_near"))
    assert (trained["subject_id"] != trained["subject_id_near"]).all()
    benchmark.run(write_protocol(), tmp_path / "out", images=False)
    assert not (folder / "thumbnails").exists()
    assert (folder / "projection.parquet").exists()
