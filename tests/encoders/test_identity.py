"""An encoder's identity: another computation is another encoder, the same one is the same."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
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
from sonobench.encoders.computed import features_sha256
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


@pytest.mark.parametrize(
    "same",
    [
        f"# said differently\n\n{AVERAGE}",
        # In float32 the sums of another order have other last bits.
        "def pool(maps): return maps.mean(3).mean(2)",
        "def pool(maps): return maps.flip(3).mean((2, 3))",
    ],
)
def test_what_changes_nothing_that_is_computed_changes_no_identity(
    identity: Identity, same: str
) -> None:
    assert identity(AVERAGE) == identity(same)


@pytest.mark.parametrize(
    "other",
    [
        "def pool(maps): return 2 * maps.mean((2, 3))",
        "def pool(maps): return maps.mean((2, 3)) + 1e-5",
        "def pool(maps): return maps.mean((2, 3)).roll(1, 1)",
    ],
)
def test_scale_offset_and_order_of_features_are_part_of_what_is_computed(
    identity: Identity, other: str
) -> None:
    assert identity(AVERAGE) != identity(other)


def test_a_network_that_makes_float32_by_itself_is_known_by_its_float32_features(
    identity: Identity,
) -> None:
    average, largest = (
        identity(f"import torch\n{pool} @ torch.eye(8)") for pool in (AVERAGE, LARGEST)
    )
    assert average == identity(f"import torch\n{AVERAGE} @ torch.eye(8)")
    assert average != largest


def test_a_network_that_fails_on_an_image_is_refused_by_name(identity: Identity) -> None:
    with pytest.raises(EncoderError, match=r"mine: its network failed on an image.*no such thing"):
        identity("def pool(maps): raise KeyError('no such thing')")


def test_the_network_is_the_same_after_it_was_looked_at() -> None:
    network = _Plugin(1.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    features_sha256(network, CARD)
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {value.dtype for value in after.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("seed", "helper", "reason"),
    [
        ("pass", AVERAGE, r"gives other weights than when the run began.*seed"),
        # Neither a parameter nor a buffer, so that no state tells.
        (
            "torch.manual_seed(0)",
            "import torch\ndef pool(maps): return maps.mean((2, 3)) + torch.rand(8)",
            "gives other features than when the run began",
        ),
    ],
)
def test_a_factory_that_draws_without_a_seed_is_refused(
    identity: Identity, tmp_path: Path, seed: str, helper: str, reason: str
) -> None:
    # As in processes that have just begun: torch's generator is in one state in all of them.
    torch.manual_seed(5)
    identity(helper, seed=seed)
    spec = resolve(EncoderEntry(python="factory_of_test:build"), 0, tmp_path)
    torch.manual_seed(5)
    with pytest.raises(EncoderError, match=reason):
        open_encoder(spec, "cpu")


def test_code_that_was_edited_after_the_run_began_is_refused(
    identity: Identity, tmp_path: Path
) -> None:
    identity(AVERAGE)
    spec = resolve(EncoderEntry(python="factory_of_test:build"), 0, tmp_path)
    encoder, _ = open_encoder(spec, "cpu")
    assert encoder.features(torch.zeros(1, 1, 32, 32, dtype=torch.uint8)).dtype == torch.float32
    identity(LARGEST)
    with pytest.raises(EncoderError, match="other features than when the run began"):
        open_encoder(spec, "cpu")


def test_a_worker_with_another_version_of_a_library_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = resolve(EncoderEntry(name="pixel_stats"), 0, Path())
    open_encoder(spec, "cpu")
    monkeypatch.setattr(metadata, "version", lambda name: "9.1+cu128")
    with pytest.raises(EncoderError, match=r"torch 9\.1 is installed where it is opened"):
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


CARD = EncoderCard("brought", Preprocess(Geometry("squash", 32)), dimension=8)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Install an encoder of another package, by its power and its weights' scale."""

    def install(power: float, scale: float = 1.0) -> None:
        def build() -> nn.Module:
            network = _Plugin(power)
            network.backbone.weight.data *= scale
            return network

        made = Architecture(CARD, build, key_map=lambda key: key)
        monkeypatch.setattr(registry, "_brought", lambda own: {"brought": made})

    return install


def test_an_installed_plugin_that_computes_something_else_is_another_encoder(
    plugin: Callable[..., None], tmp_path: Path
) -> None:
    torch.save(_Plugin(1.0).state_dict(), tmp_path / "w.pth")
    filled = EncoderEntry(name="brought", checkpoint="w.pth")
    twin = EncoderEntry(name="random:brought")

    def identities(*installed: float) -> list[dict[str, Any]]:
        plugin(*installed)
        return [resolve(entry, 3, tmp_path).identity for entry in (filled, twin)]

    first, again, other = identities(1.0), identities(1.0), identities(2.0)
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]
    # How it draws weights matters to a random twin alone.
    drawn_otherwise = identities(1.0, 0.5)
    assert drawn_otherwise[0] == first[0]
    assert drawn_otherwise[1] != first[1]


@pytest.mark.parametrize("name", ["brought", "random:brought"])
def test_an_installed_plugin_that_changed_after_the_run_began_is_refused(
    plugin: Callable[..., None], tmp_path: Path, name: str
) -> None:
    plugin(1.0)
    torch.save(_Plugin(1.0).state_dict(), tmp_path / "w.pth")
    entry = EncoderEntry(name=name, checkpoint=None if "random" in name else "w.pth")
    spec = resolve(entry, 3, tmp_path)
    open_encoder(spec, "cpu")
    # As admission does, of an encoder that is known by its file.
    open_encoder(replace(spec, checkpoint=None, seed=spec.seed or 1), "cpu")
    plugin(2.0)
    with pytest.raises(EncoderError, match="other features than when the run began"):
        open_encoder(spec, "cpu")


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
