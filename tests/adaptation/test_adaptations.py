"""The conformance suite of adaptations: whatever is trained on top of an encoder passes it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sonobench.adaptation import Adapted, linear_probe, majority_class
from sonobench.protocol import LinearProbe

CLASSES = ("a", "b", "c")
FOLDS, HOME, ABROAD = 3, 90, 20

Features = npt.NDArray[np.float32]
Adaptation = Callable[[Features, pd.DataFrame, pd.DataFrame], Adapted]


def _probe(features: Features, samples: pd.DataFrame, splits: pd.DataFrame) -> Adapted:
    return linear_probe(features, samples, splits, CLASSES, LinearProbe())


def _majority(_features: Features, samples: pd.DataFrame, splits: pd.DataFrame) -> Adapted:
    return majority_class(samples, splits, CLASSES)


ADAPTATIONS: dict[str, Adaptation] = {"linear_probe": _probe, "majority_class": _majority}


def cohorts(seed: int = 0) -> tuple[Features, pd.DataFrame, pd.DataFrame]:
    """Features that carry the class weakly, the sample table, and the splits."""
    rng = np.random.default_rng(seed)
    number = np.arange(HOME + ABROAD)
    label = rng.choice(3, len(number), p=[0.5, 0.3, 0.2])
    features = rng.standard_normal((len(number), 8)) + 1.2 * np.eye(8)[label]
    samples = pd.DataFrame(
        {
            "image_id": [f"i{n:03d}" for n in number],
            "dataset": np.where(number < HOME, "home", "abroad"),
            "subject_id": [f"s{n // 2}" for n in number],
            "label": np.array(CLASSES)[label],
        }
    )
    tables = []
    for fold in range(FOLDS):
        part = np.where(number % (FOLDS + 1) == fold, "validation", "train").astype(object)
        part[number % (FOLDS + 1) == FOLDS] = "test"
        part[number >= HOME] = "external"
        part[:4] = "excluded"
        tables.append(pd.DataFrame({"image_id": samples["image_id"], "fold": fold, "role": part}))
    return features.astype(np.float32), samples, pd.concat(tables, ignore_index=True)


@pytest.fixture(params=ADAPTATIONS)
def adaptation(request: pytest.FixtureRequest) -> Adaptation:
    return ADAPTATIONS[request.param]


def test_every_fold_predicts_its_validation_test_and_external_images(
    adaptation: Adaptation,
) -> None:
    features, samples, splits = cohorts()
    rows = adaptation(features, samples, splits).predictions
    expected = splits[~splits["role"].isin(["train", "excluded"])]
    merged = rows.merge(expected, on=["image_id", "fold", "role"], how="outer", indicator=True)
    assert (merged["_merge"] == "both").all()


def test_logits_are_finite_float32_one_a_class(adaptation: Adaptation) -> None:
    rows = adaptation(*cohorts()).predictions
    logits = np.stack(rows["logits"].tolist())
    assert logits.dtype == np.float32
    assert logits.shape == (len(rows), len(CLASSES))
    assert np.isfinite(logits).all()


def test_labels_and_subjects_are_those_of_the_samples(adaptation: Adaptation) -> None:
    features, samples, splits = cohorts()
    rows = adaptation(features, samples, splits).predictions
    known = samples.set_index("image_id").loc[rows["image_id"]]
    for column in ("label", "subject_id", "dataset"):
        assert rows[column].tolist() == known[column].tolist()


def test_the_same_input_gives_the_same_predictions(adaptation: Adaptation) -> None:
    one, two = (adaptation(*cohorts()).predictions for _ in range(2))
    assert np.array_equal(np.stack(one["logits"].tolist()), np.stack(two["logits"].tolist()))


def test_test_and_external_images_do_not_influence_training(adaptation: Adaptation) -> None:
    features, samples, splits = cohorts()
    before = adaptation(features, samples, splits).predictions
    unseen = ~samples["image_id"].isin(splits.loc[splits["role"] == "train", "image_id"])
    unseen &= ~samples["image_id"].isin(splits.loc[splits["role"] == "validation", "image_id"])
    changed = features.copy()
    changed[unseen] += 5
    after = adaptation(changed, samples, splits).predictions
    validation = (before["role"] == "validation").to_numpy()
    assert np.array_equal(
        np.stack(before.loc[validation, "logits"].tolist()),
        np.stack(after.loc[validation, "logits"].tolist()),
    )


def test_the_majority_class_is_that_of_each_folds_training_part() -> None:
    features, samples, splits = cohorts()
    adapted = _majority(features, samples, splits)
    rows_of = adapted.predictions.groupby("fold")
    for fold, rows in splits[splits["role"] == "train"].merge(samples).groupby("fold"):
        counts = rows["label"].value_counts()
        predicted = rows_of.get_group(fold)["logits"].map(np.argmax)
        assert set(predicted) == {CLASSES.index(counts.index[0])}


def test_the_probe_is_scikit_learns_at_the_chosen_penalty() -> None:
    features, samples, splits = cohorts()
    adapted = _probe(features, samples, splits)
    chosen = adapted.diagnostics.query("chosen").set_index("fold")["penalty"]
    for fold in range(FOLDS):
        role = splits[splits["fold"] == fold].set_index("image_id")["role"][samples["image_id"]]
        train, test = (role == "train").to_numpy(), (role == "test").to_numpy()
        scaler = StandardScaler().fit(features[train].astype(np.float64))
        reference = LogisticRegression(
            C=1 / (chosen[fold] * train.sum()), tol=1e-10, max_iter=10_000
        ).fit(scaler.transform(features[train]), samples.loc[train, "label"])
        rows = adapted.predictions.query("fold == @fold and role == 'test'")
        logits = np.stack(rows["logits"].tolist()).astype(np.float64)
        ours = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = reference.predict_proba(scaler.transform(features[test]))
        # 1e-5 of gradient leaves about 1e-4 of probability at these penalties.
        np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_the_path_is_kept_as_diagnostics() -> None:
    path = _probe(*cohorts()).diagnostics
    assert path.groupby("fold")["chosen"].sum().tolist() == [1] * FOLDS
    assert path["converged"].all()
    assert (path["gradient"] <= LinearProbe().tolerance).all()
    best = path.loc[path.groupby("fold")["validation_nll"].idxmin(), "chosen"]
    assert best.all()


@pytest.mark.parametrize("penalties", [(1e-1, 1e-2), (1e3, 1e2, 1e-2, 1e-5)])
def test_of_a_fold_only_the_chosen_penalty_can_be_at_an_edge(penalties: tuple[float, ...]) -> None:
    settings = LinearProbe(penalties=penalties, patience=None)
    path = linear_probe(*cohorts(), CLASSES, settings).diagnostics
    best = path.groupby("fold")["validation_nll"].transform("min") == path["validation_nll"]
    assert (path["chosen"] == best).all()
    at_end = path["penalty"].isin([penalties[0], penalties[-1]])
    assert (path["at_edge"] == (best & at_end)).all()
