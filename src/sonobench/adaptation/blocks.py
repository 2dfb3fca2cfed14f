"""What a network is made of from its images to its features: blocks, and their depth."""

import math
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether what it makes of an image depends, in training, on the others of its batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def parameter_depths(network: nn.Module) -> dict[str, float]:
    """Depth of every parameter, by name: 0 next to the images, rising towards the features.

    A step of depth is a block. timm's models are divided by timm's own group matchers; infinite is
    what these leave to the level of a head, such as a norm after pooling. For other networks timm
    has none, and would take every 12 parameters for a level: there, rows of blocks are found by
    their structure, and what stands between and after them counts to the block before.
    """
    depths, _ = _depths(network, 0)
    return depths


def checkpoint_blocks(network: nn.Module) -> None:
    """Keep no activations within the blocks: they are computed once more on the way back."""
    for row in _rows(network):
        for block in row:
            whole: Any = block
            whole.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _depths(module: nn.Module, depth: int) -> tuple[dict[str, float], int]:
    """Depths of a module's parameters, from `depth` on, and the last of them that is finite."""
    from timm.models import group_parameters  # noqa: PLC0415

    matcher = getattr(module, "group_matcher", None)
    if matcher is not None:
        # What no pattern of timm's matches is in the head's group, the last; no name is matched by
        # none of them for certain but one without a letter.
        headed: Any = SimpleNamespace(
            named_parameters=lambda: [*module.named_parameters(), ("", None)]
        )
        groups: dict[str, int] = group_parameters(headed, matcher(), reverse=True)
        head = groups.pop("")
        inner = {
            name: math.inf if group == head else depth + group for name, group in groups.items()
        }
        return inner, depth + max((group for group in groups.values() if group < head), default=0)
    found: dict[str, float] = {name: depth for name, _ in module.named_parameters(recurse=False)}
    for name, child in module.named_children():
        if _is_row(child):
            inner = {}
            for position, block in enumerate(child.children()):
                depth += 1
                inner |= {f"{position}.{own}": depth for own, _ in block.named_parameters()}
        elif _is_made_of_blocks(child):
            inner, depth = _depths(child, depth)
        else:
            inner = {own: depth for own, _ in child.named_parameters()}
        found |= {f"{name}.{own}": value for own, value in inner.items()}
    return found, depth


def _is_row(module: nn.Module) -> bool:
    """Whether it holds two or more composite modules of one class, as a stack of blocks does."""
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return False
    filled = [child for child in module if any(True for _ in child.parameters())]
    return (
        len(filled) > 1
        and len({type(child) for child in filled}) == 1
        and all(any(True for _ in child.children()) for child in filled)
    )


def _is_made_of_blocks(module: nn.Module) -> bool:
    return any(_is_row(inner) or hasattr(inner, "group_matcher") for inner in module.modules())


def _rows(module: nn.Module) -> Iterator[list[nn.Module]]:
    """The outermost rows of blocks."""
    if _is_row(module):
        yield list(module.children())
        return
    for child in module.children():
        yield from _rows(child)
