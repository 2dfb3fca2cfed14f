"""Images of a pack in batches on a device, and what a classifier says of them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sonobench.adaptation.classifier import Classifier
from sonobench.images import Pack
from sonobench.images.transfer import to_device

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Share of a device's free memory that images may take, so as to be read from the disk once.
_RESIDENT_SHARE = 0.25


@dataclass(frozen=True)
class Labelled:
    """Images of a pack and their labels, (N,) int64 in 0 … K − 1."""

    pack: Pack
    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


class Images:
    """Images of a pack, as uint8 tensors on a device; kept there where they fit.

    On the CPU the pack's memory map is read, which processes share.
    """

    def __init__(self, pack: Pack, positions: npt.NDArray[np.int64], device: torch.device) -> None:
        self._pack = pack
        self._positions = positions
        self._device = device
        self._resident: Tensor | None = None
        if device.type == "cuda":
            # All three channels: one image that is not grey makes all of them so.
            needed = len(positions) * 3 * pack.geometry.size**2
            if needed < _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
                self._resident = to_device(torch.from_numpy(pack.batch(positions)), device)

    def __len__(self) -> int:
        return len(self._positions)

    def batch(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        """(B, C, S, S) uint8 on the device."""
        if self._resident is not None:
            return self._resident[to_device(torch.from_numpy(chosen), self._device)]
        images = torch.from_numpy(self._pack.batch(self._positions[chosen]))
        return to_device(images, self._device)


def predict(fabric: "Fabric", classifier: Classifier, images: Images, batch: int) -> Tensor:
    """Logits (N, K) float32 on the CPU, in evaluation mode, in the precision of the training."""
    classifier.eval()
    logits = []
    with torch.inference_mode(), fabric.autocast():
        for chosen in np.array_split(np.arange(len(images)), math.ceil(len(images) / batch)):
            logits.append(classifier(images.batch(chosen)))
        # Once: fetching each batch's would let an accelerator idle meanwhile.
        return torch.cat(logits).cpu()
