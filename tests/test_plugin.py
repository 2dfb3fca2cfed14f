"""Datasets and encoders of other packages: the example's, found without installing it."""

import importlib
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import sonobench
from sonobench.datasets import Cohort, DatasetError, load_cohort, plugin_loaders
from sonobench.encoders import EncoderError, catalogue
from sonobench.protocol import Dataset

EXAMPLE = Path("examples/sonobench_example_plugin")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip would make of the example's pyproject: a .dist-info with its entry points."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / "sonobench_example_plugin-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1\n"
    )
    lines = []
    for group, names in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.syspath_prepend((EXAMPLE / "src").resolve())
    return info


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "example_hospital"
    for patient in range(6):
        for plane, way in (("brain", (1, 40)), ("femur", (40, 1))):
            file = folder / f"p{patient}" / f"{plane}_1.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            stripes = np.broadcast_to(rng.rayleigh(40, way), (40, 40))
            Image.fromarray(np.clip(stripes, 0, 255).astype(np.uint8)).save(file)
    (folder / "patients.txt").write_text("".join(f"p{patient}\n" for patient in range(6)))
    return folder.parent


@pytest.mark.usefixtures("installed")
def test_both_are_found_by_name() -> None:
    assert "example_hospital" in plugin_loaders()
    assert catalogue()["example_edges"].card.dimension == 128


def test_without_the_package_neither_is_there() -> None:
    assert "example_hospital" not in plugin_loaders()
    assert "example_edges" not in catalogue()


@pytest.mark.usefixtures("installed")
def test_a_benchmark_runs_on_them(hospital: Path, tmp_path: Path) -> None:
    protocol = hospital / "protocol.yaml"
    content = {
        "name": "plugged",
        "source": {"loader": "example_hospital"},
        "classes": ["brain", "femur"],
        "split": {"scheme": "cross_validation", "folds": 2},
        "encoders": ["example_edges", "random:timm:test_vit"],
        "numerics": {"backend": "cpu"},
        "evaluation": {"bootstrap_draws": 100},
    }
    protocol.write_text(yaml.safe_dump(content))
    run = sonobench.run(protocol, tmp_path / "run", workers=1)
    chosen = run.results.query("encoder == 'example_edges' and metric == 'macro_f1'")
    # Stripes along and across: the direction of edges is the class.
    assert chosen["estimate"].iloc[0] == 1


@pytest.mark.usefixtures("installed")
def test_its_errors_are_those_of_a_dataset(hospital: Path) -> None:
    listed = hospital / "example_hospital" / "patients.txt"
    listed.write_text("p0\nnobody\n")
    with pytest.raises(DatasetError, match="row 2: patient 'nobody' has no images"):
        load_cohort(Dataset(loader="example_hospital"), hospital)


def test_an_entry_point_that_is_no_encoder_is_refused(installed: Path) -> None:
    (installed / "entry_points.txt").write_text("[sonobench.encoders]\nmine = json:dumps\n")
    with pytest.raises(EncoderError, match="json:dumps: expected an Architecture"):
        catalogue()


def test_a_loader_that_returns_no_cohort_is_refused(installed: Path, tmp_path: Path) -> None:
    (installed / "entry_points.txt").write_text("[sonobench.datasets]\nmine = os.path:join\n")
    with pytest.raises(DatasetError, match=r"loader 'mine' .* must return a .*Cohort, found"):
        load_cohort(Dataset(loader="mine"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda samples: samples.assign(patient_id=[None, *samples["patient_id"][1:]]),
            "row 1: expected a patient_id of every image, found none of 1; .* 'example_hospital'",
        ),
        (
            lambda samples: samples.drop(columns=["patient_id", "site"]),
            "loader 'example_hospital' must give the columns patient_id, site",
        ),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_loader_that_leaves_patients_out_is_refused_by_name(
    hospital: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    module = importlib.import_module("sonobench_example_plugin.dataset")
    whole = module.load

    def faulty(name: str, folder: Path) -> Cohort:
        cohort: Cohort = whole(name, folder)
        return replace(cohort, samples=change(cohort.samples))

    monkeypatch.setattr(module, "load", faulty)
    with pytest.raises(DatasetError, match=message):
        load_cohort(Dataset(loader="example_hospital"), hospital)
