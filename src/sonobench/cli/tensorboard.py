"""Curves of fine-tuning for TensorBoard, from what a run has left."""

import shutil
from pathlib import Path

from sonobench.tables import read_parquet

_CURVES = ["learning_rate", "train_loss", "validation_nll", "validation_macro_f1"]


def write_tensorboard(folder: Path) -> Path | None:
    """Write `tensorboard/` into a run's folder, one curve a model and fold, from its table.

    Returns:
        The folder that was written; None where nothing was fine-tuned.

    Raises:
        ImportError: tensorboard is not installed.
        TableError: the table is damaged.
    """
    table = folder / "diagnostics" / "finetune.parquet"
    if not table.is_file():
        return None
    # An optional part of the installation.
    from torch.utils.tensorboard import SummaryWriter

    history = read_parquet(table)
    out = folder / "tensorboard"
    shutil.rmtree(out, ignore_errors=True)
    models = ["encoder", "adaptation", "seed", "fold"]
    for (encoder, adaptation, seed, fold), rows in history.groupby(models):
        name = f"{encoder}/{adaptation}/seed {seed}/fold {fold}".replace(":", "_")
        with SummaryWriter(str(out / name)) as writer:
            for row in rows.to_dict("records"):
                for curve in _CURVES:
                    writer.add_scalar(curve, row[curve], row["epoch"] + 1)
    return out
