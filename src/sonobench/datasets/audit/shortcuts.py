"""What a model could learn in place of anatomy: burned-in graphics, sizes, brightness, names."""

import math
import re
from collections import defaultdict
from typing import Any

import pandas as pd

from sonobench.datasets.audit.finding import Finding

# A few bright shapes occur by chance; two lines of text have many.
_TEXT_MARKS, _COLOURED_SHARE = 3, 0.001
# A class of fewer patients has no share; shares this far apart, by this many standard errors,
# invite a shortcut; rarer is not told.
_FEWEST, _APART, _ERRORS, _RARE = 10, 0.2, 3, 0.05
# A part of a path tells the class if this share of its images has one class, over three patients;
# told is it where this share of all images can be read.
_TELLING, _PATIENTS, _READABLE = 0.95, 3, 0.5
# Brightness that differs by this many of the source's standard deviations is told.
_BRIGHTER = 0.5


def graphics_shares(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Share of images with each kind of burned-in graphics: of all, and of each class."""
    return {
        kind: {
            "all": round(float(has.mean()), 4),
            **{
                str(label): round(float(has[rows.index].mean()), 4)
                for label, rows in frame.groupby("label")
            },
        }
        for kind, has in _graphics(frame).items()
    }


def _graphics(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Whether each image has each kind of burned-in graphics."""
    return {
        "text": frame["text_marks"] >= _TEXT_MARKS,
        "calipers": frame["caliper_marks"] >= 1,
        "colour": frame["coloured_share"] > _COLOURED_SHARE,
    }


def burned_in(name: str, frame: pd.DataFrame) -> list[Finding]:
    """Graphics in the images, with the classes that have most and fewest of them."""
    found = []
    patients = frame.groupby("label")["patient_id"].nunique()
    large = [str(label) for label in patients.index[patients >= _FEWEST]]
    graphics = _graphics(frame)
    for kind, shares in graphics_shares(frame).items():
        of_classes = {label: shares[label] for label in large}
        if shares["all"] < _RARE and max(of_classes.values(), default=0) < _RARE:
            continue
        text = f"burned-in {kind} in about {shares['all']:.0%} of the images"
        apart = False
        if len(of_classes) > 1:
            most, fewest = (
                max(of_classes, key=of_classes.__getitem__),
                min(of_classes, key=of_classes.__getitem__),
            )
            errors = [
                _standard_error(graphics[kind][rows], frame["patient_id"][rows])
                for rows in (frame["label"] == most, frame["label"] == fewest)
            ]
            difference = of_classes[most] - of_classes[fewest]
            apart = difference >= _APART and difference > _ERRORS * math.hypot(*errors)
            text += (
                f", from {of_classes[fewest]:.0%} of {fewest} to {of_classes[most]:.0%} of {most}"
            )
        if apart:
            text += ": a model could learn them in place of anatomy"
        found.append(
            Finding(
                "burned_in",
                "warning" if apart else "info",
                name,
                text,
                round(shares["all"] * len(frame)),
            )
        )
    return found


def _standard_error(has: pd.Series, patient: pd.Series) -> float:
    """Of a share of images whose patients, not the images, are drawn.

    A share is the ratio of two sums over patients; its variance by linearisation (Cochran,
    Sampling Techniques, 3rd ed. 1977, eq. 9A.9): P/(P-1) · sum((m - share · n)²) / sum(n)², where a
    patient has n images, m of them with the mark.

    Args:
        has: whether each image has the mark.
        patient: of each image; two at least.
    """
    of_patient = has.groupby(patient).agg(["sum", "size"])
    rest = of_patient["sum"] - has.mean() * of_patient["size"]
    count = len(of_patient)
    return math.sqrt(count / (count - 1) * float((rest**2).sum())) / len(has)


def path_leak(name: str, frame: pd.DataFrame) -> list[Finding]:
    """Whether the class can be read in the images' paths; models here see pixels only."""
    words = [_words(path.lower()) for path in frame["path"]]
    places = defaultdict(list)
    for place, parts in enumerate(words):
        for word in parts:
            places[word].append(place)
    labels, patients = frame["label"].to_numpy(), frame["patient_id"].to_numpy()
    share = frame["label"].value_counts(normalize=True)
    telling, readable = dict[str, str](), set[int]()
    for word, where in sorted(places.items()):
        if len(set(patients[where])) < _PATIENTS:
            continue
        counts = pd.Series(labels[where]).value_counts()
        label = str(counts.index[0])
        if counts.iloc[0] >= _TELLING * len(where) and share[label] < _TELLING:
            telling[word] = label
            readable.update(where)
    if len(readable) < _READABLE * len(frame):
        return []
    example = max(telling, key=lambda word: len(places[word]))
    return [
        Finding(
            "path_leak",
            "info",
            name,
            f"the class of {len(readable):,} of {len(frame):,} images can be read in their paths "
            f"('{example}' is {telling[example]}); nothing that is trained may see file names",
            len(readable),
            Finding.some(frame["image_id"].iloc[sorted(readable)[:20]]),
        )
    ]


def _words(path: str) -> set[str]:
    """Names with their numbers and spaces, and their letters alone: `brain001` and `brain`."""
    return {*re.findall(r"[a-z0-9]+(?: [a-z0-9]+)*", path), *re.findall(r"[^\W\d_]+", path)}


def looks(frame: pd.DataFrame) -> dict[str, Any]:
    """Sizes and brightness of a set of images."""
    sizes = frame["size"].value_counts()
    return {
        "images": len(frame),
        "sizes": {str(size): int(count) for size, count in sizes.head(10).items()},
        "distinct_sizes": len(sizes),
        "mean_intensity": round(float(frame["mean_intensity"].mean()), 2),
        "mean_intensity_sd": round(float(frame["mean_intensity"].std(ddof=0)), 2),
    }


def size_or_intensity(samples: pd.DataFrame, source: str) -> list[Finding]:
    """How other cohorts differ from the source in size and brightness, and stretched images."""
    found = []
    home = samples[samples["dataset"] == source]
    middle, spread = home["mean_intensity"].mean(), home["mean_intensity"].std(ddof=0)
    squares = samples["width"] == samples["height"]
    for name, frame in samples.groupby("dataset", sort=False):
        difference = frame["mean_intensity"].mean() - middle
        if name != source and abs(difference) > _BRIGHTER * spread:
            found.append(
                Finding(
                    "size_or_intensity",
                    "info",
                    str(name),
                    f"its images are {'brighter' if difference > 0 else 'darker'} than those of "
                    f"{source}: mean grey value {frame['mean_intensity'].mean():.0f} and "
                    f"{middle:.0f}",
                    len(frame),
                )
            )
        if frame["size"].nunique() == 1 and squares[frame.index].all() and not squares.all():
            found.append(
                Finding(
                    "size_or_intensity",
                    "warning",
                    str(name),
                    f"all its images are {frame['size'].iloc[0]} and those of other cohorts are "
                    "not square: if they were stretched, encoders that squash and encoders that "
                    "pad cannot be compared across cohorts",
                    len(frame),
                )
            )
    return found
