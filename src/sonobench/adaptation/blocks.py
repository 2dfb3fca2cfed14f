"""What a network is made of from its images to its features: blocks, and their depth."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether what it makes of an image depends, in training, on the others of its batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def parameter_depths(network: nn.Module) -> dict[str, int]:
    """Depth of every parameter, by name: 0 next to the images, rising towards the features.

    A transformer's steps of depth are its blocks, those of a network with batch statistics its
    stages. What timm knows of its own models is taken from there; in others, rows of blocks are
    found by their structure, and what stands between and after them counts to the block before.
    """
    depths, _ = _depths(network, has_batch_statistics(network), 0)
    names = [name for name, _ in network.named_parameters()]
    present = sorted({depths[name] for name in names})
    return {name: present.index(depths[name]) for name in names}


def checkpoint_blocks(network: nn.Module) -> None:
    """Keep no activations within the blocks: they are computed once more on the way back."""
    for row in _rows(network):
        for block in row:
            whole: Any = block
            whole.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _depths(module: nn.Module, by_stage: bool, depth: int) -> tuple[dict[str, int], int]:
    """Depths of a module's parameters, from `depth` on, and the last of them."""
    from timm.models import group_parameters  # noqa: PLC0415

    matcher = getattr(module, "group_matcher", None)
    if matcher is not None:
        groups: dict[str, int] = group_parameters(module, matcher(coarse=by_stage), reverse=True)
        return {name: depth + group for name, group in groups.items()}, depth + max(groups.values())
    found = {name: depth for name, _ in module.named_parameters(recurse=False)}
    for name, child in module.named_children():
        if _is_row(child):
            blocks = [child] if by_stage else list(child.children())
            inner = dict[str, int]()
            for position, block in enumerate(blocks):
                prefix = "" if by_stage else f"{position}."
                depth += 1
                inner |= {f"{prefix}{own}": depth for own, _ in block.named_parameters()}
        elif _is_made_of_blocks(child):
            inner, depth = _depths(child, by_stage, depth)
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
