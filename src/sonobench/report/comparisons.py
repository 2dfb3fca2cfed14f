"""Paired comparisons as the report asks them: who can be told apart from whom, and by how much."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd

from sonobench.report.scores import Model


@dataclass(frozen=True)
class Difference:
    """a - b on the same patients, its interval and its p after Holm's correction."""

    a: Model
    b: Model
    evaluation: str
    estimate: float
    low: float
    high: float
    p: float

    @property
    def title(self) -> str:
        """What is subtracted from what."""
        if self.a.encoder == self.b.encoder:
            return f"{self.a.name}: {self.a.training} − {self.b.training}"
        return f"{self.a.name} − {self.b.name}, {self.a.training}"

    def reversed(self) -> "Difference":
        """b - a."""
        return Difference(
            self.b, self.a, self.evaluation, -self.estimate, -self.high, -self.low, self.p
        )


@dataclass(frozen=True)
class Drop:
    """In-domain minus external macro F1 of a model, with its interval."""

    model: Model
    evaluation: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparisons:
    """Macro F1 of all images in the open label space.

    Attributes:
        pairs: encoders of one adaptation.
        adaptations: two adaptations of one encoder.
        drops: in-domain minus external.
        groups: letters of a model in an evaluation; models without a common one differ.
        alpha: a difference is one where p is below it.
    """

    pairs: tuple[Difference, ...]
    adaptations: tuple[Difference, ...]
    drops: tuple[Drop, ...]
    groups: dict[tuple[Model, str], str]
    alpha: float

    @classmethod
    def of(cls, comparisons: pd.DataFrame, confidence: float) -> Self:
        """Take them from the table `sonobench.tables.COMPARISONS`."""
        rows = comparisons[
            (comparisons["label_space"] == "open")
            & (comparisons["images"] == "all")
            & (comparisons["metric"] == "macro_f1")
        ]
        by_kind = {kind: group.to_dict("records") for kind, group in rows.groupby("kind")}

        def model(row: Mapping[Hashable, Any], side: str) -> Model:
            return Model(row[side], row[f"{side}_adaptation"])

        def differences(kind: str) -> tuple[Difference, ...]:
            return tuple(
                Difference(
                    model(row, "a"),
                    model(row, "b"),
                    row["evaluation"],
                    row["estimate"],
                    row["ci_low"],
                    row["ci_high"],
                    row["p"] if math.isnan(row["p_holm"]) else row["p_holm"],
                )
                for row in by_kind.get(kind, [])
            )

        return cls(
            differences("pair"),
            differences("adaptation"),
            tuple(
                Drop(
                    model(row, "a"),
                    row["evaluation"],
                    row["estimate"],
                    row["ci_low"],
                    row["ci_high"],
                )
                for row in by_kind.get("drop", [])
            ),
            {(model(row, "a"), row["evaluation"]): row["group"] for row in by_kind.get("rank", [])},
            1 - confidence,
        )

    def separable(self, one: Model, other: Model, evaluation: str) -> bool | None:
        """Whether two models of one adaptation differ; None where they were not compared."""
        for pair in self.pairs:
            if pair.evaluation == evaluation and {pair.a, pair.b} == {one, other}:
                return pair.p < self.alpha
        return None
