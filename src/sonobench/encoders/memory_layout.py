"""The memory format of a network's convolutions: the fastest that is safe."""

from itertools import chain

import torch
from torch import nn


def memory_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, but on the CPU not with a strided 1×1 convolution of few input channels.

    With channels last, convolutional networks train 1.2 to 1.8 times as fast on a CPU, and in bf16
    on CUDA (`docs/benchmarks.md`). The backward pass of such a convolution on a CPU without
    AVX-512 writes past the end of its memory, though, and ends the process or spoils what lies
    there: seen in torch 2.14 with stride 2 and fewer than 8 input channels, the width of an AVX2
    register. Sixteen is that of an AVX-512 register, to be on the safe side. Forward passes and
    contiguous memory are not concerned.

    torch cannot lay out tensors of five dimensions so, as a lambda layer has.
    """
    if any(value.ndim == 5 for value in chain(network.parameters(), network.buffers())):
        return torch.contiguous_format
    if device.type == "cpu" and any(_is_unsafe(module) for module in network.modules()):
        return torch.contiguous_format
    return torch.channels_last


def _is_unsafe(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and max(module.kernel_size) == 1
        and max(module.stride) > 1
        and module.in_channels // module.groups < 16
    )
