"""Tiny real hospitals: folders of real PNG files with manifests, and a benchmark on them."""

import os

# One thread a process, before numpy and torch are loaded: beside other work on the same cores,
# threads that wait for each other take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Read when the hub's client is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import signal
from pathlib import Path

import pytest
import torch
import yaml
from hospitals import CLASSES, WriteProtocol, write_hospital
from hypothesis import HealthCheck, settings

# A shell has what it starts in the background ignore Ctrl-C, and what that starts as well.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test depends on how fast a machine is.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = {}
    if "SONOBENCH_DATA" not in os.environ:
        absent["realdata"] = "SONOBENCH_DATA does not name a folder with real images"
    if not torch.cuda.is_available():
        absent["gpu"] = "there is no CUDA device"
    for item in items:
        for marker, reason in absent.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Nothing of the user's environment reaches a test, but for the real images."""
    if "realdata" not in request.keywords:
        monkeypatch.delenv("SONOBENCH_DATA", raising=False)
    monkeypatch.delenv("SONOBENCH_STORE", raising=False)


@pytest.fixture
def real_data() -> Path:
    return Path(os.environ["SONOBENCH_DATA"])


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """A data root with `home` (10 patients, published split) and `abroad` (two sites)."""
    root = tmp_path / "data"
    write_hospital(root / "home", patients=10)
    write_hospital(
        root / "abroad",
        patients=6,
        classes=CLASSES[:2],
        sites=("east", "west"),
        published_split=False,
        seed=1,
    )
    return root


@pytest.fixture
def write_protocol(hospitals: Path) -> WriteProtocol:
    """Writes a protocol over both hospitals into the data root; keywords replace its sections."""

    def write(**sections: object) -> Path:
        content = {
            "name": "tiny",
            "source": {"loader": "manifest", "name": "home", "path": "home/manifest.csv"},
            "external": [{"loader": "manifest", "name": "abroad", "path": "abroad/manifest.csv"}],
            "classes": list(CLASSES),
            "split": {"folds": 2},
            "encoders": ["pixel_stats"],
            "numerics": {"backend": "cpu"},
            "evaluation": {"bootstrap_draws": 200},
        } | sections
        file = hospitals / "protocol.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write
