"""Convolutions have channels last wherever that is safe."""

import pytest
import torch
from torch import nn

from sonobench.encoders import memory_format
from sonobench.encoders.registry import architecture

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("convolution", "safe"),
    [
        (nn.Conv2d(3, 64, 1, stride=2), False),
        (nn.Conv2d(3, 64, 1, stride=(1, 2)), False),
        (nn.Conv2d(32, 64, 1, stride=2, groups=8), False),
        (nn.Conv2d(3, 64, 1), True),
        (nn.Conv2d(3, 64, 3, stride=2), True),
        (nn.Conv2d(64, 128, 1, stride=2), True),
    ],
)
def test_strided_pointwise_convolutions_of_few_channels_keep_a_network_contiguous_on_the_cpu(
    convolution: nn.Conv2d, safe: bool
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sequential(convolution))
    expected = torch.channels_last if safe else torch.contiguous_format
    assert memory_format(network, CPU) == expected
    assert memory_format(network, CUDA) == torch.channels_last


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_networks_with_tensors_of_five_dimensions_stay_contiguous(device: torch.device) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv3d(8, 8, 3))
    network.to(memory_format=memory_format(network, device))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilefetalclip", torch.contiguous_format),
        ("resnet50", torch.channels_last),
        ("efficientnet_lite0", torch.channels_last),
        ("usfm", torch.channels_last),
    ],
)
def test_networks_of_the_catalogue(name: str, expected: torch.memory_format) -> None:
    with torch.device("meta"):
        network = architecture(name).build()
    assert memory_format(network, CPU) == expected
