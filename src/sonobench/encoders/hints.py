"""What a checkpoint that does not fit seems to be instead."""

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.checkpoint import Dropped, KeyMap

_HEADS = re.compile(
    r"(^|\.)(decode_head|seg_head|segmentation_head|mask_decoder|bbox_head|mask_head)\."
)
_PREFIX_TOKENS = (0, 1, 5)


def what_it_seems(
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    key_map: KeyMap,
    others: Iterable[Architecture],
) -> list[str]:
    """Sentences about a file, most telling first; none where nothing can be told.

    Args:
        tensors: of the file.
        wanted: state of the network that it does not fit.
        key_map: its key → the network's.
        others: architectures that it might belong to.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    seems = [
        f"this is a file of '{other.card.name}'"
        for other in others
        if other.signature
        and all(shapes.get(key) == shape for key, shape in other.signature.items())
    ]
    if heads := sorted({match[2] for key in tensors if (match := _HEADS.search(key))}):
        seems.append(f"there are segmentation or detection heads in it ({', '.join(heads)})")
    seems += _positions(shapes, wanted, key_map)
    if not seems and (prefix := _prefix(tensors, wanted, key_map)):
        seems.append(f"its keys carry a prefix '{prefix}', as of a larger model around the encoder")
    return seems


def _positions(
    shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor], key_map: KeyMap
) -> list[str]:
    patches = [shape[-1] for key, shape in shapes.items() if len(shape) == 4 and "patch" in key]
    found = []
    for key, shape in shapes.items():
        target = key_map(key)
        if isinstance(target, Dropped) or target not in wanted:
            continue
        grid = _grid(key, shape)
        if grid and patches and shape != tuple(wanted[target].shape):
            found.append(f"its position table ({key}) is that of a {grid * patches[0]} px model")
    return found[:1]


def _grid(key: str, shape: tuple[int, ...]) -> int | None:
    if "relative_position_bias_table" in key:
        # (2 g - 1)² offsets, and three for the class token.
        side = math.isqrt(max(0, shape[0] - 3))
        return (side + 1) // 2 if side * side == shape[0] - 3 else None
    if "pos_embed" not in key and "positional_embedding" not in key:
        return None
    if len(shape) == 4:
        return shape[1]
    for extra in _PREFIX_TOKENS:
        side = math.isqrt(max(0, shape[-2] - extra))
        if side > 1 and side * side == shape[-2] - extra:
            return side
    return None


def _prefix(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], key_map: KeyMap
) -> str | None:
    candidates = {key[: dot.end()] for key in tensors for dot in re.finditer(r"\.", key)}
    for prefix in sorted(candidates, key=len):
        inner = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]
        fitting = sum(key_map(key) in wanted for key in inner)
        if fitting >= 0.9 * len(wanted):
            return prefix
    return None
