from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from torch import nn

from sonobench.encoders import (
    Encoder,
    EncoderCard,
    EncoderError,
    EncoderSpec,
    Preprocess,
    certify,
    open_encoder,
    resolve,
)
from sonobench.encoders.admission import (
    effective_rank,
    fixed_images,
    largest_difference,
    linear_cka,
    spectral_distances,
)
from sonobench.images import Geometry
from sonobench.protocol import EncoderEntry, Precision

Features = npt.NDArray[np.float32]


def certificate(network: nn.Module, dimension: int) -> dict[str, object]:
    card = EncoderCard("mine", Preprocess(Geometry("squash", 32)), dimension)
    spec = EncoderSpec("mine", EncoderEntry(python="a:b"), card, None, None, {})
    return certify(spec, Encoder(network, card), None)


class _Constant(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 8)


class _Line(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None] * torch.arange(1.0, 9)


class _NotFinite(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 8), torch.inf)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_Constant(), "all but the same"),
        (_Line(), "lie along one line"),
        (_NotFinite(), "not finite"),
    ],
)
def test_a_degenerate_encoder_is_not_admitted(network: nn.Module, message: str) -> None:
    with pytest.raises(EncoderError, match=f"not admitted: .*{message}"):
        certificate(network, 8)


class _WholeWindows(nn.Module):
    """Says which sizes it takes as timm's networks of windows do, some of them without a word."""

    def __init__(self, told: str) -> None:
        super().__init__()
        self._told = told

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-1] % 7 == 0, self._told
        return images


@pytest.mark.parametrize("told", ["height (32) must be divisible by window (7)", ""])
def test_a_network_that_fails_on_its_size_is_refused_with_its_name_and_the_size(told: str) -> None:
    with pytest.raises(EncoderError, match=r"mine: not admitted: .* 32×32") as raised:
        certificate(_WholeWindows(told), 8)
    assert told in str(raised.value)


def test_the_effective_rank_of_equal_directions_is_their_number() -> None:
    # Six directions of equal strength, centred: the spectrum is flat over six values.
    features = np.vstack([np.eye(6), -np.eye(6)]).astype(np.float32)
    assert effective_rank(features) == pytest.approx(6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_random_matrices_are_close_to_the_law_whatever_their_scale_and_mean(scale: float) -> None:
    torch.manual_seed(0)
    network = nn.Linear(512, 128)
    nn.init.normal_(network.weight, mean=3 * scale, std=scale)
    # The largest distance seen in randomly filled networks is 0.04.
    assert spectral_distances(network)["weight"] < 0.04


def test_a_matrix_with_structure_is_far_from_the_law() -> None:
    torch.manual_seed(0)
    network = nn.Linear(512, 128)
    # A power-law spectrum, as trained layers have.
    with torch.no_grad():
        left, _, right = torch.linalg.svd(network.weight, full_matrices=False)
        network.weight.copy_(left @ torch.diag(torch.arange(1.0, 129) ** -0.5) @ right)
    assert spectral_distances(network)["weight"] > 0.065  # the smallest seen in a trained one


@pytest.fixture
def features() -> Features:
    return np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


def test_cka_does_not_see_a_rotation_a_scale_or_a_shift(features: Features) -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))
    turned = (3 * features @ rotation + 5).astype(np.float32)
    assert linear_cka(features, turned) == pytest.approx(1, abs=1e-5)


def test_cka_of_features_along_orthogonal_directions_is_zero() -> None:
    one, two = np.array([[1.0], [-1], [1], [-1]]), np.array([[1.0], [1], [-1], [-1]])
    assert linear_cka(one.astype(np.float32), two.astype(np.float32)) == 0


def test_an_encoder_filled_from_a_file_is_compared_with_three_random_twins() -> None:
    spec = resolve(EncoderEntry(name="efficientnet_lite0", size=128), 0, Path())
    made = certify(spec, *open_encoder(spec, "cpu"))
    assert len(made["cka_with_random_twins"]) == len(made["cka_among_random_twins"]) == 3
    # Trained and at 224 pixels 0.37 … 0.44, the twins among themselves 0.88.
    assert max(made["cka_with_random_twins"]) < min(made["cka_among_random_twins"])


def test_a_random_twin_in_a_file_is_as_alike_to_random_twins_as_they_are_to_each_other(
    tmp_path: Path,
) -> None:
    torch.manual_seed(7)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    entry = EncoderEntry(name="timm:test_vit", checkpoint="w.pth")
    spec = resolve(entry, 0, tmp_path)
    made = certify(spec, *open_encoder(spec, "cpu"))
    among = np.mean(made["cka_among_random_twins"])
    assert np.mean(made["cka_with_random_twins"]) == pytest.approx(among, abs=0.2)
    assert made["random_looking"]


def test_a_published_checksum_is_compared(tmp_path: Path) -> None:
    spec = resolve(EncoderEntry(name="efficientnet_lite0", size=64), 0, Path())
    assert spec.card.weights is not None
    sha256 = spec.identity["weights"]["sha256"]
    for published, verdict in ((sha256, True), ("0" * 64, False), (None, None)):
        weights = replace(spec.card.weights, sha256=published)
        told = replace(spec, card=replace(spec.card, weights=weights))
        assert certify(told, *open_encoder(told, "cpu"))["is_published_file"] is verdict


def test_the_largest_difference_is_that_of_the_image_that_differs_most() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
    features = np.array([[3.0, 4.5], [0.0, 2.1]], dtype=np.float32)
    assert largest_difference(features, reference) == pytest.approx(0.1)
    assert largest_difference(reference, reference) == 0


def test_features_in_bf16_are_compared_with_those_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A processor without bfloat16 computes the same, more slowly.
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    spec = resolve(EncoderEntry(name="efficientnet_lite0", size=64), 0, Path())
    made = certify(spec, *open_encoder(spec, "cpu", "bf16"))
    assert made["precision"] == "bf16"
    assert 1e-4 < made["difference_from_fp32"] < 0.1
    assert made["difference_from_cpu"] is None
    exact = certify(spec, *open_encoder(spec, "cpu"))
    assert (exact["precision"], exact["difference_from_fp32"]) == ("fp32", None)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_that_the_device_lacks_is_refused(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    spec = resolve(EncoderEntry(name="efficientnet_lite0", size=64), 0, Path())
    with pytest.raises(EncoderError, match=f"this cpu device has no {precision}"):
        open_encoder(spec, "cpu", precision)


def test_larger_images_are_fewer() -> None:
    assert [len(fixed_images(side)) for side in (224, 512, 1024)] == [24, 8, 8]


def test_small_matrices_and_vectors_are_not_judged() -> None:
    assert spectral_distances(nn.Sequential(nn.Linear(63, 512), nn.LayerNorm(512))) == {}


def test_the_fixed_images_are_fixed_and_differ() -> None:
    images = fixed_images(70)
    assert (images == fixed_images(70)).all()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
