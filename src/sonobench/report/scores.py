"""The long table of results as the report asks it: one score at a time, models in order."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import pandas as pd

from sonobench.evaluation import IN_DOMAIN

TRAININGS = {
    "linear_probe": "linear probe",
    "full_finetune": "full fine-tuning",
    "lora": "LoRA",
    "head_only": "head only",
}


class Model(NamedTuple):
    """An encoder and what was trained on top of it."""

    encoder: str
    adaptation: str

    @property
    def name(self) -> str:
        """As people call it."""
        return "majority class" if self.adaptation == "majority_class" else self.encoder

    @property
    def training(self) -> str:
        """How it was adapted, in words."""
        return "no encoder" if self.adaptation == "majority_class" else TRAININGS[self.adaptation]

    @property
    def title(self) -> str:
        """Name and training, for a heading or a choice."""
        control = self.adaptation == "majority_class"
        return self.name if control else f"{self.name}, {self.training}"


class Variant(NamedTuple):
    """One way to read an evaluation: which classes may be predicted, which images count."""

    label_space: str
    images: str


MAIN = Variant("open", "all")


@dataclass(frozen=True)
class Score:
    """An estimate, its interval and its deviations; NaN where there is none."""

    estimate: float
    low: float
    high: float
    fold_sd: float
    seed_sd: float
    reliable: bool

    @classmethod
    def of(cls, row: Mapping[Hashable, Any]) -> Self:
        """Of a row of the table `sonobench.tables.RESULTS`."""
        return cls(
            row["estimate"],
            row["ci_low"],
            row["ci_high"],
            row["fold_sd"],
            row["seed_sd"],
            row["reliable"],
        )

    def overlaps(self, other: "Score") -> bool:
        """Whether the two intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Scores:
    """Results over all images of an evaluation, as they are (no subgroup, no calibration).

    Attributes:
        models: by descending macro F1 in the first evaluation.
        evaluations: in-domain first, then external as declared, without those left out.
        of: a score of a model, evaluation, variant and metric.
        sizes: images and patients of an evaluation and variant.
    """

    models: tuple[Model, ...]
    evaluations: tuple[str, ...]
    of: dict[tuple[Model, str, Variant, str], Score]
    sizes: dict[tuple[str, Variant], tuple[int, int]]

    def get(self, model: Model, evaluation: str, variant: Variant, metric: str) -> Score:
        """A score; of NaN where the metric is not defined, as AUROC is not of one class."""
        absent = Score(math.nan, math.nan, math.nan, math.nan, math.nan, reliable=True)
        return self.of.get((model, evaluation, variant, metric), absent)

    @classmethod
    def from_results(cls, results: pd.DataFrame) -> Self:
        """Take them from the table `sonobench.tables.RESULTS`."""
        whole = results[
            (results["aggregate"] == "mean_of_folds")
            & (results["subgroup"] == "all")
            & (results["calibration"] == "none")
        ]
        of: dict[tuple[Model, str, Variant, str], Score] = {}
        sizes: dict[tuple[str, Variant], tuple[int, int]] = {}
        for row in whole.to_dict("records"):
            variant = Variant(row["label_space"], row["images"])
            model, where = Model(row["encoder"], row["adaptation"]), row["evaluation"]
            of[model, where, variant, row["metric"]] = Score.of(row)
            sizes[where, variant] = (row["n_images"], row["n_patients"])
        evaluations = tuple(dict.fromkeys(evaluation for evaluation, _ in sizes))
        models = sorted(
            {model for model, *_ in of},
            key=lambda model: (-of[model, evaluations[0], MAIN, "macro_f1"].estimate, model),
        )
        return cls(
            tuple(models),
            evaluations,
            of,
            sizes,
        )

    @property
    def external(self) -> tuple[str, ...]:
        """External evaluations beside an in-domain one, from which a drop can be told."""
        return self.evaluations[1:] if self.evaluations[0] == IN_DOMAIN else ()

    def variants(self, evaluation: str) -> list[Variant]:
        """The readings of an evaluation that differ from one another, the main one first."""
        spaces = ["open"] if self.label_spaces_agree(evaluation) else ["open", "closed"]
        alike = self.sizes[evaluation, MAIN] == self.sizes[evaluation, Variant("open", "distinct")]
        kinds = ["all"] if alike else ["all", "distinct"]
        return [Variant(space, images) for images in kinds for space in spaces]

    def label_spaces_agree(self, evaluation: str) -> bool:
        """Whether open and closed label space give the same numbers for all models."""
        return all(
            _same(score.estimate, closed.estimate)
            for (model, where, (space, images), metric), score in self.of.items()
            if where == evaluation
            and space == "open"
            and (closed := self.of.get((model, where, Variant("closed", images), metric)))
        )

    def macro_f1(self, model: Model, evaluation: str) -> Score:
        """Of all images, in the open label space."""
        return self.get(model, evaluation, MAIN, "macro_f1")


def spaced(name: str) -> str:
    """A name of the tables in words."""
    return name.replace("_", " ")


def evaluation_title(evaluation: str) -> str:
    """An evaluation as people call it."""
    return "in-domain" if evaluation == IN_DOMAIN else evaluation


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
