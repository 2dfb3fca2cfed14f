"""Low-rank updates: which maps of a network get one, and what is said where peft has none."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from tiny_training import SHORT
from torch import Tensor, nn
from torch.nn.functional import linear

from sonobench.adaptation.classifier import Classifier, make_classifier
from sonobench.encoders import Encoder, EncoderCard, EncoderError, Preprocess
from sonobench.images import Geometry
from sonobench.protocol import Lora

SIDE = 32


def with_updates(network: nn.Module, dimension: int) -> Classifier:
    card = EncoderCard("mine", Preprocess(Geometry("squash", SIDE)), dimension)
    return make_classifier(Encoder(network, card), 3, Lora(**SHORT, rank=2), seed=0)


def updated(classifier: Classifier) -> set[str]:
    """Names of the network's maps that have an update."""
    names = {name for name, _ in classifier.encoder.network.named_parameters()}
    return {name.partition(".lora_A.")[0] for name in names if ".lora_A." in name}


def trained(classifier: Classifier) -> set[str]:
    """Updates that a step reaches: peft begins with one factor at zero, the other is reached."""
    images = torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8)
    classifier.train()(images).square().sum().backward()
    return {
        name
        for name, parameter in classifier.encoder.network.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }


def sequential_resnet() -> nn.Module:
    """A residual network cut open, whose layers are called 0, 1, … at every level."""
    return nn.Sequential(
        *timm.create_model("test_resnet", num_classes=0, zero_init_last=False).children()
    )


class _ReadsWeights(nn.Module):
    """Has the same name twice: a map that is called, and one of whose weights it makes use."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 8)
        self.block = nn.ModuleDict({"qkv": nn.Linear(8, 8)})

    def forward(self, images: Tensor) -> Tensor:
        return linear(self.qkv(images.mean((2, 3))), self.block["qkv"].weight)


class _OddNames(nn.Module):
    """Names that mean something else in a pattern."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleDict(
            {"a+": nn.Linear(3, 8), "aa": nn.Linear(3, 8), "(b|": nn.Linear(8, 8)}
        )

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.maps["(b|"](self.maps["a+"](images.mean((2, 3))))
        return out


def test_layers_with_the_same_last_name_are_told_apart() -> None:
    network = sequential_resnet()
    with torch.no_grad():
        dimension = network.eval()(torch.zeros(1, 3, SIDE, SIDE)).shape[1]
    maps = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    classifier = with_updates(network, dimension)
    assert updated(classifier) == maps
    assert len(trained(classifier)) == len(maps)


@pytest.mark.parametrize(
    ("make", "called"), [(_ReadsWeights, {"qkv"}), (_OddNames, {"maps.a+", "maps.(b|"})]
)
def test_only_maps_that_are_called_have_an_update(
    make: Callable[[], nn.Module], called: set[str]
) -> None:
    classifier = with_updates(make(), 8)
    assert updated(classifier) == called
    assert len(trained(classifier)) == len(called)


@pytest.mark.parametrize("odd", [{"dilation": 2}, {"groups": 2}, {"groups": 4}])
def test_dilated_and_grouped_convolutions_have_none(odd: dict[str, int]) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=odd.get("dilation", 1), **odd),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    assert updated(with_updates(network, 4)) == {"0"}


class _PadsItself(nn.Conv2d):
    """Another class of convolution, which peft makes anew without knowing how it pads."""

    def __init__(self, *arguments: Any, pads: bool = False, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._pads = pads

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(images, (1,) * 4) if self._pads else images)


class _ReadsAttributes(nn.Module):
    """Looks at its convolution, as timm's DaViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.conv(images)[..., self.conv.kernel_size[0] :].mean((2, 3))
        return out


@pytest.mark.parametrize(
    ("network", "cause"),
    [
        (
            nn.Sequential(_PadsItself(3, 8, 3, pads=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "must match the size",
        ),
        (_ReadsAttributes(), "no attribute 'kernel_size'"),
    ],
)
def test_a_network_that_pefts_updates_do_not_fit_is_refused_in_a_sentence(
    network: nn.Module, cause: str
) -> None:
    with pytest.raises(EncoderError, match=f"lora: peft's updates do not fit.*{cause}.*head_only"):
        with_updates(network, 8)
