"""What the audit finds of machines, sites, classes and looks that go together."""

import numpy as np
import pandas as pd
import pytest
from audited import RNG, audited, cohort, found, one

from sonobench.datasets.audit.attributes import confounding, cramers_v
from sonobench.datasets.audit.shortcuts import burned_in

# ── metadata ─────────────────────────────────────────────────────────────────────────────────────


def test_an_operator_who_has_one_machine_is_confounded_with_it() -> None:
    third = np.arange(90) % 3
    samples = cohort(device=np.where(third == 0, "A", "B"), operator=third.astype(str))
    message = one(audited(samples.assign(label=RNG.permutation(samples["label"]))), "confounding")
    assert "operator 0 (30 patients) only with device A" in message["message"]


def test_a_site_without_a_class_is_told() -> None:
    samples = cohort(site=np.repeat(["north", "south", "west"], 30))
    samples = samples[(samples["site"] != "south") | (samples["label"] != "femur")]
    message = one(audited(samples), "confounding")["message"]
    assert "class and site go together" in message
    assert "site south has no femur" in message


def drawn(patients: int, seed: int) -> pd.DataFrame:
    """Up to six images a patient, whose machine, site, operator and calipers are drawn apart."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, patients)
    of = np.repeat(np.arange(patients), counts)
    frame = cohort(2 * patients).iloc[: len(of)]
    return frame.assign(
        patient_id=[f"home/{patient}" for patient in of],
        label=rng.choice(["abdomen", "brain", "femur", "thorax"], len(of), p=[0.4, 0.3, 0.2, 0.1]),
        device=rng.choice(["a", "b", "c", "d"], patients)[of],
        operator=rng.choice(["1", "2", "3", "4"], patients)[of],
        # A rare value: with few patients it lacks classes by chance.
        site=rng.choice(["north", "south"], patients, p=[0.9, 0.1])[of],
        # Of a patient all images have them, or none.
        caliper_marks=(rng.random(patients) < 0.3)[of].astype(int),
    )


@pytest.mark.parametrize("patients", [20, 100])
def test_what_is_independent_is_hardly_ever_called_confounded(patients: int) -> None:
    # Six pairs at one in a thousand each, and three standard errors between four classes: of 20
    # cohorts one at most.
    frames = [drawn(patients, seed) for seed in range(20)]
    assert sum(bool(confounding("home", frame)) for frame in frames) <= 1
    shortcuts = [found for frame in frames for found in burned_in("home", frame)]
    assert sum(finding.severity == "warning" for finding in shortcuts) <= 1
    # They are seen: what chance gives is told as a share, not as a shortcut.
    assert len(shortcuts) == 20


def test_what_goes_together_is_called_confounded_with_few_patients_too() -> None:
    frame = drawn(40, 0)
    frame["operator"] = frame["device"].str.upper()
    messages = [finding.message for finding in confounding("home", frame)]
    assert len(messages) == 1
    assert "device and operator go together (Cramér's V 1.00)" in messages[0]


def test_cramers_v_has_no_bias() -> None:
    # By hand: chi² = 20, n = 20; phi² = 1 - 1/19 and 2 values become 2 - 1/19, so V is 1.
    strength, chance = cramers_v(np.array([[10, 0], [0, 10]]))
    assert strength == pytest.approx(1)
    # The tail of chi-squared at 20 with one degree of freedom (any table of it): 7.74e-6.
    assert chance == pytest.approx(7.74e-6, rel=1e-3)
    # By hand: chi² = 0.8, phi² = 0.04 - 1/19 < 0.
    assert cramers_v(np.array([[6, 4], [4, 6]]))[0] == 0
    # By hand: chi² = 20 · (8·8 - 2·2)² / 10⁴ = 7.2; (0.36 - 1/19) / (1 - 1/19) = 0.3244.
    assert cramers_v(np.array([[8, 2], [2, 8]]))[0] == pytest.approx(0.3244**0.5, rel=1e-3)


def test_a_patient_of_two_sites_is_a_warning_with_the_sites() -> None:
    samples = cohort(site=np.where(np.arange(90) % 2, "north", "south"))
    samples.loc[samples["patient_id"] != "home/003", "site"] = "north"
    finding = one(audited(samples), "several_sites")
    assert (finding["severity"], finding["count"]) == ("warning", 1)
    assert "first: home/003 (north, south)" in finding["message"]


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


def test_a_class_with_a_running_number_after_it_is_read_too() -> None:
    samples = cohort()
    samples["path"] = [f"{row.label}{number:03d}.png" for number, row in samples.iterrows()]
    assert one(audited(samples), "path_leak")["count"] == 90


@pytest.mark.parametrize(("readable", "told"), [(44, False), (45, True)])
def test_a_class_in_fewer_than_half_of_the_paths_is_not_told(readable: int, told: bool) -> None:
    samples = cohort()
    samples.loc[: readable - 1, "path"] = samples["label"] + samples["path"]
    assert bool(found(audited(samples), "path_leak")) == told


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
