"""Arithmetic of networks: float32, TF32 and bfloat16, and which a device has."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sonobench.protocol import Precision


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 on CUDA or not, in matrix products and in convolutions, and put back what was.

    TF32 rounds factors to 10 bits. torch allows it in convolutions unless it is told otherwise
    (https://docs.pytorch.org/docs/stable/notes/cuda.html, "TensorFloat-32").
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def lacks(device: str, precision: Precision) -> bool:
    """Whether a device of this machine, `cpu` or `cuda`, cannot compute so without emulation."""
    if precision == "bf16":
        if device == "cuda":
            return not torch.cuda.is_bf16_supported(including_emulation=False)
        return not torch.cpu._is_avx512_bf16_supported()
    return precision == "tf32" and device == "cpu"
