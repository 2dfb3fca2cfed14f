"""Where a training runs and how it computes there: devices and precision."""

import logging
from typing import TYPE_CHECKING

from sonobench.encoders import lacks
from sonobench.protocol import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingError(ValueError):
    """A training that cannot be done; the message says what to change."""


def fabric_for(settings: Training, device: str) -> "Fabric":
    """Devices and precision as an adaptation has them.

    Raises:
        TrainingError: the device has no such precision.
    """
    # It takes seconds to import, and a run that trains nothing need not wait for it.
    from lightning_fabric import Fabric  # noqa: PLC0415
    from lightning_fabric.plugins.environments.lightning import (  # noqa: PLC0415
        LightningEnvironment,
    )

    # It tells of every training which precision and device it has, which are in the protocol.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    assert settings.precision != "auto", "it is resolved with the protocol"
    if lacks(device, settings.precision):
        raise TrainingError(
            f"this {device} device has no {settings.precision}; set precision to fp32"
        )
    return Fabric(
        accelerator=device,
        devices=settings.devices,
        strategy="ddp_spawn" if settings.devices > 1 else "auto",
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        # Processes are started here, also within a Slurm job, whose own tasks are of the engine.
        plugins=LightningEnvironment(),
    )
