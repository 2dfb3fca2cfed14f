"""Paired comparisons as the report asks them: who can be told apart from whom, and by how much."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd

from sonobench.report.scores import MAIN, Model, Variant


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
class Standing:
    """Rank of a model among those of its adaptation, and which ranks it may have.

    Attributes:
        model, evaluation: of which.
        rank: 1 is best; equals share the better one.
        low, high: ranks that paired comparisons do not rule out.
        group: letters; models without a common one differ. None with too few patients.
    """

    model: Model
    evaluation: str
    rank: int
    low: int
    high: int
    group: str | None


@dataclass(frozen=True)
class Comparisons:
    """Macro F1 of all images in the open label space, but for `p_values`.

    Attributes:
        pairs: encoders of one adaptation.
        adaptations: two adaptations of one encoder.
        drops: in-domain minus external.
        standings: by evaluation and adaptation, the best first.
        p_values: of macro F1 of every pair of encoders, in every reading of an evaluation.
        alpha: a difference is one where p is below it.
    """

    pairs: tuple[Difference, ...]
    adaptations: tuple[Difference, ...]
    drops: tuple[Drop, ...]
    standings: tuple[Standing, ...]
    p_values: dict[tuple[frozenset[Model], str, Variant], float]
    alpha: float

    @classmethod
    def of(cls, comparisons: pd.DataFrame, confidence: float) -> Self:
        """Take them from the table `sonobench.tables.COMPARISONS`."""
        compared = comparisons[comparisons["metric"] == "macro_f1"]
        rows = compared[
            (compared["label_space"] == MAIN.label_space) & (compared["images"] == MAIN.images)
        ]
        ranked = rows[rows["kind"] == "rank"]
        # Within an evaluation and adaptation, which stay in the order of the table.
        order = ranked.groupby(["evaluation", "a_adaptation"], sort=False).ngroup()
        ranked = ranked.assign(order=order).sort_values(["order", "estimate", "a"])
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
            tuple(
                Standing(
                    model(row, "a"),
                    row["evaluation"],
                    int(row["estimate"]),
                    int(row["ci_low"]),
                    int(row["ci_high"]),
                    row["group"] if isinstance(row["group"], str) else None,
                )
                for row in ranked.to_dict("records")
            ),
            {
                (
                    frozenset([model(row, "a"), model(row, "b")]),
                    row["evaluation"],
                    Variant(row["label_space"], row["images"]),
                ): row["p_holm"]
                for row in compared[compared["kind"] == "pair"].to_dict("records")
            },
            1 - confidence,
        )

    def separable(
        self, one: Model, other: Model, evaluation: str, variant: Variant = MAIN
    ) -> bool | None:
        """Whether two models of one adaptation differ; None where they were not compared."""
        p = self.p_values.get((frozenset([one, other]), evaluation, variant))
        return None if p is None else p < self.alpha

    def group(self, model: Model, evaluation: str) -> str | None:
        """Letters of a model, which those share that cannot be told apart; None without any."""
        found = (s.group for s in self.standings if (s.model, s.evaluation) == (model, evaluation))
        return next(found, None)
