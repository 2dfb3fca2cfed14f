"""Scores within centres, devices and other groups, as the report asks them."""

from dataclasses import dataclass

import pandas as pd

from sonobench.report.scores import MAIN, Model, Score, spaced

_MACRO_F1 = "macro_f1"


@dataclass(frozen=True)
class GroupScore:
    """What a model reaches within a group.

    Attributes:
        model, evaluation: of which.
        attribute, value: the group, such as `device` and `Aloka`.
        measure: macro F1, or of a group of a single class its recall.
        score: the estimate and its interval.
        images, patients: behind the estimate; classes with too few of them are left out.
    """

    model: Model
    evaluation: str
    attribute: str
    value: str
    measure: str
    score: Score
    images: int
    patients: int

    @property
    def group(self) -> str:
        """The group in words."""
        return f"{spaced(self.attribute)} {self.value}"

    @property
    def mark(self) -> str:
        """The sign of an interval that is not to be relied on."""
        return "" if self.score.reliable else "†"


def group_scores(results: pd.DataFrame) -> list[GroupScore]:
    """Of every model and group with an estimate, in the order of the results.

    Args:
        results: the table `sonobench.tables.RESULTS`.
    """
    rows = results[
        (results["aggregate"] == "mean_of_folds")
        & (results["subgroup"] != "all")
        & (results["calibration"] == "none")
        & (results["label_space"] == MAIN.label_space)
        & (results["images"] == MAIN.images)
        & results["estimate"].notna()
        & ((results["metric"] == _MACRO_F1) | results["metric"].str.startswith("recall["))
    ]
    place = ["encoder", "adaptation", "evaluation", "subgroup"]
    with_f1 = pd.MultiIndex.from_frame(rows.loc[rows["metric"] == _MACRO_F1, place])
    # Where a group has macro F1, the recalls of its classes say no more.
    alone = ~pd.MultiIndex.from_frame(rows[place]).isin(with_f1)
    found = []
    for row in rows[(rows["metric"] == _MACRO_F1) | alone].to_dict("records"):
        attribute, value = row["subgroup"].split("=", 1)
        metric = row["metric"]
        found.append(
            GroupScore(
                Model(row["encoder"], row["adaptation"]),
                row["evaluation"],
                attribute,
                value,
                "macro F1" if metric == _MACRO_F1 else f"recall of {metric[len('recall[') : -1]}",
                Score.of(row),
                row["n_images"],
                row["n_patients"],
            )
        )
    return found
