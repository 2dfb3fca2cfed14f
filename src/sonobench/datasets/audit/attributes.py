"""What goes together in the metadata: machines and operators, centres and classes, parts."""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import chi2_contingency, hypergeom

from sonobench.datasets.audit.finding import Finding

ATTRIBUTES = ("site", "device", "operator", "size")
# Fewer patients (or images) of a value say nothing. An association of 0.3 is a medium one (Cohen,
# Statistical Power Analysis for the Behavioral Sciences, 1988, section 7.2). A cohort has some ten
# pairs of attributes: at one in a thousand each, chance is told in one cohort of a hundred.
_FEWEST, _ASSOCIATED, _CHANCE = 10, 0.3, 0.001
# From this ratio of shares on, a value is far rarer in one published part.
_RARER = 5


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

    Counted are patients, as a patient's images have machine and hospital in common. Told is what
    chance does less than once in a thousand.

    Args:
        name: of the cohort.
        frame: its samples, with `size` where the images were read.
    """
    found = []
    attributes = [a for a in _attributes(frame) if frame[a].nunique() > 1]
    for one, other in combinations(["label", *attributes], 2):
        known = frame.dropna(subset=[one, other])
        known = known.drop_duplicates(["patient_id", one, other])
        rows, columns = (known.groupby(a)["patient_id"].nunique() for a in (one, other))
        table = pd.crosstab(known[one], known[other])
        table = table.loc[rows >= _FEWEST, columns >= _FEWEST]
        table = table.loc[table.sum(axis=1) > 0, table.sum() > 0]
        if min(table.shape) < 2:
            continue
        # How many of so many patients with a value, by chance, have no image of another.
        empty = pd.DataFrame(
            hypergeom.pmf(
                0,
                known["patient_id"].nunique(),
                columns[table.columns].to_numpy()[None, :],
                rows[table.index].to_numpy()[:, None],
            ),
            table.index,
            table.columns,
        )
        facts = [
            *_only_with(table, rows, empty, one, other),
            *_only_with(table.T, columns, empty.T, other, one),
        ]
        if one == "label":
            facts += _without(table.T, empty.T, other)
        strength, chance = cramers_v(table.to_numpy())
        if not facts and (strength < _ASSOCIATED or chance >= _CHANCE):
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


def cramers_v(table: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Cramér's V without its bias, and how likely chance alone gives as much (chi-squared test).

    Bergsma, A bias-correction for Cramér's V and Tschuprow's T, Journal of the Korean Statistical
    Society 42 (2013), eq. 4 to 6: of n, phi² = max(0, chi²/n - (r-1)(c-1)/(n-1)) and each number
    of values k becomes k - (k-1)²/(n-1).

    Args:
        table: counts (r, c), without an empty row or column.
    """
    test = chi2_contingency(table, correction=False)
    n, sides = int(table.sum()), np.array(table.shape)
    excess = test.statistic / n - np.prod(sides - 1) / (n - 1)
    fewer = (sides - (sides - 1) ** 2 / (n - 1)).min()
    return math.sqrt(max(0.0, float(excess)) / (float(fewer) - 1)), float(test.pvalue)


def several_sites(name: str, frame: pd.DataFrame) -> list[Finding]:
    """Patients with images of more than one site: numbers that restart in each, as a rule."""
    sites = frame.groupby("patient_id")["site"].nunique()
    several = sorted(sites.index[sites > 1])
    if not several:
        return []
    rows = frame[frame["patient_id"] == several[0]]
    text = (
        f"{len(several)} patients have images of more than one site; first: {several[0]} "
        f"({', '.join(sorted(set(rows['site'].dropna())))}). Where numbers restart in each "
        "hospital, put the hospital into patient_id"
    )
    some = Finding.some(frame.loc[frame["patient_id"].isin(several), "image_id"])
    return [Finding("several_sites", "warning", name, text, len(several), some)]


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


def _only_with(
    table: pd.DataFrame, patients: pd.Series, empty: pd.DataFrame, one: str, other: str
) -> Iterator[str]:
    """Values of `one` whose patients all have the same value of `other`, and not by chance.

    Args:
        table: patients with a value of `one` (rows) and of `other` (columns).
        patients: with each value of `one`.
        empty: how likely each cell is empty by chance.
    """
    counts = patients[table.index].to_list()
    for (value, row), (_, chance), count in zip(
        table.iterrows(), empty.iterrows(), counts, strict=True
    ):
        if (row > 0).sum() == 1 and np.prod(chance[row == 0].to_numpy()) < _CHANCE:
            whole = f"{count:,} patients"
            yield f"{_named(one)} {value} ({whole}) only with {_named(other)} {row.idxmax()}"


def _without(table: pd.DataFrame, empty: pd.DataFrame, attribute: str) -> Iterator[str]:
    """Values of an attribute that lack a class, and not by chance."""
    for (value, row), (_, chance) in zip(table.iterrows(), empty.iterrows(), strict=True):
        lacking = row.index[(row == 0) & (chance < _CHANCE)]
        if 0 < len(lacking) < len(row) - 1:
            yield f"{_named(attribute)} {value} has no {', '.join(map(str, lacking))}"


def _named(attribute: str) -> str:
    return "class" if attribute == "label" else attribute


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}
