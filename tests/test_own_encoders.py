"""A new person's own encoder, features and data: what each of them asks for, and what it gets."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hospitals import CLASSES, WriteProtocol, edit, macro_f1, refused, run_tiny

from sonobench.encoders import EncoderError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_timm_encoder_is_one_line(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    import timm  # noqa: PLC0415

    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), hospitals / "mine.pth")
    protocol = write_protocol(encoders=[{"name": "timm:test_vit", "checkpoint": "mine.pth"}])
    run = run_tiny(protocol, out)
    assert macro_f1(run, encoder="timm:test_vit", evaluation="in_domain") > 0
    certificate = json.loads(
        (out / "diagnostics" / "certificates" / "timm_test_vit.json").read_text()
    )
    assert certificate["random_looking"]
    table = (out / "tables" / "main.md").read_text()
    (row,) = (line for line in table.splitlines() if line.startswith(r"| timm:test\_vit"))
    assert "‡" in row
    assert "‡ the weights look random" in table


def test_strict_admission_refuses_weights_that_look_random(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    import timm  # noqa: PLC0415

    torch.save(timm.create_model("test_vit").state_dict(), hospitals / "mine.pth")
    encoders = [{"name": "timm:test_vit", "checkpoint": "mine.pth"}]
    run = run_tiny(write_protocol(encoders=encoders, admission="strict"), out)
    errors = {failure.job: failure.error for failure in run.failures}
    assert "its weights look random" in errors["admit timm:test_vit"]
    # Its random twin is a control, and controls are exempt.
    assert set(run.results["encoder"]) == {"none", "pixel_stats", "random:timm:test_vit"}


FACTORY = """
import torch
from torch import nn
from sonobench.encoders import EncoderCard, Preprocess
from sonobench.images import Geometry

def build():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return network, EncoderCard("mine", Preprocess(Geometry("squash", 64)), dimension=128)
"""


def test_an_own_network_is_a_python_factory(
    write_protocol: WriteProtocol, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_encoder.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    run = run_tiny(write_protocol(encoders=[{"python": "my_encoder:build"}]), out)
    assert macro_f1(run, encoder="my_encoder:build", evaluation="in_domain") > 0.5


@pytest.mark.parametrize("factory", ["nowhere:build", "my_encoder:absent", "json:dumps"])
def test_a_factory_that_does_not_work_is_refused(
    write_protocol: WriteProtocol, out: Path, factory: str
) -> None:
    refused(write_protocol(encoders=[{"python": factory}]), out, EncoderError, "python: ")


def test_features_computed_elsewhere_are_one_file(
    write_protocol: WriteProtocol, hospitals: Path, out: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"image_id": f"{cohort}/{path}", "features": rng.standard_normal(6) + 3 * np.eye(6)[n]}
        for cohort in ("home", "abroad")
        for path, n in zip(
            edit(hospitals, cohort)["path"],
            pd.Index(CLASSES).get_indexer(edit(hospitals, cohort)["label"]),
            strict=True,
        )
    ]
    # In an order of their own: they are found by image_id.
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_parquet(hospitals / "mine.parquet")
    protocol = write_protocol(encoders=[{"embeddings": "mine.parquet", "label": "mine"}])
    run = run_tiny(protocol, out)
    assert macro_f1(run, encoder="mine", evaluation="in_domain") > 0.8
    encoders = json.loads((out / "manifest.json").read_text())["encoders"]
    assert [e["verified"] for e in encoders if e["label"] == "mine"] == [False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[1:], r"no features for 1 of 42 images; first: 'home/images/"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "stands there twice"),
        (lambda t: t.drop(columns="features"), "expected Parquet with the columns image_id and"),
        (lambda t: t.assign(features=[np.full(2, np.nan)] * len(t)), "are not finite"),
        (lambda t: t.assign(features=[np.full(2, 1e300)] * len(t)), "are not finite"),
        (lambda t: t.assign(features=1.5), "'home/images/.*a list of numbers, found 1.5"),
        (lambda t: t.assign(features=[None, *t["features"][1:]]), "list of numbers, found None"),
        (lambda t: t.assign(features=[["x", "y"]] * len(t)), "a list of numbers, found object"),
        (lambda t: t.assign(features=[[], *t["features"][1:]]), r"a list of numbers, found .*\(0,"),
        (
            lambda t: t.assign(features=[np.ones(3), *t["features"][1:]]),
            "most have 2 numbers, those of 'home/images/.*' 3",
        ),
    ],
)
def test_features_that_do_not_fit_fail_alone(  # type: ignore[no-untyped-def]
    write_protocol: WriteProtocol, hospitals: Path, out: Path, change, message: str
) -> None:
    ids = [f"{c}/{path}" for c in ("home", "abroad") for path in edit(hospitals, c)["path"]]
    table = pd.DataFrame({"image_id": ids, "features": [np.ones(2)] * len(ids)})
    change(table).to_parquet(hospitals / "mine.parquet")
    protocol = write_protocol(encoders=[{"embeddings": "mine.parquet", "label": "mine"}])
    run = run_tiny(protocol, out)
    assert re.search(message, run.failures[0].error)
    # The others are in the table all the same.
    assert set(run.results["encoder"]) == {"none", "pixel_stats"}
