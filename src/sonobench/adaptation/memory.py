"""What to do when the memory of a device is not enough for a training step."""

from dataclasses import dataclass, replace


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
