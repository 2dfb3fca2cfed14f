import numpy as np
import pytest
import torch
from torch import nn

from sonobench.encoders import Encoder, EncoderCard, EncoderError, EncoderSpec, Preprocess, certify
from sonobench.encoders.admission import effective_rank, fixed_images, spectral_distances
from sonobench.images import Geometry
from sonobench.protocol import EncoderEntry


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


def test_small_matrices_and_vectors_are_not_judged() -> None:
    assert spectral_distances(nn.Sequential(nn.Linear(63, 512), nn.LayerNorm(512))) == {}


def test_the_fixed_images_are_fixed_and_differ() -> None:
    images = fixed_images(70)
    assert (images == fixed_images(70)).all()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
