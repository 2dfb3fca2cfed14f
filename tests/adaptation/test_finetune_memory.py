"""Fine-tuning of one fold where memory is not enough."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import SHORT, SIDE, Hospital, TinyNetwork, finetune, full, logits, tiny_encoder
from torch import Tensor

from sonobench.adaptation import (
    TrainingError,
)
from sonobench.adaptation.blocks import checkpoint_blocks
from sonobench.encoders import Encoder
from sonobench.protocol import HeadOnly


class _LimitedNetwork(TinyNetwork):
    """Raises what CUDA raises once the activations that are kept exceed a limit in bytes."""

    limit = 0

    def forward(self, images: Tensor) -> Tensor:
        kept = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes
            if kept > self.limit:
                raise torch.OutOfMemoryError(f"{kept} bytes kept, {self.limit} there")
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return super().forward(images)


def limited(limit: int, *, batch_statistics: bool) -> Callable[[], Encoder]:
    network = type("Limited", (_LimitedNetwork,), {"limit": limit})
    return partial(tiny_encoder, batch_statistics, network)


def kept_bytes(batch_statistics: bool, images: int, checkpointed: bool) -> int:
    """What a forward pass of the tiny network keeps, found by raising the limit."""
    for limit in range(1_000, 1_000_000, 500):
        network = limited(limit, batch_statistics=batch_statistics)().network
        network.train().requires_grad_(True)
        if checkpointed:
            checkpoint_blocks(network)
        try:
            network(torch.zeros(images, 3, SIDE, SIDE))
        except torch.OutOfMemoryError:
            continue
        return limit
    raise AssertionError


def test_out_of_memory_activations_are_computed_again_with_the_same_result(
    hospital: Hospital, tmp_path: Path
) -> None:
    enough = kept_bytes(True, 4, True)
    assert enough < kept_bytes(True, 4, False)
    for name in ("free", "limited"):
        (tmp_path / name).mkdir()
    expected = finetune(hospital, tmp_path / "free", full())
    found = finetune(hospital, tmp_path / "limited", full(), limited(enough, batch_statistics=True))
    assert found.diagnostics["checkpointed"].all()
    # Running statistics too have moved once a step only.
    np.testing.assert_allclose(logits(found), logits(expected), atol=1e-4)


def test_then_micro_batches_shrink_where_there_are_no_batch_statistics(
    hospital: Hospital, tmp_path: Path
) -> None:
    enough = kept_bytes(False, 1, True)
    adapted = finetune(hospital, tmp_path, full(), limited(enough, batch_statistics=False))
    assert adapted.diagnostics["micro_batch"].max() < 4
    assert len(adapted.predictions) == 24


class _SmallBatches(TinyNetwork):
    """Has no memory for more than two images that are trained on."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(images) > 2:
            raise torch.OutOfMemoryError
        return super().forward(images)


def test_also_where_they_are_frozen_as_they_are_then_of_no_batch(
    hospital: Hospital, tmp_path: Path
) -> None:
    small = partial(tiny_encoder, True, _SmallBatches)
    adapted = finetune(hospital, tmp_path, HeadOnly(**SHORT), small)
    assert set(adapted.diagnostics["micro_batch"]) == {2}


def test_with_batch_statistics_it_ends_with_a_micro_batch_that_fits(
    hospital: Hospital, tmp_path: Path
) -> None:
    enough = kept_bytes(True, 2, True)
    with pytest.raises(TrainingError, match="2 fits: set micro_batch to 2"):
        finetune(hospital, tmp_path, full(), limited(enough, batch_statistics=True))
