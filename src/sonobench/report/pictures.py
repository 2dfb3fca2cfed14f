"""Images of the page as data for its script: what is known of each, and its picture once."""

import base64
from typing import Any

import numpy as np
import pandas as pd

from sonobench.report.cases import Opinions, example_images, pictured_images, worth_seeing
from sonobench.report.charts.map import COLOURED_BY, map_points
from sonobench.report.run_folder import RunFolder

# Images of the page where pictures were left out.
_WITHOUT_PICTURES = 400


def case_images(run: RunFolder, opinions: Opinions) -> list[str]:
    """Images that can be looked at: those with a picture, else those that should have one."""
    if run.thumbnails:
        return list(run.thumbnails)
    return pictured_images(opinions, run.samples, run.controls, _WITHOUT_PICTURES)


def cases(run: RunFolder, opinions: Opinions) -> dict[str, Any]:
    """Every image that can be looked at, every model's opinion of it, and its neighbours.

    Numbers stand in flat lists, to keep the page small: probabilities in percent and votes of
    model m for class k of a tested image at place m * K + k. What a model predicts is sent too,
    since percentages may be equal where probabilities are not.
    """
    ids = case_images(run, opinions)
    near = run.neighbours
    if near is not None:
        near = near[near["image_id"].isin(ids)]
        ids = list(dict.fromkeys([*ids, *near["neighbour"]]))
    place = {image_id: position for position, image_id in enumerate(ids)}
    tested = {image_id: position for position, image_id in enumerate(opinions.image_ids)}
    rows = run.samples.set_index("image_id").loc[ids]
    datasets = [dataset.name for dataset in (run.protocol.source, *run.protocol.external)]
    predicted = opinions.probabilities.argmax(2)
    percents = np.rint(100 * opinions.probabilities).astype(int)
    lists = worth_seeing(opinions, run.controls)

    def placed(positions: list[int]) -> list[int]:
        found = (place.get(opinions.image_ids[position]) for position in positions)
        return [position for position in found if position is not None]

    opinion = {
        str(place[image_id]): {
            "predicted": predicted[:, position].tolist(),
            "percent": percents[:, position].ravel().tolist(),
            "votes": opinions.votes[:, position].ravel().tolist(),
        }
        for image_id, position in tested.items()
        if image_id in place
    }
    return {
        "classes": list(run.protocol.classes),
        "datasets": datasets,
        "models": [
            {"title": model.title, "control": run.is_control(*model)} for model in opinions.models
        ],
        "id": ids,
        "label": pd.Index(run.protocol.classes).get_indexer(pd.Index(rows["label"])).tolist(),
        "dataset": pd.Index(datasets).get_indexer(pd.Index(rows["dataset"])).tolist(),
        "patient": rows["patient_id"].tolist(),
        "site": rows["site"].fillna("").tolist(),
        "device": rows["device"].fillna("").tolist(),
        "opinion": opinion,
        "near": {} if near is None else _near(near, place),
        "wrongByAll": placed(lists.wrong_by_all),
        "nWrongByAll": lists.n_wrong_by_all,
        "disagreed": placed(lists.disagreed),
        "confident": {
            model.title: placed(errors) for model, errors in lists.confident_errors.items()
        },
        "examples": [place[i] for i in example_images(run.samples) if i in place],
    }


def thumbnails(run: RunFolder) -> list[str]:
    """Pictures in base 64, in the order of the cases."""
    return [base64.b64encode(file.read_bytes()).decode() for file in run.thumbnails.values()]


def _near(near: pd.DataFrame, place: dict[str, int]) -> dict[str, dict[str, list[int]]]:
    """By encoder and image: place and similarity in percent of each neighbour, nearest first."""
    ordered = near.sort_values(["encoder", "image_id", "rank"])
    found: dict[str, dict[str, list[int]]] = {}
    for encoder, image_id, neighbour, similarity in zip(
        ordered["encoder"],
        ordered["image_id"],
        ordered["neighbour"],
        np.rint(100 * ordered["similarity"].astype(float)).astype(int).tolist(),
        strict=True,
    ):
        pairs = found.setdefault(encoder, {}).setdefault(str(place[image_id]), [])
        pairs += [place[neighbour], similarity]
    return found


def map_data(run: RunFolder, ids: list[str]) -> dict[str, Any]:
    """Points of the embedding maps: what colours them, their case, and places in thousandths."""
    points = map_points(run)
    if run.projection is None or points.empty:
        return {}
    place = {image_id: position for position, image_id in enumerate(ids)}
    colours: dict[str, Any] = {}
    for name in COLOURED_BY:
        values = list(run.protocol.classes) if name == "label" else sorted(set(points[name]))
        if len(values) > 1:
            codes = pd.Index(values).get_indexer(pd.Index(points[name])).tolist()
            colours[name] = {"values": values, "of": codes}
    order = [entry.label for entry in run.protocol.encoders]
    places: dict[str, list[int]] = {}
    groups = dict(iter(run.projection.groupby("encoder")))
    for encoder in sorted(groups, key=lambda e: order.index(str(e)) if e in order else len(order)):
        xy = groups[encoder].set_index("image_id").loc[points["image_id"], ["x", "y"]].to_numpy()
        # One scale for both components, so that distances are comparable in both directions.
        extent = float(np.abs(xy).max()) or 1.0
        places[str(encoder)] = np.rint(1000 * xy / extent).astype(int).ravel().tolist()
    return {
        "id": points["image_id"].tolist(),
        "case": [place.get(image_id, -1) for image_id in points["image_id"]],
        "colours": colours,
        "places": places,
    }
