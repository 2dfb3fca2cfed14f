"""The answer names everybody who may be as good, and doubts are told with their extent."""

from dataclasses import replace

import pytest

from sonobench.report.comparisons import Comparisons, Difference
from sonobench.report.findings import answer, findings
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import MAIN, Model, Score, Scores

NET, NET_B = Model("net", "full_finetune"), Model("net_b", "linear_probe")
PROBE = Model("net", "linear_probe")
CONTROL = Model("pixel_stats", "linear_probe")


@pytest.fixture(scope="module")
def run(plain_run):
    return RunFolder.read(plain_run.folder)


def scores_of(**macro_f1):
    """Scores in-domain by model: estimate and interval."""
    models = {"net": NET, "net_b": NET_B, "probe": PROBE, "control": CONTROL}
    of = {
        (models[name], "in_domain", MAIN, "macro_f1"): Score(*numbers, 0.01, float("nan"), True)
        for name, numbers in macro_f1.items()
    }
    ranked = sorted(
        (model for model, *_ in of), key=lambda m: -of[m, "in_domain", MAIN, "macro_f1"].estimate
    )
    return Scores(tuple(ranked), ("in_domain",), of, {("in_domain", MAIN): (600, 300)})


def compared(*, adaptations=(), p_values=None):
    return Comparisons((), tuple(adaptations), (), (), p_values or {}, 0.05)


OWN = Difference(NET, PROBE, "in_domain", 0.02, 0.01, 0.03, 0.001)


def test_a_rival_of_another_adaptation_is_named_although_there_is_a_paired_difference(run):
    scores = scores_of(net=(0.95, 0.93, 0.97), probe=(0.93, 0.91, 0.95), net_b=(0.94, 0.92, 0.96))
    [text] = answer(run, scores, compared(adaptations=[OWN]))
    assert "Its full fine-tuning minus its linear probe: +0.020 (+0.010 to +0.030)." in text
    assert (
        "The interval of net_b (linear probe) overlaps with that of net (full fine-tuning): the "
        "two were not compared on the same patients, and intervals alone cannot tell them apart."
    ) in text


def test_a_difference_that_is_none_is_said_to_be_none(run):
    scores = scores_of(net=(0.95, 0.93, 0.97), probe=(0.94, 0.92, 0.96))
    nothing = Difference(NET, PROBE, "in_domain", 0.01, -0.01, 0.03, 0.05)
    [text] = answer(run, scores, compared(adaptations=[nothing]))
    assert "linear probe: +0.010 (−0.010 to +0.030), which cannot be told from 0." in text


def test_a_model_that_was_not_compared_and_lies_below_is_said_to_do_so(run):
    scores = scores_of(net=(0.95, 0.93, 0.97), probe=(0.93, 0.91, 0.95), net_b=(0.7, 0.65, 0.75))
    [text] = answer(run, scores, compared(adaptations=[OWN]))
    assert (
        "No interval of a model that was not compared with net (full fine-tuning) overlaps with "
        "its own."
    ) in text


def test_who_was_compared_is_judged_by_the_pair_and_not_by_intervals(run):
    scores = scores_of(probe=(0.95, 0.93, 0.97), net_b=(0.94, 0.92, 0.96))
    pair = {(frozenset([PROBE, NET_B]), "in_domain", MAIN): 0.2}
    [text] = answer(run, scores, compared(p_values=pair))
    assert "on the same patients, net cannot be told apart from net_b (linear probe)." in text
    assert "overlap" not in text
    pair = dict.fromkeys(pair, 0.001)
    [text] = answer(run, scores, compared(p_values=pair))
    assert "on the same patients, net differs from all." in text


def test_equal_models_are_said_to_be_equal(run):
    scores = scores_of(net=(0.95, 0.93, 0.97), net_b=(0.95, 0.92, 0.96))
    [text] = answer(run, scores, compared())
    assert text.startswith(
        "In-domain, net (full fine-tuning) and net_b (linear probe) have the same macro F1, the "
        "highest of 2 models that are not controls: 0.950 (95 % interval of net (full "
        "fine-tuning) 0.930 to 0.970; 600 images of 300 patients)."
    )


def test_a_control_that_is_higher_is_said_to_be_so(run):
    scores = scores_of(net_b=(0.5, 0.45, 0.55), control=(0.6, 0.56, 0.64))
    [text] = answer(run, scores, compared())
    assert "A control is higher: pixel_stats (linear probe) has 0.600 (0.560 to 0.640)." in text


def test_a_run_of_controls_alone_has_no_encoder_to_choose(run):
    scores = scores_of(control=(0.6, 0.56, 0.64))
    assert answer(run, scores, compared()) == [
        "Only controls have results: there is no encoder to choose."
    ]


def test_trainings_that_were_best_in_their_last_epoch_are_told(run):
    epochs = run.finetune.copy()
    of_net = epochs["encoder"] == "net"
    last = epochs.groupby(["encoder", "adaptation", "seed", "fold"])["epoch"].transform("max")
    epochs.loc[of_net, "best"] = (epochs["epoch"] == last)[of_net]
    scores = scores_of(net=(0.95, 0.93, 0.97))
    told = "net, full fine-tuning: 3 of 3 trainings were best in their last epoch"
    texts = [found.text for found in findings(replace(run, finetune=epochs), scores)]
    assert any(text.startswith(told) for text in texts)
    epochs.loc[of_net, "best"] = (epochs["epoch"] == 0)[of_net]
    texts = [found.text for found in findings(replace(run, finetune=epochs), scores)]
    assert not any("best in their last epoch" in text for text in texts)


def test_one_training_of_three_at_chance_is_not_all_of_them(run):
    epochs = run.finetune.copy()
    of_net = (epochs["encoder"] == "net") & (epochs["fold"] == 1)
    epochs.loc[of_net, ["status", "status_reason"]] = ["at_chance", "it guesses"]
    scores = scores_of(net=(0.95, 0.93, 0.97))
    texts = [found.text for found in findings(replace(run, finetune=epochs), scores)]
    assert "net, full fine-tuning: 1 of 3 trainings stayed at chance: it guesses" in texts
