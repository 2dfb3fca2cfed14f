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
