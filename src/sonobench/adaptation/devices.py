"""Where a training runs and how it computes there: devices, precision, threads."""

import logging
from typing import TYPE_CHECKING

import torch

from sonobench.protocol import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingError(ValueError):
    """A training that cannot be done; the message says what to change."""


def fabric_for(settings: Training, device: str) -> "Fabric":
    """Devices and precision as an adaptation has them.

    Raises:
        TrainingError: bf16 is asked for where there is none.
    """
    # It takes seconds to import, and a run that trains nothing need not wait for it.
    from lightning_fabric import Fabric  # noqa: PLC0415
    from lightning_fabric.plugins.environments.lightning import (  # noqa: PLC0415
        LightningEnvironment,
    )

    # It tells of every training which precision and device it has, which are in the protocol.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if settings.precision == "bf16":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device == "cuda"
            else torch.cpu._is_avx512_bf16_supported()
        )
        if not native:
            raise TrainingError(f"this {device} device has no bf16; set precision to fp32")
    return Fabric(
        accelerator=device,
        devices=settings.devices,
        strategy="ddp_spawn" if settings.devices > 1 else "auto",
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        # Processes are started here, also within a Slurm job, whose own tasks are of the engine.
        plugins=LightningEnvironment(),
    )


def arithmetic() -> tuple[int, bool, bool]:
    """What processes that share a training must have as the one that starts them."""
    backends = torch.backends
    return torch.get_num_threads(), backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32


def set_arithmetic(threads: int, tf32_products: bool, tf32_convolutions: bool) -> None:
    """Compute as `arithmetic` tells of another process."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = tf32_products
    torch.backends.cudnn.allow_tf32 = tf32_convolutions
