"""The published study beside a run: its numbers, its claims, and what a run says of them.

"Benchmarking Ultrasound Foundation Models for Fetal Plane Classification", arXiv 2605.27796v1.
It publishes no variance and does not say how its F1 is averaged, so its numbers lie within or
outside our intervals; nothing here is called significant against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from sonobench.tables import CLAIMS, PAPER, check, empty

PAPER_MODELS = ("usfm", "mofo", "ultrasam", "fetalclip", "resnet50", "efficientnetv2_s", "dinov3")
NATURAL = ("resnet50", "efficientnetv2_s", "dinov3")
COHORTS = {"in_domain": "in-domain", "external": "out-of-domain"}
SETTINGS = {"linear_probe": "linear probing", "full_finetune": "full fine-tuning"}

# Encoder, adaptation, cohort, F1: all that is public, from its abstract. Each is the best of its
# setting and cohort.
PUBLISHED = (
    ("fetalclip", "linear_probe", "in_domain", 0.9261),
    ("fetalclip", "linear_probe", "external", 0.9731),
    ("usfm", "full_finetune", "in_domain", 0.9476),
    ("usfm", "full_finetune", "external", 0.9515),
)


@dataclass(frozen=True)
class PaperNames:
    """What a run calls the study's encoders and cohorts.

    Attributes:
        encoders: the run's label of each of `PAPER_MODELS` that it holds.
        evaluations: the run's evaluation of each of `COHORTS` that it holds.
        trained_alike: whether the run's source is the study's, so that anything can be compared.
    """

    encoders: Mapping[str, str]
    evaluations: Mapping[str, str]
    trained_alike: bool


def paper_numbers(results: pd.DataFrame, names: PaperNames | None) -> pd.DataFrame:
    """Our numbers beside the published ones (`sonobench.tables.PAPER`).

    Of all images and open classes; macro and weighted F1, as the study does not say which is its.
    """
    rows = []
    for model, adaptation, cohort, theirs in PUBLISHED:
        if names is None or not names.trained_alike:
            break
        encoder, evaluation = names.encoders.get(model), names.evaluations.get(cohort)
        ours = _main(results, "results")
        ours = ours[
            (ours["encoder"] == encoder)
            & (ours["adaptation"] == adaptation)
            & (ours["evaluation"] == evaluation)
            & ours["metric"].isin(["macro_f1", "weighted_f1"])
        ]
        for row in ours.to_dict("records"):
            rows.append(
                {
                    "encoder": encoder,
                    "adaptation": adaptation,
                    "evaluation": evaluation,
                    "metric": row["metric"],
                    "ours": row["estimate"],
                    "ci_low": row["ci_low"],
                    "ci_high": row["ci_high"],
                    "theirs": theirs,
                    "difference": row["estimate"] - theirs,
                    "within": bool(row["ci_low"] <= theirs <= row["ci_high"]),
                }
            )
    return check(pd.DataFrame(rows), PAPER) if rows else empty(PAPER)


def paper_claims(
    results: pd.DataFrame,
    comparisons: pd.DataFrame,
    names: PaperNames | None,
    confidence: float,
) -> pd.DataFrame:
    """What a run says of each published claim (`sonobench.tables.CLAIMS`).

    Compared are the study's models alone, by macro F1 of all images in open classes; two differ
    where their p, corrected by Holm over all pairs of the run, is below 1 - confidence.

    - Best: *reproduced* if ranked first, *consistent* if not significantly below the first.
    - Degraded most: *reproduced* if both models are the lowest two in both settings and cohorts,
      *consistent* if no other is significantly below either of them there.
    - Below natural-image models in some cases: *reproduced* if significantly so in some setting and
      cohort, *consistent* if by the estimate.
    - The choice matters: *reproduced* if some models differ significantly in every setting and
      cohort that was run, *consistent* if in one.
    """
    if names is None:
        return empty(CLAIMS)
    run = _Run(results, comparisons, names, 1 - confidence)
    verdicts = [
        (
            f"{SETTINGS[adaptation]}, {COHORTS[cohort]}: {model} is best",
            *_best(run, model, adaptation, cohort),
        )
        for model, adaptation, cohort, _ in PUBLISHED
    ]
    verdicts += [
        ("mofo and ultrasam degrade most in both settings", *_degraded(run)),
        ("mofo or ultrasam are below natural-image models in some cases", *_below_natural(run)),
        ("the choice of pre-trained model strongly affects performance", *_choice(run)),
    ]
    return check(pd.DataFrame(verdicts, columns=CLAIMS.names), CLAIMS)


Verdict = tuple[str, str]
_UNTESTED = "not tested"


class _Run:
    """The study's models in a run: their macro F1, and which differ significantly."""

    def __init__(
        self, results: pd.DataFrame, comparisons: pd.DataFrame, names: PaperNames, level: float
    ) -> None:
        self.names = names
        model_of = {label: model for model, label in names.encoders.items()}
        cohort_of = {evaluation: cohort for cohort, evaluation in names.evaluations.items()}
        self.f1: dict[tuple[str, str], dict[str, float]] = {
            (adaptation, cohort): {} for adaptation in SETTINGS for cohort in COHORTS
        }
        for row in _main(results, "results").query("metric == 'macro_f1'").to_dict("records"):
            place = (row["adaptation"], cohort_of.get(row["evaluation"], ""))
            if row["encoder"] in model_of and place in self.f1:
                self.f1[place][model_of[row["encoder"]]] = float(row["estimate"])
        pairs = _main(comparisons, "comparisons")
        pairs = pairs[(pairs["kind"] == "pair") & (pairs["p_holm"] < level)]
        self._different = {
            (
                row["a_adaptation"],
                cohort_of.get(row["evaluation"], ""),
                frozenset((row["a"], row["b"])),
            )
            for row in pairs.to_dict("records")
        }

    def differ(self, place: tuple[str, str], one: str, other: str) -> bool:
        labels = frozenset((self.names.encoders[one], self.names.encoders[other]))
        return (*place, labels) in self._different

    def missing(self, place: tuple[str, str], models: tuple[str, ...]) -> str | None:
        """Why a claim on `models` cannot be tested at a setting and cohort; None if it can."""
        if not self.names.trained_alike:
            return "the source is not FETAL_PLANES_DB, on which the study trained"
        adaptation, cohort = place
        if cohort not in self.names.evaluations:
            return f"the study's {COHORTS[cohort]} cohort is not in this run"
        absent = [model for model in models if model not in self.f1[place]]
        if absent:
            return f"no {SETTINGS[adaptation]} of {', '.join(absent)} in this run"
        if len(self.f1[place]) < 2:
            return f"no other model of the study has {SETTINGS[adaptation]} in this run"
        return None

    def of_how_many(self, place: tuple[str, str]) -> str:
        return f"among {len(self.f1[place])} of the study's {len(PAPER_MODELS)} models"


def _best(run: _Run, model: str, adaptation: str, cohort: str) -> Verdict:
    place = (adaptation, cohort)
    why = run.missing(place, (model,))
    if why is not None:
        return _UNTESTED, why
    f1 = run.f1[place]
    first = max(f1, key=lambda name: (f1[name], name == model))
    if first == model:
        return "reproduced", f"highest macro F1 ({f1[model]:.4f}) {run.of_how_many(place)}"
    below = f"{f1[model]:.4f} against {f1[first]:.4f} of {first}, {run.of_how_many(place)}"
    if run.differ(place, model, first):
        return "not reproduced", f"significantly below the first: {below}"
    return "consistent", f"not first, but not significantly below it: {below}"


def _degraded(run: _Run) -> Verdict:
    models = ("mofo", "ultrasam")
    for place in run.f1:
        why = run.missing(place, models)
        if why is None and len(run.f1[place]) <= len(models):
            why = f"no other model of the study has {SETTINGS[place[0]]} in this run"
        if why is not None:
            return _UNTESTED, why
    higher = [
        f"{other} ({SETTINGS[place[0]]}, {COHORTS[place[1]]})"
        for place, f1 in run.f1.items()
        for other in f1
        if other not in models and any(f1[other] <= f1[model] for model in models)
    ]
    if not higher:
        return "reproduced", "the two lowest in both settings, in-domain and out-of-domain"
    significant = [
        f"{other} ({SETTINGS[place[0]]}, {COHORTS[place[1]]})"
        for place, f1 in run.f1.items()
        for other in f1
        if other not in models
        and any(f1[other] < f1[model] and run.differ(place, other, model) for model in models)
    ]
    if significant:
        return "not reproduced", f"significantly below one of them: {', '.join(significant)}"
    return "consistent", f"below one of them, though not significantly: {', '.join(higher)}"


def _below_natural(run: _Run) -> Verdict:
    cases = []
    for place, f1 in run.f1.items():
        if run.missing(place, ()) is None:
            for low in ("mofo", "ultrasam"):
                cases += [(place, low, high) for high in NATURAL if low in f1 and high in f1]
    if not cases:
        reasons = [run.missing(place, ("mofo", "resnet50")) for place in run.f1]
        return _UNTESTED, next(why for why in reasons if why is not None)
    below = [case for case in cases if run.f1[case[0]][case[1]] < run.f1[case[0]][case[2]]]
    significant = [case for case in below if run.differ(*case)]
    told = ", ".join(
        f"{low} below {high} ({SETTINGS[place[0]]}, {COHORTS[place[1]]})"
        for place, low, high in significant or below
    )
    if significant:
        return "reproduced", f"significantly: {told}"
    if below:
        return "consistent", f"not significantly: {told}"
    return "not reproduced", "above them wherever both were run"


def _choice(run: _Run) -> Verdict:
    places = [place for place in run.f1 if run.missing(place, ()) is None]
    if not places:
        return _UNTESTED, str(run.missing(next(iter(run.f1)), ()))
    apart = {
        place: any(run.differ(place, a, b) for a in run.f1[place] for b in run.f1[place] if a < b)
        for place in places
    }
    told = "; ".join(
        f"{SETTINGS[adaptation]}, {COHORTS[cohort]}: macro F1 from "
        f"{min(run.f1[adaptation, cohort].values()):.4f} to "
        f"{max(run.f1[adaptation, cohort].values()):.4f}"
        + ("" if apart[adaptation, cohort] else ", no significant difference")
        for adaptation, cohort in places
    )
    if all(apart.values()):
        return "reproduced", told
    return ("consistent" if any(apart.values()) else "not reproduced"), told


def _main(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """All images in open classes; of results the models as they are."""
    rows = table[(table["label_space"] == "open") & (table["images"] == "all")]
    if name == "comparisons":
        return rows
    return rows[
        (rows["aggregate"] == "mean_of_folds")
        & (rows["subgroup"] == "all")
        & (rows["calibration"] == "none")
    ]
