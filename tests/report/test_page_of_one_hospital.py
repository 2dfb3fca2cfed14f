"""The page of a run without external cohorts, in cross-validation, with several seeds."""

import pytest

from tests.report.read_page import Page, written


@pytest.fixture(scope="module")
def home(home_run):
    return Page(written(home_run))


def test_without_an_external_cohort_nothing_is_said_of_one(home):
    groups, headings, *rows = home.table("tiny_run: macro F1")
    # At home 24 patients have 3, 4, 5 images in turn, and each is tested in one fold.
    assert groups[1:] == ["in-domain 96 images, 24 patients"]
    assert headings == ["macro F1", "group", "fold sd", "weighted F1"]
    assert len(rows) == 7
    for words in ("abroad", "In-domain minus external", "Open label space"):
        assert words not in home.text.split("every setting written out")[0]


def test_in_cross_validation_every_patient_is_tested_and_there_is_no_ensemble(home):
    assert "each in turn is the in-domain test, with validation patients drawn" in home.text
    assert home.text.count("In-domain, ") == 1
    assert "Macro F1 of the ensemble" not in home.text


def test_several_seeds_have_their_own_deviation_and_probes(home, home_run):
    _, headings, *rows = home.table("in-domain: open label space, all images")
    assert headings[:3] == ["macro F1", "fold sd", "seed sd"]
    results = home_run.evaluation.results
    [row] = results[
        (results["encoder"] == "net_b")
        & (results["subgroup"] == "all")
        & (results["calibration"] == "none")
        & (results["label_space"] == "open")
        & (results["images"] == "all")
        & (results["metric"] == "macro_f1")
    ].itertuples()
    [cells] = [cells for cells in rows if cells[0] == "net_b linear probe"]
    assert cells[2:4] == [f"{row.fold_sd:.3f}", f"{row.seed_sd:.3f}"]
    assert row.fold_sd != row.seed_sd
    # The simulated probes are all of seed 0; of a fine-tuning too seed 1 kept no epoch.
    assert "net, seed 0" in [cells[0] for cells in home.table("The regularisation λ")]
    [headings, tuned] = home.table("How fine-tuning ended")
    kept = tuned[headings.index("Kept epochs")]
    assert [part == "–" for part in kept.split(", ")] == [False] * 3 + [True] * 3
