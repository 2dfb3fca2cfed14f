"""What goes together in the metadata: machines and operators, centres and classes, parts."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats.contingency import association

from sonobench.datasets.audit.finding import Finding

ATTRIBUTES = ("site", "device", "operator", "size")
# Fewer images of a value say nothing; from this association on (Cramér's V) two attributes can
# hardly be told apart; from this ratio of shares on a value is far rarer in one published part.
_FEWEST, _ASSOCIATED, _RARER = 10, 0.3, 5


def attribute_counts(frame: pd.DataFrame) -> dict[str, Any]:
    """Images of each value of each attribute, by published part where there is one."""
    part = frame["official_split"].fillna("none")
    return {
        name: {
            str(value): {"images": len(rows), **_counts(part[rows.index])}
            for value, rows in frame.groupby(name)
        }
        for name in _attributes(frame)
    }


def confounding(name: str, frame: pd.DataFrame) -> list[Finding]:
    """Pairs of attributes, and of attribute and class, of which one tells the other.

    Args:
        name: of the cohort.
        frame: its samples, with `size` where the images were read.
    """
    found = []
    attributes = [a for a in _attributes(frame) if frame[a].nunique() > 1]
    for one, other in combinations(["label", *attributes], 2):
        table = pd.crosstab(frame[one], frame[other])
        table = table.loc[table.sum(axis=1) >= _FEWEST, table.sum() >= _FEWEST]
        if min(table.shape) < 2:
            continue
        strength = float(association(table.to_numpy(), method="cramer"))
        facts = [*_only_with(table, one, other), *_only_with(table.T, other, one)]
        if one == "label":
            facts += _without(table.T, other)
        if not facts and strength < _ASSOCIATED:
            continue
        told = "; ".join(facts[:6]) + (f"; and {len(facts) - 6} more" if len(facts) > 6 else "")
        found.append(
            Finding(
                "confounding",
                "warning",
                name,
                f"{_named(one)} and {_named(other)} go together (Cramér's V {strength:.2f})"
                + (f": {told}" if facts else "")
                + ". A difference between values of one is not to be called an effect of it",
                len(facts),
            )
        )
    return found


def imbalance(name: str, frame: pd.DataFrame) -> list[Finding]:
    """Values that are far rarer in one part of the published split, and rare classes."""
    found = []
    known = frame[frame["official_split"].isin(["train", "test"])]
    if known["official_split"].nunique() == 2:
        for attribute in ("label", *_attributes(frame)):
            table = pd.crosstab(known[attribute], known["official_split"])
            shares = (table + 0.5) / table.sum()
            ratio = np.exp(np.abs(np.log(shares["train"] / shares["test"])))
            for value in table.index[(ratio >= _RARER) & (table.sum(axis=1) >= 2 * _FEWEST)]:
                train, test = (int(table.loc[value, part]) for part in ("train", "test"))
                found.append(
                    Finding(
                        "imbalance",
                        "warning",
                        name,
                        f"{_named(attribute)} {value}: {train:,} training images and {test:,} "
                        "test images",
                        min(train, test),
                    )
                )
    classes = frame["label"].value_counts()
    if len(classes) > 1 and classes.iloc[0] >= _RARER * classes.iloc[-1]:
        found.append(
            Finding(
                "imbalance",
                "info",
                name,
                f"{classes.index[0]} has {classes.iloc[0]:,} images, {classes.index[-1]} "
                f"{classes.iloc[-1]:,}",
                int(classes.iloc[-1]),
            )
        )
    return found


def _attributes(frame: pd.DataFrame) -> list[str]:
    return [name for name in ATTRIBUTES if name in frame and frame[name].notna().any()]


def _only_with(table: pd.DataFrame, one: str, other: str) -> Iterator[str]:
    """Values of `one` whose images all have the same value of `other`."""
    for value, row in table.iterrows():
        if (row > 0).sum() == 1:
            images = f"{int(row.sum()):,} images"
            yield f"{_named(one)} {value} ({images}) only with {_named(other)} {row.idxmax()}"


def _without(table: pd.DataFrame, attribute: str) -> Iterator[str]:
    """Values of an attribute that lack a class."""
    for value, row in table.iterrows():
        lacking = row.index[row == 0]
        if 0 < len(lacking) < len(row) - 1:
            yield f"{_named(attribute)} {value} has no {', '.join(map(str, lacking))}"


def _named(attribute: str) -> str:
    return "class" if attribute == "label" else attribute


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}
