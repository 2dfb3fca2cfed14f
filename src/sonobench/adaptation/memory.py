"""What to do when the memory of a device is not enough for a training step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sonobench.adaptation.blocks import checkpoint_blocks
from sonobench.adaptation.classifier import Classifier
from sonobench.adaptation.parameter_groups import parameter_groups
from sonobench.encoders import memory_format
from sonobench.protocol import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class MemoryPlan:
    """How a step's memory is spent.

    Attributes:
        micro_batch: images a forward pass.
        checkpointed: whether activations are computed again on the way back, not kept.
    """

    micro_batch: int
    checkpointed: bool = False

    def following(self, batch_statistics: bool) -> "MemoryPlan | None":
        """The next plan that needs less for the same training; None where there is none.

        Smaller micro-batches change nothing but rounding and what is drawn, as losses are weighted
        by image, unless the network has batch statistics.
        """
        if not self.checkpointed:
            return replace(self, checkpointed=True)
        if batch_statistics or self.micro_batch == 1:
            return None
        return replace(self, micro_batch=self.micro_batch // 2)


@contextmanager
def statistics_unmoved(network: nn.Module, checkpointed: bool) -> Iterator[None]:
    """Let running statistics alone where blocks are computed again, which would move them twice."""
    modules = network.modules() if checkpointed else ()
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def advice(
    fabric: "Fabric", make: Callable[[], Classifier], settings: Training, plan: MemoryPlan
) -> str:
    """What to do where no plan is left, found by trying."""
    for size in range(min(plan.micro_batch, settings.batch_size) - 1, 0, -1):
        if settings.batch_size % size == 0 and _fits(fabric, make(), settings, size):
            return (
                f"the device's memory is not enough for micro_batch {plan.micro_batch}, even with "
                f"activations computed again; {size} fits: set micro_batch to {size}. It is not "
                "changed silently, as the network has batch statistics, which would be of fewer "
                "images"
            )
    return "the device's memory is not enough for one image; choose a smaller size or network"


def _fits(fabric: "Fabric", classifier: Classifier, settings: Training, count: int) -> bool:
    """Whether steps of `count` images fit, activations computed again."""
    checkpoint_blocks(classifier.encoder.network)
    layout = memory_format(classifier, fabric.device)
    classifier.to(fabric.device).to(memory_format=layout).train()
    side = classifier.encoder.card.preprocess.geometry.size
    images = torch.zeros(count, 3, side, side, dtype=torch.uint8, device=fabric.device)
    optimizer = torch.optim.AdamW(parameter_groups(classifier, settings), fused=True)
    try:
        # The second has the optimiser's moments beside it.
        for _ in range(2):
            with fabric.autocast():
                loss = classifier(images).sum()
            loss.backward()
            optimizer.step()
    except torch.OutOfMemoryError:
        return False
    return True
