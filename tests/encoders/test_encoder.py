"""The conformance suite of encoders: whatever turns images into features passes it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sonobench.encoders import (
    Encoder,
    EncoderError,
    EncoderSpec,
    catalogue,
    certify,
    embed,
    open_encoder,
    registry,
    resolve,
)
from sonobench.encoders.card import CLIP_MEAN
from sonobench.encoders.registry import architecture
from sonobench.images import Geometry, Pack
from sonobench.protocol import EncoderEntry

# Each with a side at which the whole architecture is at work, but quickly; None: its own.
ENCODERS: dict[str, int | None] = {
    "efficientnet_lite0": 64,
    "random:efficientnet_lite0": 64,
    "random:usfm": 64,
    "random:mofo": None,
    "random:ultrasam": 64,
    "random:fetalclip": 56,
    "random:mobilefetalclip": 64,
    "random:usf_mae": 64,
    "random:biomedclip": 64,
    "random:dinov3": 64,
    "random:resnet50": 64,
    "random:efficientnetv2_s": 64,
    "random:dinov2": 56,
    "random:timm:test_vit": None,
    "random:timm:test_convnext": None,
    "random:open_clip:RN50": None,
    "pixel_stats": None,
}


@pytest.fixture(scope="module", params=ENCODERS)
def spec(request: pytest.FixtureRequest) -> EncoderSpec:
    return resolve(EncoderEntry(name=request.param, size=ENCODERS[request.param]), 0, Path())


@pytest.fixture(scope="module")
def encoder(spec: EncoderSpec) -> Encoder:
    return open_encoder(spec, "cpu")[0]


def grey_images(encoder: Encoder, count: int = 3) -> torch.Tensor:
    size = encoder.card.preprocess.geometry.size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)


def test_features_are_float32_of_the_cards_dimension(encoder: Encoder) -> None:
    features = encoder.features(grey_images(encoder))
    assert features.dtype == torch.float32
    assert features.shape == (3, encoder.card.dimension)
    assert torch.isfinite(features).all()


def test_the_same_images_give_the_same_features(encoder: Encoder) -> None:
    images = grey_images(encoder)
    assert torch.equal(encoder.features(images), encoder.features(images))


@pytest.mark.gpu
def test_cuda_gives_the_features_of_the_cpu(spec: EncoderSpec) -> None:
    certificate = certify(spec, *open_encoder(spec, "cuda"))
    assert certificate["difference_from_cpu"] < 1e-4


@pytest.mark.gpu
def test_efficientnetv2_at_its_own_size_is_the_same_on_cuda() -> None:
    spec = resolve(EncoderEntry(name="random:efficientnetv2_s"), 0, Path())
    exact = certify(spec, *open_encoder(spec, "cuda"))
    fast = certify(spec, *open_encoder(spec, "cuda", "tf32"))
    assert exact["difference_from_cpu"] < 1e-4
    assert exact["difference_from_cpu"] < fast["difference_from_fp32"] < 0.1


def test_opening_twice_gives_the_same_features(encoder: Encoder, spec: EncoderSpec) -> None:
    images = grey_images(encoder)
    again, _ = open_encoder(spec, "cpu")
    assert torch.equal(encoder.features(images), again.features(images))


def test_an_image_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    images = grey_images(encoder)
    together = encoder.features(images)
    alone = torch.cat([encoder.features(image[None]) for image in images])
    # Kernels may sum in another order for another batch size: 1e-4 of the features' scale.
    assert (together - alone).abs().max() <= 1e-4 * together.abs().max()


def test_one_channel_is_the_same_as_three_equal_ones(encoder: Encoder) -> None:
    images = grey_images(encoder)
    assert torch.equal(
        encoder.features(images), encoder.features(images.repeat_interleave(3, dim=1))
    )


def test_images_that_are_normalised_already_are_refused(encoder: Encoder) -> None:
    with pytest.raises(EncoderError, match=r"normalisation happens inside"):
        encoder.features(grey_images(encoder).float() / 255)


def test_images_of_another_size_are_refused(encoder: Encoder) -> None:
    with pytest.raises(EncoderError, match="expected images of"):
        encoder.features(grey_images(encoder)[:, :, :-1, :-1])


def test_nothing_of_the_network_is_trained_or_in_training_mode(encoder: Encoder) -> None:
    assert not any(module.training for module in encoder.network.modules())
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())


# Spectra of a network of a hundred million parameters take many seconds; these are of all kinds.
@pytest.mark.parametrize(
    "spec",
    [
        "efficientnet_lite0",
        "random:efficientnet_lite0",
        "random:usfm",
        "random:mobilefetalclip",
        "random:timm:test_convnext",
        "pixel_stats",
    ],
    indirect=True,
)
def test_it_is_admitted_and_its_certificate_says_what_was_loaded(spec: EncoderSpec) -> None:
    certificate = certify(spec, *open_encoder(spec, "cpu"))
    assert certificate["dimension"] == spec.card.dimension
    assert certificate["effective_rank"] > 1
    assert certificate["random_looking"] == spec.label.startswith("random:")


def test_normalisation_is_that_of_the_card() -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    card = catalogue()["efficientnet_lite0"].card
    encoder = Encoder(Mean(), card.__class__("mean", card.preprocess, 3))
    white = torch.full((1, 1, 224, 224), 255, dtype=torch.uint8)
    # (1 - mean) / std of ImageNet, by hand.
    expected = torch.tensor([[2.2489, 2.4286, 2.6400]])
    torch.testing.assert_close(encoder.features(white), expected, atol=1e-4, rtol=0)


def test_a_network_of_another_dimension_is_refused() -> None:
    card = catalogue()["pixel_stats"].card
    encoder = Encoder(torch.nn.Flatten(), card)
    with pytest.raises(EncoderError, match=r"expected features of shape \(1, 96\)"):
        encoder.features(torch.zeros(1, 1, 224, 224, dtype=torch.uint8))


@pytest.mark.parametrize("name", catalogue())
def test_a_card_of_the_catalogue_is_complete(name: str) -> None:
    card = catalogue()[name].card
    assert card.name == name
    for field in ("feature", "architecture", "citation", "licence"):
        assert getattr(card, field) != "not stated", field
    for dataset in ("fetal_planes_db", "african_planes"):
        assert card.trained_on(dataset).evidence != "nobody says"
    assert card.control or card.weights is not None


def test_the_suite_knows_every_encoder_of_the_catalogue() -> None:
    assert {name.removeprefix("random:") for name in ENCODERS} >= set(catalogue())


@pytest.mark.parametrize("name", catalogue())
def test_the_card_states_the_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        network = catalogue()[name].build()
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == catalogue()[name].card.parameters


@pytest.mark.parametrize("name", catalogue())
def test_the_cards_size_is_one_that_the_architecture_takes(name: str) -> None:
    made = catalogue()[name]
    assert made.card.preprocess.geometry.size in made.sizes


def test_a_size_that_the_architecture_cannot_take_is_refused() -> None:
    with pytest.raises(EncoderError, match="size 256 does not fit, expected 224"):
        resolve(EncoderEntry(name="random:mofo", size=256), 0, Path())
    with pytest.raises(EncoderError, match=r"size 250 does not fit, expected 32, 48 … 1024"):
        resolve(EncoderEntry(name="random:usfm", size=250), 0, Path())


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ("test_vit", 100, "16, 32 … 4096"),
        ("test_vit3", 167, "16, 32 … 4096"),
        ("test_vit", 144, ""),
        ("test_convnext", 100, ""),
    ],
)
def test_a_size_of_which_patches_would_leave_out_the_border_is_refused(
    model: str, size: int, expected: str
) -> None:
    entry = EncoderEntry(name=f"random:timm:{model}", size=size)
    if expected:
        with pytest.raises(EncoderError, match=rf"size {size} does not fit, expected {expected}"):
            resolve(entry, 0, Path())
    else:
        assert resolve(entry, 0, Path()).card.preprocess.geometry.size == size


def test_the_size_of_an_encoders_own_weights_is_taken_whatever_its_patch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As of SigLIP's models of 384 pixels with patches of 14.
    made = registry.architecture("timm:test_vit")
    geometry = replace(made.card.preprocess.geometry, size=150)
    card = replace(made.card, preprocess=replace(made.card.preprocess, geometry=geometry))
    monkeypatch.setitem(registry._LIBRARIES, "timm", lambda _model: replace(made, card=card))
    for size in (None, 150):
        spec = resolve(EncoderEntry(name="random:timm:test_vit", size=size), 0, Path())
        assert spec.card.preprocess.geometry.size == 150


def test_another_feature_is_another_encoder() -> None:
    entry = EncoderEntry(name="random:usfm", size=32)
    official = resolve(entry, 0, Path())
    token = resolve(entry.model_copy(update={"feature": "token"}), 0, Path())
    assert official.identity != token.identity
    images = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    features = [open_encoder(spec, "cpu")[0].features(images) for spec in (official, token)]
    assert not torch.allclose(*features, atol=1e-2)


def test_a_feature_that_the_encoder_does_not_have_is_refused() -> None:
    with pytest.raises(EncoderError, match="unknown feature 'cls'; it has: token"):
        resolve(EncoderEntry(name="random:usfm", feature="cls"), 0, Path())


def test_an_open_clip_model_takes_its_preprocessing_from_its_weights() -> None:
    # SigLIP's mean and deviation are 0.5, OpenAI's are not; its side is 224.
    card = architecture("open_clip:ViT-B-16-SigLIP:webli").card
    assert card.preprocess.mean == (0.5, 0.5, 0.5)
    assert architecture("open_clip:ViT-B-16:openai").card.preprocess.mean == CLIP_MEAN


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-33", "no model 'ViT-B-33'. did you mean 'ViT-B-32'"),
        (
            "open_clip:ViT-B-32:nowhere",
            "no weights 'nowhere' for ViT-B-32; open_clip lists: openai",
        ),
    ],
)
def test_an_unknown_open_clip_model_is_refused(name: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        architecture(name)


def test_random_twins_of_different_seeds_differ() -> None:
    entry = EncoderEntry(name="random:timm:test_vit")
    one, two = (open_encoder(resolve(entry, seed, Path()), "cpu")[0] for seed in (0, 1))
    images = grey_images(one)
    assert not torch.equal(one.features(images), two.features(images))


def test_a_random_twin_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    open_encoder(resolve(EncoderEntry(name="random:timm:test_vit"), 0, Path()), "cpu")
    assert torch.equal(torch.rand(1), expected)


class _Squares(Pack):
    """A pack in memory."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self.geometry = Geometry("squash", images.shape[-1])
        self.images = images

    def batch(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return self.images[positions]


def test_embedding_goes_through_all_positions_in_their_order() -> None:
    encoder, _ = open_encoder(resolve(EncoderEntry(name="pixel_stats"), 0, Path()), "cpu")
    images = grey_images(encoder, 7)
    positions = np.array([6, 0, 3, 1, 5], dtype=np.int64)
    seen: list[int] = []
    features = embed(
        encoder, _Squares(images.numpy()), positions, micro_batch=2, on_progress=seen.append
    )
    np.testing.assert_array_equal(features, encoder.features(images[positions]).numpy())
    assert seen == [2, 2, 1]


def test_features_that_are_not_finite_stop_with_the_image() -> None:
    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = torch.zeros(len(images), 96)
            features[images.mean((1, 2, 3)) > 0.5] = torch.nan
            return features

    encoder = Encoder(Broken(), catalogue()["pixel_stats"].card)
    images = np.zeros((4, 1, 224, 224), dtype=np.uint8)
    images[2] = 255
    with pytest.raises(EncoderError, match="features of image 2 are not finite"):
        embed(encoder, _Squares(images), np.arange(4), micro_batch=3)
