"""How an encoder is built and filled: the one value that a family module exposes for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from sonobench.encoders.card import EncoderCard
from sonobench.encoders.checkpoint import KeyMap

# Any side that a network of strided convolutions can take.
ANY_SIZE = range(16, 4097)


def _as_they_are(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors


def _takes_every_size(network: nn.Module, size: int) -> None:
    pass


@dataclass(frozen=True)
class Architecture:
    """An encoder of the catalogue.

    Attributes:
        card: what is known of it.
        build: the bare network at the input size of its weights, randomly initialised.
        key_map: key of its official file → ours, or dropped; None where there are no weights.
        prepare: restates a file's tensors before their keys are mapped, where names alone do not
            say what belongs where: a fused bias is split, what the file leaves out is given.
        set_size: fits a network that is filled to another input side (pixels).
        sizes: input sides that it can take.
        alternatives: name → the same encoder with another feature.
        signature: keys and shapes that tell its official file from others.
    """

    card: EncoderCard
    build: Callable[[], nn.Module]
    key_map: KeyMap | None
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = _as_they_are
    set_size: Callable[[nn.Module, int], None] = _takes_every_size
    sizes: range = ANY_SIZE
    alternatives: Mapping[str, "Architecture"] = field(default_factory=dict)
    signature: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
