"""The published numbers and claims beside a run: within or outside, and four verdicts."""

from typing import Any

import pandas as pd
import pytest

from sonobench.evaluation import PAPER_MODELS, PaperNames
from sonobench.evaluation.paper import paper_claims, paper_numbers

NAMES = PaperNames(
    {model: f"our {model}" for model in PAPER_MODELS},
    {"in_domain": "in_domain", "external": "africa"},
    trained_alike=True,
)
BOTH = ("linear_probe", "full_finetune")
# As published where it is, and MOFO and UltraSAM last.
F1 = {
    "usfm": 0.94,
    "mofo": 0.80,
    "ultrasam": 0.81,
    "fetalclip": 0.93,
    "resnet50": 0.88,
    "efficientnetv2_s": 0.89,
    "dinov3": 0.90,
}


def results(adaptations: tuple[str, ...] = BOTH, **changed: float) -> pd.DataFrame:
    """Macro and weighted F1; USFM leads full fine-tuning, FetalCLIP linear probing."""
    rows: list[dict[str, Any]] = []
    for adaptation in adaptations:
        best = {"linear_probe": "fetalclip", "full_finetune": "usfm"}[adaptation]
        for evaluation in ("in_domain", "africa"):
            for model, f1 in (F1 | {best: 0.95} | changed).items():
                for metric in ("macro_f1", "weighted_f1"):
                    rows.append(
                        {
                            "encoder": f"our {model}",
                            "adaptation": adaptation,
                            "aggregate": "mean_of_folds",
                            "evaluation": evaluation,
                            "label_space": "open",
                            "images": "all",
                            "subgroup": "all",
                            "calibration": "none",
                            "metric": metric,
                            "estimate": f1,
                            "ci_low": f1 - 0.01,
                            "ci_high": f1 + 0.01,
                        }
                    )
    return pd.DataFrame(rows)


def pairs(table: pd.DataFrame, level: float = 0.03) -> pd.DataFrame:
    """Models that differ by more than `level` differ significantly."""
    macro = table[table["metric"] == "macro_f1"]
    rows = [
        {
            "kind": "pair",
            "a": a["encoder"],
            "a_adaptation": a["adaptation"],
            "b": b["encoder"],
            "evaluation": a["evaluation"],
            "label_space": "open",
            "images": "all",
            "p_holm": 0.01 if abs(a["estimate"] - b["estimate"]) > level else 0.8,
        }
        for _, group in macro.groupby(["adaptation", "evaluation"])
        for i, a in enumerate(group.to_dict("records"))
        for b in group.to_dict("records")[:i]
    ]
    columns = ["kind", "a", "a_adaptation", "b", "evaluation", "label_space", "images", "p_holm"]
    return pd.DataFrame(rows, columns=columns)


def verdicts(table: pd.DataFrame, names: PaperNames = NAMES, level: float = 0.03) -> list[str]:
    return paper_claims(table, pairs(table, level), names, 0.95)["verdict"].tolist()


def test_a_run_like_the_paper_reproduces_every_claim() -> None:
    assert verdicts(results()) == ["reproduced"] * 7


def test_published_numbers_stand_beside_ours_within_or_outside_the_interval() -> None:
    table = paper_numbers(results(), NAMES)
    assert len(table) == 4 * 2  # macro and weighted, since the paper does not say which is its
    usfm = table[(table["encoder"] == "our usfm") & (table["metric"] == "macro_f1")]
    # 0.9476 and 0.9515 lie in 0.95 ± 0.01.
    assert usfm["theirs"].tolist() == [0.9476, 0.9515]
    assert usfm["within"].tolist() == [True, True]
    fetalclip = table[(table["encoder"] == "our fetalclip") & (table["metric"] == "macro_f1")]
    assert fetalclip["within"].tolist() == [False, False]
    assert fetalclip["difference"].tolist() == pytest.approx([0.95 - 0.9261, 0.95 - 0.9731])


def test_a_best_model_that_is_close_behind_the_first_is_consistent() -> None:
    assert verdicts(results(dinov3=0.96))[:4] == ["consistent"] * 4


def test_a_best_model_that_is_far_behind_the_first_is_not_reproduced() -> None:
    assert verdicts(results(dinov3=0.999))[:4] == ["not reproduced"] * 4


def test_a_degradation_needs_both_models_lowest_in_both_settings() -> None:
    assert verdicts(results(resnet50=0.805))[4] == "consistent"
    assert verdicts(results(resnet50=0.70))[4] == "not reproduced"


def test_without_a_significant_difference_to_natural_models_it_is_consistent() -> None:
    assert verdicts(results(), level=1.0)[5] == "consistent"
    assert verdicts(results(mofo=0.97, ultrasam=0.97))[5] == "not reproduced"


def test_what_was_not_run_is_not_tested_and_why() -> None:
    table = results(adaptations=("linear_probe",))
    claims = paper_claims(table, pairs(table), NAMES, 0.95).set_index("claim")
    tuned = claims.filter(like="full fine-tuning", axis=0)
    assert tuned["verdict"].tolist() == ["not tested"] * 2
    assert tuned["reason"].str.contains("no full fine-tuning of usfm in this run").all()
    assert claims["verdict"].tolist()[4] == "not tested"


def test_models_of_another_source_test_nothing() -> None:
    names = PaperNames(NAMES.encoders, NAMES.evaluations, trained_alike=False)
    table = results()
    claims = paper_claims(table, pairs(table), names, 0.95)
    assert set(claims["verdict"]) == {"not tested"}
    assert claims["reason"].str.contains("FETAL_PLANES_DB").all()
    assert paper_numbers(table, names).empty


def test_a_run_that_has_nothing_of_the_study_is_not_compared_with_it() -> None:
    assert paper_claims(results(), pairs(results()), None, 0.95).empty
    assert paper_numbers(results(), None).empty
