"""Who is tested in an evaluation, and what every model says of them, as arrays that line up.

What would make models incomparable is refused here: a model without some cohort, fold, seed or
image; a subject in two test folds; a declared class without an image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.evaluation.counts import predicted_classes
from sonobench.evaluation.inputs import ATTRIBUTES, first, named
from sonobench.evaluation.preflight import lacking
from sonobench.evaluation.probabilities import log_probabilities, probabilities
from sonobench.evaluation.settings import IN_DOMAIN, EvaluationSettings
from sonobench.tables import TableError


@dataclass(frozen=True)
class TrainedModel:
    """One trained model (a fold and seed of an encoder and adaptation) and its test images.

    Attributes:
        fold: fold that it was trained in.
        seed: seed of its training.
        images: positions of its test images in the cohort, ascending, (n,).
        logits: (n, K).
        given: probabilities whose logarithms these are, (n, K), where somebody gives them.
    """

    fold: int
    seed: int
    images: npt.NDArray[np.intp]
    logits: npt.NDArray[np.floating]
    given: npt.NDArray[np.float64] | None = None

    def probabilities(self, allowed: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Of the `allowed` classes, (n, K); 0 for the others."""
        return probabilities(self.logits, allowed, self.given)

    def predicted(self, allowed: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """The most probable of the `allowed` classes, the first of equal ones, (n,)."""
        return predicted_classes(self.logits if self.given is None else self.given, allowed)

    def subset(self, kept: npt.NDArray[np.bool_], images: npt.NDArray[np.intp]) -> "TrainedModel":
        """Its images where `kept`, (n,), at the positions `images` of another cohort."""
        given = None if self.given is None else self.given[kept]
        return replace(self, images=images, logits=self.logits[kept], given=given)


@dataclass(frozen=True)
class Cohort:
    """The images of one evaluation, in order of `image_id`, and the models tested on them.

    Attributes:
        evaluation: `in_domain` or the external dataset's name.
        images: `all`, or `distinct`: one image (the smallest `image_id`) of each set with the
            same `pixel_sha256`. An image without a hash is a set of its own.
        declared: indices of the declared classes, ascending, (D,).
        true: class index of every image, (N,).
        subject: subject of every image, (N,): its index among the sorted subject ids.
        test_set: which test set every image is in, (N,). There is one, except in-domain in
            cross-validation, where every fold has its own.
        strata: stratum of every subject, (S,). External: its site (those without one share a
            stratum, and so do those of the same two or more sites); in-domain: its fold in
            cross-validation, else one stratum for all.
        class_images: images of every class, by subject and test set, (S, T, K).
        models: by encoder and adaptation, sorted: the trained models by fold and seed.
        attributes: site, device, ... of every image, as far as known, N rows.
    """

    evaluation: str
    images: str
    declared: npt.NDArray[np.intp]
    true: npt.NDArray[np.intp]
    subject: npt.NDArray[np.intp]
    test_set: npt.NDArray[np.intp]
    strata: npt.NDArray[np.intp]
    class_images: npt.NDArray[np.int64]
    models: dict[tuple[str, str], list[TrainedModel]]
    attributes: pd.DataFrame

    @property
    def carries(self) -> npt.NDArray[np.bool_]:
        """Which subject has an image of which declared class in which test set, (S, T D)."""
        return (self.class_images[:, :, self.declared] > 0).reshape(len(self.strata), -1)

    def subset(self, kept: npt.NDArray[np.bool_], declared: npt.NDArray[np.intp]) -> "Cohort":
        """The images where `kept`, (N,), which must be of the classes `declared`.

        Subjects without an image there are left out, and every model keeps what it says of the
        others.
        """
        subjects, subject = np.unique(self.subject[kept], return_inverse=True)
        position = np.cumsum(kept) - 1
        models = {
            pair: [
                model.subset(kept[model.images], position[model.images[kept[model.images]]])
                for model in trained
            ]
            for pair, trained in self.models.items()
        }
        true, test_set = self.true[kept], self.test_set[kept]
        return replace(
            self,
            declared=declared,
            true=true,
            subject=subject,
            test_set=test_set,
            strata=np.unique(self.strata[subjects], return_inverse=True)[1],
            class_images=_class_images(subject, test_set, true, self.class_images.shape[1:]),
            models=models,
            attributes=self.attributes[kept].reset_index(drop=True),
        )


def cohorts(
    tested: pd.DataFrame, logits: npt.NDArray[np.floating], settings: EvaluationSettings
) -> Iterator[Cohort]:
    """Yield every evaluation (in-domain, then external as declared), with all and distinct images.

    Args:
        tested: the rows that are evaluated, from `tested_rows`; those of evaluations that the
            settings do not have are passed over.
        logits: their logits, (rows, K).
        settings: classes, cohorts and estimand.

    Raises:
        TableError: the tables or the settings contradict each other, or models cannot be compared;
            the message names the model and the image, subject or class.
    """
    pairs = tested[["encoder", "adaptation"]].drop_duplicates()
    for evaluation in settings.evaluations:
        chosen = (tested["evaluation"] == evaluation).to_numpy()
        rows, row_logits = tested[chosen], logits[chosen]
        _check_same_folds(rows, pairs, evaluation)
        rows = rows.assign(test_set=rows["fold"] if settings.by_fold(evaluation) else 0)
        images = _images(rows, by_site=evaluation != IN_DOMAIN)
        copies = images["pixel_sha256"].notna() & images.duplicated("pixel_sha256")
        every = _cohort(images, rows, row_logits, settings, evaluation, "all")
        yield every
        if copies.any():
            among = rows["image_id"].isin(images.loc[~copies, "image_id"]).to_numpy()
            part = (rows[among], row_logits[among])
            yield _cohort(images[~copies], *part, settings, evaluation, "distinct")
        else:
            yield replace(every, images="distinct")


def _check_same_folds(rows: pd.DataFrame, pairs: pd.DataFrame, evaluation: str) -> None:
    folds = sorted(rows["fold"].unique())
    by_pair = dict(iter(rows.groupby(["encoder", "adaptation"])))
    for encoder, adaptation in pairs.itertuples(index=False):
        own = by_pair.get((encoder, adaptation), rows.iloc[:0])
        seeds = sorted(own["seed"].unique())
        there = set(zip(own["fold"], own["seed"], strict=True))
        missing = [(fold, seed) for fold in folds for seed in seeds if (fold, seed) not in there]
        if own.empty or missing:
            what = f"fold {missing[0][0]}, seed {missing[0][1]}" if missing else "the whole cohort"
            raise TableError(
                f"predictions: encoder {encoder!r}, adaptation {adaptation!r}: nothing on "
                f"{evaluation} for {what}. Means over folds can be compared only if every model "
                "has every fold with every one of its seeds"
            )


def _images(rows: pd.DataFrame, by_site: bool) -> pd.DataFrame:
    """One row an image, sorted by `image_id`, with `stratum` and `test_set`."""
    images = rows.drop_duplicates(["image_id", "test_set"])
    for of in ("image_id", "subject_id"):
        pairs = images.drop_duplicates([of, "test_set"])
        twice = pairs.duplicated(of)
        if twice.any():
            row = first(pairs, twice)
            one, other = pairs.loc[pairs[of] == row[of], "test_set"].to_list()[:2]
            raise TableError(
                f"{of} {row[of]!r} is in two test folds, {one!r} and {other!r}; patients are "
                "resampled within test folds, so each must be in one"
            )
    stratum = _sites(images) if by_site else images["test_set"].astype(str)
    return images.assign(stratum=stratum).sort_values("image_id").reset_index(drop=True)


def _sites(images: pd.DataFrame) -> "pd.Series[str]":
    """All sites of the subject of every image; an image without one adds none."""
    pairs = images[["subject_id", "site"]].dropna().drop_duplicates().sort_values("site")
    of_subject = pairs.groupby("subject_id")["site"].agg("\n".join)
    return images["subject_id"].map(of_subject.to_dict()).astype(object).fillna("")


def _cohort(
    images: pd.DataFrame,
    rows: pd.DataFrame,
    logits: npt.NDArray[np.floating],
    settings: EvaluationSettings,
    evaluation: str,
    images_name: str,
) -> Cohort:
    declared = np.array(
        sorted(settings.classes.index(label) for label in settings.evaluations[evaluation]), np.intp
    )
    true = pd.Index(settings.classes).get_indexer(pd.Index(images["label"]))
    subjects, subject = np.unique(images["subject_id"].to_numpy(dtype=object), return_inverse=True)
    test_sets, test_set = np.unique(images["test_set"].to_numpy(), return_inverse=True)
    strata = np.empty(len(subjects), dtype=np.intp)
    strata[subject] = pd.factorize(images["stratum"], sort=True)[0]
    class_images = _class_images(subject, test_set, true, (len(test_sets), len(settings.classes)))
    if reason := lacking(images["label"], images["test_set"], settings.evaluations[evaluation]):
        raise TableError(f"evaluation {evaluation}: {reason}")
    return Cohort(
        evaluation=evaluation,
        images=images_name,
        declared=declared,
        true=true,
        subject=subject,
        test_set=test_set,
        strata=strata,
        class_images=class_images,
        models=_models(images, rows, logits, settings),
        attributes=images[[name for name in ATTRIBUTES if name in images]],
    )


def _class_images(
    subject: npt.NDArray[np.intp],
    test_set: npt.NDArray[np.intp],
    true: npt.NDArray[np.intp],
    shape: tuple[int, ...],
) -> npt.NDArray[np.int64]:
    counts = np.zeros((subject.max() + 1, *shape), dtype=np.int64)
    np.add.at(counts, (subject, test_set, true), 1)
    return counts


def _models(
    images: pd.DataFrame,
    rows: pd.DataFrame,
    values: npt.NDArray[np.floating],
    settings: EvaluationSettings,
) -> dict[tuple[str, str], list[TrainedModel]]:
    position = pd.Index(images["image_id"]).get_indexer(pd.Index(rows["image_id"]))
    of_test_set = images.groupby("test_set").indices
    models: dict[tuple[str, str], list[TrainedModel]] = {}
    groups = cast(
        dict[tuple[str, str, int, int, int], npt.NDArray[np.intp]],
        rows.groupby(["encoder", "adaptation", "fold", "seed", "test_set"]).indices,
    )
    for (encoder, adaptation, fold, seed, test_set), group in sorted(groups.items()):
        members = group[np.argsort(position[group])]
        missing = np.setdiff1d(of_test_set[test_set], position[members])
        if missing.size:
            image = images["image_id"].iloc[missing[0]]
            row = {**rows.iloc[members[0]].to_dict(), "image_id": image}
            raise TableError(
                f"{named(row)}: no prediction, though another model has one "
                f"({missing.size} such images). All models must be tested on the same images"
            )
        models.setdefault((encoder, adaptation), []).append(
            TrainedModel(
                int(fold), int(seed), position[members], *_outputs(values[members], settings)
            )
        )
    return models


def _outputs(
    values: npt.NDArray[np.floating], settings: EvaluationSettings
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.float64] | None]:
    """Logits, and the probabilities that were given in their place."""
    if settings.outputs != "probabilities":
        return values, None
    given = values.astype(np.float64)
    return log_probabilities(given, settings.zero_probability), given
