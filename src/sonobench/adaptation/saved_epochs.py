"""What a training leaves on the disk so that it can go on after a stop."""

import logging
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_logger = logging.getLogger("sonobench")

_FILE = "epochs.pt"


@dataclass(frozen=True)
class SavedEpochs:
    """A training after an epoch.

    Attributes:
        classifier: its `moving_state` after the last of them.
        optimizer: the optimiser's state then.
        history: one record an epoch.
        best: `moving_state` after the best of them.
    """

    classifier: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: list[dict[str, Any]]
    best: dict[str, Tensor]

    def write(self, folder: Path) -> None:
        """Keep it in a folder of this training's own, in place of what was kept before.

        The file is whole or not there, whenever the process is killed.
        """
        aside = folder / f"{_FILE}.aside"
        with aside.open("wb") as handle:
            torch.save(vars(self), handle)
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(folder / _FILE)


def read_saved(folder: Path, device: torch.device) -> SavedEpochs | None:
    """What was kept in a folder, on a device; None where nothing was, or what was is damaged."""
    file = folder / _FILE
    if not file.is_file():
        return None
    try:
        with zipfile.ZipFile(file) as parts:
            if (part := parts.testzip()) is not None:
                raise ValueError(f"its part {part} does not have its checksum")
        return SavedEpochs(**torch.load(file, map_location=device, weights_only=True))
    except MemoryError:
        raise
    # Damaged files make the reader raise nearly anything; the training begins anew all the same.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _logger.warning("%s is damaged (%s); the training begins anew", file, reason[:200])
        return None
