"""An encoder's identity: another computation is another encoder, the same one is the same."""

import importlib
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sonobench.encoders import (
    Architecture,
    CheckpointError,
    EncoderCard,
    EncoderError,
    Preprocess,
    open_encoder,
    registry,
    resolve,
)
from sonobench.images import Geometry
from sonobench.protocol import EncoderEntry

MODULE = """
import torch
from torch import nn
from sonobench.encoders import EncoderCard, Preprocess
from sonobench.images import Geometry
import helper_of_factory

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 5, 4)

    def forward(self, images):
        return helper_of_factory.pool(self.backbone(images).relu())

def build():
    SEED
    return Pooled(), EncoderCard("mine", Preprocess(Geometry("squash", 32)), dimension=8)
"""
AVERAGE, LARGEST = (f"def pool(maps): return maps.{what}((2, 3))" for what in ("mean", "amax"))

Identity = Callable[..., dict[str, Any]]


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Identity:
    """The identity of a factory whose module and helper are these."""
    monkeypatch.syspath_prepend(tmp_path)

    def of(helper: str, seed: str = "torch.manual_seed(0)", entry: str = "build") -> dict[str, Any]:
        (tmp_path / "helper_of_factory.py").write_text(helper)
        (tmp_path / "factory_of_test.py").write_text(MODULE.replace("SEED", seed))
        for name in ("helper_of_factory", "factory_of_test"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return resolve(EncoderEntry(python=f"factory_of_test:{entry}"), 0, tmp_path).identity

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return of


def test_a_helper_in_another_file_changes_a_factorys_identity(identity: Identity) -> None:
    average, largest = identity(AVERAGE), identity(LARGEST)
    assert average["weights"]["state_sha256"] == largest["weights"]["state_sha256"]
    assert average != largest
    assert identity(AVERAGE) == average


def test_what_changes_nothing_that_is_computed_changes_no_identity(identity: Identity) -> None:
    assert identity(AVERAGE) == identity(f"# said differently\n\n{AVERAGE}")


def test_a_factory_that_draws_other_weights_each_time_is_refused(
    identity: Identity, tmp_path: Path
) -> None:
    identity(AVERAGE, seed="pass")
    spec = resolve(EncoderEntry(python="factory_of_test:build"), 0, tmp_path)
    with pytest.raises(EncoderError, match=r"gives other weights than when the run began.*seed"):
        open_encoder(spec, "cpu")


def test_another_version_of_a_library_is_another_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EncoderEntry(name="random:timm:test_vit")
    before = resolve(entry, 0, Path()).identity
    assert before == resolve(entry, 0, Path()).identity
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9" if name == "timm" else version(name))
    assert resolve(entry, 0, Path()).identity != before


class _Plugin(nn.Module):
    def __init__(self, power: float) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 5, 4)
        self.power = power

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = (self.backbone(images).relu() ** self.power).mean((2, 3))
        return pooled


def test_an_installed_plugin_that_computes_something_else_is_another_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = EncoderCard("brought", Preprocess(Geometry("squash", 32)), dimension=8)

    def identity_of(power: float) -> dict[str, Any]:
        made = Architecture(card, lambda: _Plugin(power), key_map=lambda key: key)
        monkeypatch.setattr(registry, "_brought", lambda own: {"brought": made})
        return resolve(EncoderEntry(name="random:brought"), 0, Path()).identity

    assert identity_of(1.0) == identity_of(1.0)
    assert identity_of(1.0) != identity_of(2.0)


def test_a_checkpoint_that_changed_after_it_was_named_is_refused(tmp_path: Path) -> None:
    import timm  # noqa: PLC0415

    network = timm.create_model("test_vit")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    spec = resolve(EncoderEntry(name="timm:test_vit", checkpoint="w.pth"), 0, tmp_path)
    open_encoder(spec, "cpu")
    changed = {name: value + 1 for name, value in network.state_dict().items()}
    torch.save(changed, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth has changed since the run began"):
        open_encoder(spec, "cpu")
