"""What the report's pictures need, written into a run's `diagnostics/` from its artefacts."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from sonobench import steps
from sonobench.engine import Store, Task
from sonobench.images import Pack
from sonobench.members import Member
from sonobench.preparation import Data
from sonobench.report import Opinions, pictured_images
from sonobench.tables import PREDICTIONS, csv_text, read_table, replace_file

# Distinct pictures of a report: half of them at most of tested images, the rest of their nearest
# training images, and then of others for the map.
_PICTURES = 1500
_NEIGHBOURS = 3

_logger = logging.getLogger("sonobench")


def write_diagnostics(
    out: Path,
    store: Store,
    data: Data,
    adapted: Mapping[tuple[str, str, int], steps.AdaptedTasks],
    members: Sequence[Member],
    classes: Sequence[str],
    images: bool,
) -> None:
    """Projections, nearest training images, and pictures of the images that are worth a look.

    Args:
        out: the run's folder, which has its predictions.
        store: with the embeddings and the packs of thumbnails.
        data: the cohorts.
        adapted: what was trained on which features, by encoder, adaptation and seed.
        members: the encoders that take part.
        classes: order of the logits.
        images: whether pictures are written; without, ids are all that is seen of an image.
    """
    controls = {m.entry.label for m in members if m.specs and m.specs[0].card.control}
    files = sorted((out / "predictions").glob("*.parquet"))
    chosen = list[str]()
    if files:
        predictions = pd.concat([read_table(f, PREDICTIONS) for f in files], ignore_index=True)
        opinions = Opinions.of(predictions, data.samples, classes)
        chosen = pictured_images(opinions, data.samples, controls, _PICTURES // 2)
    projections, neighbours = [], []
    for label, tasks in _features(adapted, store).items():
        _logger.info("map and nearest images of %s", label)
        stacked = np.concatenate([np.load(store.folder(task) / "features.npy") for task in tasks])
        standard = standardised(stacked)
        projections.append(projection(standard, data.samples).assign(encoder=label))
        nearest = nearest_training_images(standard, data.samples, data.splits, chosen)
        neighbours.append(nearest.assign(encoder=label))
    for name, tables in (("projection", projections), ("neighbours", neighbours)):
        file = out / "diagnostics" / f"{name}.parquet"
        file.unlink(missing_ok=True)
        if tables:
            replace_file(file, pd.concat(tables, ignore_index=True).to_parquet(index=False))
    folder = out / "diagnostics" / "thumbnails"
    shutil.rmtree(folder, ignore_errors=True)
    if images:
        write_thumbnails(folder, store, data, wanted_pictures(chosen, neighbours, data.samples))


def _features(
    adapted: Mapping[tuple[str, str, int], steps.AdaptedTasks], store: Store
) -> dict[str, Sequence[Task]]:
    """Embedding tasks of every encoder whose probes have them all; of the first seed."""
    found: dict[str, Sequence[Task]] = {}
    for (encoder, _, _), tasks in adapted.items():
        if tasks.features and all(map(store.has, tasks.features)):
            found.setdefault(encoder, tasks.features)
    return found


def standardised(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Features (N, D) with mean 0 and deviation 1 each; a constant one becomes 0."""
    centred = features - features.mean(0, dtype=np.float64).astype(np.float32)
    deviation = centred.std(0, dtype=np.float64).astype(np.float32)
    standard: npt.NDArray[np.float32] = centred / np.where(deviation > 0, deviation, np.float32(1))
    return standard


def projection(features: npt.NDArray[np.float32], samples: pd.DataFrame) -> pd.DataFrame:
    """The first two principal components of features (N, D) that are centred.

    The sign of a component is free; it is fixed so that the largest loading is positive.

    Returns:
        `image_id, x, y, explained`: places, and the share of the variance that both hold.
    """
    wide = features.astype(np.float64)
    values, vectors = np.linalg.eigh(wide.T @ wide)
    first = vectors[:, :-3:-1]
    largest = np.abs(first).argmax(0)
    first = first * np.sign(first[largest, range(first.shape[1])])
    places = wide @ first
    if places.shape[1] == 1:  # an encoder of a single feature
        places = np.column_stack([places, np.zeros(len(places))])
    explained = values[-2:].sum() / max(values.sum(), np.finfo(float).tiny)
    return pd.DataFrame(
        {
            "image_id": samples["image_id"].to_numpy(),
            "x": places[:, 0].astype(np.float32),
            "y": places[:, 1].astype(np.float32),
            "explained": float(explained),
        }
    )


def nearest_training_images(
    features: npt.NDArray[np.float32],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    image_ids: Sequence[str],
) -> pd.DataFrame:
    """Training images nearest to tested ones, by cosine similarity of standardised features.

    A candidate was trained on in a fold in which the image is tested, so it is never of the same
    subject.

    Returns:
        `image_id, rank, neighbour, similarity`, rank from 1.
    """
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.where(norms > 0, norms, 1)
    position = pd.Series(np.arange(len(samples)), index=samples["image_id"])
    tested = splits[splits["role"].isin(["test", "external"]) & splits["image_id"].isin(image_ids)]
    folds = tested.sort_values("fold").groupby("image_id")["fold"].agg(tuple)
    parts = []
    for of_folds, group in folds.groupby(folds):
        trained = splits[splits["fold"].isin(of_folds) & (splits["role"] == "train")]
        candidates = np.sort(position[trained["image_id"].unique()].to_numpy())
        similarity = directions[position[group.index].to_numpy()] @ directions[candidates].T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEIGHBOURS]
        count = order.shape[1]
        parts.append(
            pd.DataFrame(
                {
                    "image_id": np.repeat(group.index.to_numpy(), count),
                    "rank": np.tile(np.arange(1, count + 1), len(group)),
                    "neighbour": samples["image_id"].to_numpy()[candidates[order.ravel()]],
                    "similarity": np.take_along_axis(similarity, order, 1).ravel(),
                }
            )
        )
    columns = ["image_id", "rank", "neighbour", "similarity"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def wanted_pictures(
    chosen: Sequence[str], neighbours: Sequence[pd.DataFrame], samples: pd.DataFrame
) -> list[str]:
    """Image ids with a picture: the chosen, their nearest training images, then others evenly."""
    order = {image_id: place for place, image_id in enumerate(chosen)}
    near = pd.concat([*neighbours, pd.DataFrame(columns=["image_id", "rank", "neighbour"])])
    # Every image's nearest one of every encoder first, then the second ones …
    near = near.assign(place=near["image_id"].map(order)).sort_values(
        ["rank", "place"], kind="stable"
    )
    wanted = list(dict.fromkeys([*chosen, *near["neighbour"]]))[:_PICTURES]
    others = samples.loc[~samples["image_id"].isin(wanted), "image_id"].to_numpy()
    room = min(_PICTURES - len(wanted), len(others))
    if room:
        wanted += list(others[np.linspace(0, len(others) - 1, room).astype(int)])
    return wanted


def write_thumbnails(folder: Path, store: Store, data: Data, image_ids: Sequence[str]) -> None:
    """Pictures of the images, 96 pixels wide, and `index.csv` with their files in order."""
    samples = data.samples
    place = pd.Series(np.concatenate(list(data.positions.values())))
    place.index = samples["image_id"]
    dataset = samples.set_index("image_id")["dataset"]
    packs = {
        name: Pack(store.folder(steps.pack_task(files.hashes, steps.THUMBNAIL)), steps.THUMBNAIL)
        for name, files in data.files.items()
    }
    folder.mkdir(parents=True)
    rows = []
    for image_id in image_ids:
        square = packs[dataset[image_id]].batch(np.array([place[image_id]]))[0]
        picture = Image.fromarray(square[0] if len(square) == 1 else square.transpose(1, 2, 0))
        file = f"{steps.digest([image_id])[:16]}.webp"
        picture.save(folder / file, quality=80, method=6)
        rows.append({"image_id": image_id, "file": file})
    index = pd.DataFrame(rows, columns=["image_id", "file"])
    replace_file(folder / "index.csv", csv_text(index).encode())
