"""Which parts of a cohort are estimated, over which classes, and what they are confounded with."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sonobench.evaluation import EvaluationSettings, evaluate

CLASSES = ("brain", "femur", "thorax", "other")


def cohort(**changes: Any) -> tuple[pd.DataFrame, pd.DataFrame, EvaluationSettings]:
    """60 subjects abroad at three centres, an image of each class; centre south has no thorax."""
    rows = []
    for subject in range(60):
        centre = ("east", "north", "south")[subject % 3]
        for label in CLASSES[:3]:
            if (centre, label) != ("south", "thorax"):
                name = f"abroad/{subject:02d}"
                rows.append((f"{name}_{label}", name, label, centre))
    samples = pd.DataFrame(rows, columns=["image_id", "subject_id", "label", "site"]).assign(
        dataset="abroad", device=None, operator=None, official_split=None, pixel_sha256=None
    )
    samples = samples.assign(path=samples["image_id"], patient_id=samples["subject_id"], **changes)
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, len(samples), 4)).astype(np.float32)
    logits[:, np.arange(len(samples)), samples["label"].map(CLASSES.index)] += 1.5
    predictions = pd.concat(
        [
            samples[["image_id", "subject_id", "label", "dataset"]].assign(
                encoder="net",
                adaptation="linear_probe",
                role="external",
                fold=fold,
                seed=0,
                logits=list(logits[fold]),
            )
            for fold in range(2)
        ]
    )
    settings = EvaluationSettings(CLASSES, None, {"abroad": CLASSES[:3]}, bootstrap_draws=200)
    return predictions, samples, settings


def rows_of(results: pd.DataFrame, subgroup: str) -> pd.DataFrame:
    chosen = (results["subgroup"] == subgroup) & (results["label_space"] == "open")
    return results[chosen & (results["calibration"] == "none")].set_index("metric")


def test_a_centre_without_thorax_has_a_macro_f1_over_its_own_classes() -> None:
    found = evaluate(*cohort())
    south = rows_of(found.results, "site=south")
    assert south.loc["macro_f1", "estimate"] == pytest.approx(
        south.loc[["f1[brain]", "f1[femur]"], "estimate"].mean()
    )
    assert "f1[thorax]" not in south.index
    assert south.loc["macro_f1", ["n_images", "n_patients"]].tolist() == [40, 20]
    assert south.loc["macro_f1", "ci_low"] < south.loc["macro_f1", "estimate"]
    assert "f1[thorax]" in rows_of(found.results, "site=north").index
    assert {"nll", "brier", "ece"} <= set(south.index)


def test_every_value_is_counted_and_small_ones_are_not_estimated() -> None:
    predictions, samples, settings = cohort()
    # Nine images of brain and nine of femur: one fewer than is needed.
    small = samples["subject_id"].isin([f"abroad/{subject:02d}" for subject in range(2, 28, 3)])
    samples["device"] = np.where(small, "rare", "usual")
    found = evaluate(predictions, samples, settings)
    table = found.subgroups.set_index(["attribute", "value"])
    rare = table.loc["device", "rare"]
    assert rare[["n_images", "n_patients", "n_classes"]].tolist() == [18, 9, 0]
    assert not rare["shown"]
    assert table.loc["device", "usual"]["shown"]
    assert "device=rare" not in set(found.results["subgroup"])


def test_ten_images_of_four_subjects_are_too_few_subjects() -> None:
    predictions, samples, settings = cohort()
    few = samples["subject_id"].isin([f"abroad/{subject:02d}" for subject in (0, 1, 2, 3)])
    samples["device"] = np.where(few, "few", "usual")
    table = evaluate(predictions, samples, settings).subgroups.set_index("value")
    assert table.loc["few", "n_classes"] == 0


def test_an_attribute_of_one_value_is_no_subgroup() -> None:
    found = evaluate(*cohort(device="the only one"))
    assert set(found.subgroups["attribute"]) == {"site"}


def test_an_attribute_of_one_class_has_that_class_recall_alone() -> None:
    predictions, samples, settings = cohort()
    subject = samples["subject_id"].str[-2:].astype(int)
    plane = np.where(subject % 2 == 0, "thalamic", "cerebellar")
    samples["brain_plane"] = pd.Series(plane).where(samples["label"] == "brain")
    found = evaluate(predictions, samples, settings)
    thalamic = rows_of(found.results, "brain_plane=thalamic")
    own = samples["brain_plane"] == "thalamic"
    rows = predictions[predictions["image_id"].isin(samples.loc[own, "image_id"])]
    right = np.stack(rows["logits"]).argmax(1) == 0
    assert thalamic.loc["recall[brain]", "estimate"] == pytest.approx(right.mean())
    assert "macro_f1" not in thalamic.index


def test_a_subgroup_is_confounded_with_what_its_images_have_and_most_others_lack() -> None:
    predictions, samples, settings = cohort()
    samples["device"] = samples["site"].map({"east": "Voluson", "north": "Aloka", "south": "Aloka"})
    table = evaluate(predictions, samples, settings).subgroups.set_index("value")
    assert table.loc["east", "confounded_with"] == "device=Voluson"
    assert table.loc["Voluson", "confounded_with"] == "site=east"
    # All images of north are of Aloka, as are 40 of the other 100; 60 of 100 of Aloka are of north.
    assert table.loc["north", "confounded_with"] == "device=Aloka"
    assert table.loc["Aloka", "confounded_with"] is None


def test_a_value_that_most_images_have_anyway_confounds_nothing() -> None:
    predictions, samples, settings = cohort()
    samples["device"] = samples["site"].map({"east": "usual", "north": "usual", "south": "usual"})
    samples.loc[samples["site"].eq("south").idxmax(), "device"] = "rare"
    table = evaluate(predictions, samples, settings).subgroups.set_index("value")
    assert table.loc["north", "confounded_with"] is None


def test_draws_without_a_declared_class_are_left_out_and_their_share_is_told() -> None:
    predictions, samples, settings = cohort()
    # Device new: 15 subjects of centre east, of whom five have thorax, twice each.
    subject = samples["subject_id"].str[-2:].astype(int)
    thorax = samples["label"] == "thorax"
    samples["device"] = np.where(subject.isin(range(0, 45, 3)), "new", "old")
    five = subject.isin((0, 3, 6, 9, 12))
    kept = samples[~thorax | five | (samples["device"] == "old")]
    again = samples[thorax & five].assign(image_id=lambda rows: rows["image_id"] + " again")
    repeated = predictions.assign(image_id=predictions["image_id"] + " again")
    predictions = pd.concat([predictions, repeated])
    samples = pd.concat([kept, again])
    predictions = predictions[predictions["image_id"].isin(samples["image_id"])]
    found = rows_of(evaluate(predictions, samples, settings).results, "device=new")
    assert "f1[thorax]" in found.index
    # Draws are of the 20 subjects of the centre, none of the five: (15/20)^20 = 0.3 % of 200.
    assert found.loc["nll", "redrawn_share"] <= 0.02
    assert found.loc["nll", "reliable"]
