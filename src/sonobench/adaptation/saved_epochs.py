"""What a training leaves after each epoch so that it can go on: the last state and the best one."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class SavedEpochs:
    """The last and the best epoch of one training, in a folder of its own.

    A file is whole or not there, whenever the process is killed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def last(self, device: torch.device) -> dict[str, Any] | None:
        """What the last `save` was given as `state`; None where nothing was saved."""
        file = self._last_file
        if not file.is_file():
            return None
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        return state

    def save(self, epoch: int, state: dict[str, Any], best: dict[str, Tensor] | None) -> None:
        """Keep an epoch.

        Args:
            epoch: counted from 0.
            state: what going on needs.
            best: its weights, if no epoch before was better; those before are deleted.
        """
        # The best first: the last names it.
        if best is not None:
            _write(best, self.best_file(epoch))
        _write(state, self._last_file)
        if best is not None:
            for file in self._folder.glob("best-*.pt"):
                if file != self.best_file(epoch):
                    file.unlink()

    def best_file(self, epoch: int) -> Path:
        """Where the weights of an epoch are if it is the best one."""
        return self._folder / f"best-{epoch}.pt"

    @property
    def _last_file(self) -> Path:
        return self._folder / "last.pt"


def _write(content: Any, file: Path) -> None:
    """Put a file in place at once, after it is on the disk."""
    aside = file.with_suffix(".aside")
    with aside.open("wb") as handle:
        torch.save(content, handle)
        handle.flush()
        os.fsync(handle.fileno())
    aside.replace(file)
