"""Every setting of a protocol stands as same, different, or not said by the paper."""

from sonobench.protocol import load_protocol
from sonobench.report.paper_settings import setting_rows


def test_the_shipped_reading_of_the_paper_has_its_cohorts_folds_and_encoders() -> None:
    rows = {row.setting: row for row in setting_rows(load_protocol("paper"))}
    for setting in ("training cohort", "external cohort", "classes", "folds", "encoders"):
        assert rows[setting].verdict == "same"
    assert rows["averaging of F1"].verdict == "paper does not say"


def test_what_differs_is_named() -> None:
    rows = {row.setting: row for row in setting_rows(load_protocol("demo", ["split.folds=3"]))}
    assert rows["training cohort"].verdict == "different"
    assert (rows["folds"].ours, rows["folds"].paper) == ("3, patient-level", "5, patient-level")
    assert rows["folds"].verdict == "different"


def test_other_classes_are_different_also_where_they_are_six() -> None:
    six = "[a,b,c,d,e,f]"
    rows = {row.setting: row for row in setting_rows(load_protocol("demo", [f"classes={six}"]))}
    assert rows["classes"].verdict == "different"


def test_a_confidence_of_a_thousandth_less_than_all_is_not_all() -> None:
    protocol = load_protocol("paper", ["evaluation.confidence=0.995"])
    rows = {row.setting: row.ours for row in setting_rows(protocol)}
    assert rows["uncertainty"] == "99.5 % intervals over patients"


def test_settings_of_training_hold_its_optimiser_its_augmentation_and_what_is_none() -> None:
    protocol = load_protocol("demo", ["adaptations.full_finetune.learning_rate_search=[]"])
    told = {row.setting: row.ours for row in setting_rows(protocol)}["full finetune: settings"]
    assert told.startswith("AdamW; epochs ")
    assert "learning rate search none" in told
    assert "augmentation: smallest crop 0.7, aspect ratio 1.15, " in told
