"""Training of one classifier: epochs, selection on validation images, and going on after a stop."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from sonobench.adaptation.batches import Images, Labelled, predict
from sonobench.adaptation.blocks import checkpoint_blocks
from sonobench.adaptation.classifier import Classifier
from sonobench.adaptation.devices import TrainingError, fabric_for
from sonobench.adaptation.memory import MemoryPlan, advice, statistics_unmoved
from sonobench.adaptation.parameter_groups import parameter_groups, rate_figures
from sonobench.adaptation.saved_epochs import SavedEpochs, read_saved
from sonobench.encoders import memory_format, tf32
from sonobench.images.augment import augment
from sonobench.images.transfer import to_device
from sonobench.protocol import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_logger = logging.getLogger("sonobench")

# Steps between looks at the loss: each look waits for an accelerator.
_LOOK_EVERY = 16
# Seconds of training that a stop costs at most, beside the epoch that it falls into. Saving takes
# as long as some epochs of a small fold on an accelerator.
_SAVE_EVERY = 30.0
# What a training gives, where several processes shared it.
_OF_PROCESSES = "trained.pt"


@dataclass(frozen=True)
class Fold:
    """What a fold is trained and chosen on.

    Attributes:
        train: from the pack at 8/7 of the size.
        validation: from the exact one.
        n_classes: K.
        seed: of everything that is drawn; another for every fold and seed of the protocol.
    """

    train: Labelled
    validation: Labelled
    n_classes: int
    seed: int


class Trained(NamedTuple):
    """How a training went.

    Attributes:
        history: one record an epoch.
        weights: the best epoch's `Classifier.moving_state`; None where it diverged.
        classifier: what was trained, with the weights of some epoch; None where other processes
            had it.
        divergence: what was not finite, and when; empty where all was.
    """

    history: list[dict[str, Any]]
    weights: dict[str, Tensor] | None
    classifier: Classifier | None = None
    divergence: str = ""


def derived_seed(*parts: object) -> int:
    """A seed that depends on all of `parts`, and on nothing that was drawn before."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1


def train(
    make: Callable[[], Classifier],
    fold: Fold,
    settings: Training,
    device: str,
    evaluation_batch: int,
    scratch: Path,
    on_images: Callable[[int], None],
    on_note: Callable[[str], None],
) -> Trained:
    """Train until the last epoch or until patience ends; the best epoch's weights are kept.

    All that is drawn depends on seed, epoch and step alone, and `scratch` holds a recent epoch and
    the best one before it: stopped anywhere and called again, it goes on to the same result (on the
    CPU to the bit).

    Args:
        make: the classifier with its pre-trained weights, on the device.
        fold: what to train on.
        settings: the adaptation's.
        device: `cpu` or `cuda`.
        evaluation_batch: images a forward pass where nothing is trained.
        scratch: folder for going on; of this training alone.
        on_images: called with the number of images that were trained on.
        on_note: called with a line on how it goes.

    Raises:
        TrainingError: memory is not enough; names a micro_batch that fits.
    """
    fabric = fabric_for(settings, device)
    # What shows progress cannot go along to other processes.
    told = (on_images, on_note) if settings.devices == 1 else (_tell_nobody, _tell_nobody)
    plan = MemoryPlan(settings.micro_batch)
    while True:
        attempt = partial(
            _attempt,
            make=make,
            fold=fold,
            settings=settings,
            plan=plan,
            evaluation_batch=evaluation_batch,
            scratch=scratch,
            threads=torch.get_num_threads(),
            on_images=told[0],
            on_note=told[1],
        )
        trained: Trained | None = fabric.launch(attempt)
        if settings.devices > 1:
            saved = torch.load(scratch / _OF_PROCESSES, map_location=device, weights_only=True)
            trained = Trained(**saved)
        if trained is not None:
            return trained
        following = plan.following(make().batch_statistics)
        if following is None:
            raise TrainingError(advice(fabric, make, settings, plan))
        _logger.warning("out of memory with %s; going on with %s", plan, following)
        plan = following


def _attempt(
    fabric: "Fabric",
    make: Callable[[], Classifier],
    fold: Fold,
    settings: Training,
    plan: MemoryPlan,
    evaluation_batch: int,
    scratch: Path,
    threads: int,
    on_images: Callable[[int], None],
    on_note: Callable[[str], None],
) -> Trained | None:
    """Train with a memory plan; None where memory is not enough for it.

    Where several processes share the training, the first one writes what it gives to `scratch`
    instead. What was allocated is released when it returns.
    """
    # A process of its own, where several share a training, knows neither.
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(), tf32(settings.precision == "tf32"):
            session = _Session(fabric, make(), fold, settings, plan, evaluation_batch, scratch)
            trained = session.run(on_images, on_note)
    except torch.OutOfMemoryError:
        if fabric.world_size > 1:
            # The others wait for this one.
            raise TrainingError(
                f"the memory of {fabric.world_size} devices is not enough for micro_batch "
                f"{plan.micro_batch}; set a smaller one"
            ) from None
        return None
    if fabric.world_size == 1:
        return trained
    # Tensors that a process returns end with it, and what it returns must fit into a pipe.
    if fabric.global_rank == 0:
        torch.save(trained._asdict(), scratch / _OF_PROCESSES)
    return None


class _Session:
    """One training on one set of devices, from its first or its last saved epoch on."""

    def __init__(
        self,
        fabric: "Fabric",
        classifier: Classifier,
        fold: Fold,
        settings: Training,
        plan: MemoryPlan,
        evaluation_batch: int,
        scratch: Path,
    ) -> None:
        self._fabric = fabric
        self._settings = settings
        self._plan = plan
        self._seed = fold.seed
        self._evaluation_batch = evaluation_batch
        self._scratch = scratch
        self._best_weights: dict[str, Tensor] | None = None
        self._size = classifier.encoder.card.preprocess.geometry.size
        if plan.checkpointed:
            checkpoint_blocks(classifier.encoder.network)
        if fabric.world_size > 1 and classifier.batch_statistics:
            if fabric.device.type == "cpu":
                raise TrainingError(
                    "batch statistics cannot be shared between devices on the CPU; set devices to 1"
                )
            from timm.layers.norm_act import convert_sync_batchnorm  # noqa: PLC0415

            convert: Any = convert_sync_batchnorm
            classifier = convert(classifier)
        layout = memory_format(classifier, fabric.device)
        self._classifier = classifier.to(fabric.device).to(memory_format=layout)
        groups = parameter_groups(self._classifier, settings)
        self._rate_figures = rate_figures(groups)
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        compiled: Any = torch.compile(self._classifier) if settings.compile else self._classifier
        self._model, self._optimizer = fabric.setup(compiled, optimizer)
        self._train = Images(fold.train.pack, fold.train.positions, fabric.device)
        self._validation = Images(fold.validation.pack, fold.validation.positions, fabric.device)
        self._labels = to_device(torch.from_numpy(fold.train.labels), fabric.device)
        self._validation_labels = fold.validation.labels
        self._class_weights = _class_weights(fold, settings).to(fabric.device)
        # Not a small last batch, whose statistics would be poor: another order each epoch.
        self._batch = min(settings.batch_size, len(self._train))
        self._steps = len(self._train) // self._batch

    def run(self, on_images: Callable[[int], None], on_note: Callable[[str], None]) -> Trained:
        """All epochs that are left; records of the history, weights of the best epoch."""
        history = self._resume()
        saved = time.monotonic()
        on_images(len(history) * self._steps * self._batch)
        for epoch in range(len(history), self._settings.epochs):
            best = best_epoch(history, self._settings)
            patience = self._settings.patience
            if best is not None and patience is not None and epoch - best > patience:
                break
            record = self._epoch(epoch, on_images)
            if divergence := record.pop("divergence"):
                return Trained([*history, record], None, divergence=divergence)
            history.append(record)
            best = best_epoch(history, self._settings)
            if best == epoch:
                moving = self._classifier.moving_state()
                self._best_weights = {name: value.clone() for name, value in moving.items()}
            if time.monotonic() - saved >= _SAVE_EVERY:
                self._save(history)
                saved = time.monotonic()
            on_note(
                f"epoch {epoch + 1} of {self._settings.epochs}, validation macro F1 "
                f"{record['validation_macro_f1']:.3f}, best in epoch {(best or 0) + 1}"
            )
        here = self._classifier if self._fabric.world_size == 1 else None
        return Trained(history, self._best_weights, here)

    def _epoch(self, epoch: int, on_images: Callable[[int], None]) -> dict[str, Any]:
        start = time.perf_counter()
        self._model.train()
        order = np.random.default_rng(derived_seed(self._seed, epoch)).permutation(len(self._train))
        total = torch.zeros((), device=self._fabric.device)
        divergence = ""
        for step in range(self._steps):
            rate = self._set_rate(epoch * self._steps + step)
            batch = order[step * self._batch : (step + 1) * self._batch]
            total += self._step(batch, epoch, step)
            on_images(len(batch))
            last = step == self._steps - 1
            if (last or step % _LOOK_EVERY == 0) and not math.isfinite(float(total)):
                divergence = f"the loss is {float(total)} in epoch {epoch + 1}, step {step + 1}"
                break
        seconds = time.perf_counter() - start
        nll, macro_f1 = (math.nan, math.nan) if divergence else self._validate()
        if not divergence and not math.isfinite(nll):
            divergence = f"validation logits of epoch {epoch + 1} are not finite"
        return {
            "epoch": epoch,
            "learning_rate": rate,
            "train_loss": float(total) / (step + 1),
            "validation_nll": nll,
            "validation_macro_f1": macro_f1,
            "images_per_second": (step + 1) * self._batch / seconds,
            **asdict(self._plan),
            **self._rate_figures,
            "divergence": divergence,
        }

    def _step(self, batch: npt.NDArray[np.int64], epoch: int, step: int) -> Tensor:
        """One step of the optimiser; the loss, averaged over the batch."""
        weights = self._class_weights
        whole = weights[self._labels_of(batch)].sum()
        loss_sum = torch.zeros_like(whole)
        parts = np.array_split(batch, math.ceil(len(batch) / self._plan.micro_batch))
        rank, world = self._fabric.global_rank, self._fabric.world_size
        for number, part in enumerate(parts):
            own = part[rank::world]
            # Also what the network draws, such as paths that are dropped, but not the same numbers.
            seed = derived_seed(self._seed, epoch, step, number, rank)
            torch.manual_seed(derived_seed(seed, "network"))
            images = augment(self._train.batch(own), self._size, self._settings.augmentation, seed)
            with self._fabric.no_backward_sync(self._model, enabled=number < len(parts) - 1):
                loss = cross_entropy(
                    self._model(images),
                    self._labels_of(own),
                    weights,
                    reduction="sum",
                    label_smoothing=self._settings.label_smoothing,
                )
                loss = loss / whole
                with statistics_unmoved(self._classifier, self._plan.checkpointed):
                    # DDP averages gradients over devices, the loss is a sum over them.
                    self._fabric.backward(loss * world)
            loss_sum += loss.detach()
        if self._settings.gradient_clip is not None:
            self._fabric.clip_gradients(
                self._model,
                self._optimizer,
                max_norm=self._settings.gradient_clip,
                error_if_nonfinite=False,
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        whole_loss = self._fabric.all_reduce(loss_sum, reduce_op="sum")
        assert isinstance(whole_loss, Tensor)
        return whole_loss

    def _labels_of(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        return self._labels[to_device(torch.from_numpy(chosen), self._fabric.device)]

    def _set_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine (Loshchilov and Hutter, SGDR, 2017, equation 5)."""
        settings = self._settings
        warmup = min(settings.warmup_epochs, settings.epochs) * self._steps
        if step < warmup:
            share = min(1.0, (step + 1) / warmup)
        else:
            gone = (step - warmup) / max(1.0, settings.epochs * self._steps - warmup)
            low = settings.final_learning_rate
            share = low + (1 - low) * (1 + math.cos(math.pi * gone)) / 2
        rate = settings.learning_rate * share
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate

    def _validate(self) -> tuple[float, float]:
        logits = predict(self._fabric, self._classifier, self._validation, self._evaluation_batch)
        labels = torch.from_numpy(self._validation_labels)
        nll = float(cross_entropy(logits.double(), labels))
        macro_f1 = f1_score(
            labels.numpy(),
            logits.argmax(1).numpy(),
            labels=range(logits.shape[1]),
            average="macro",
            zero_division=0,
        )
        # One device's view for all, or they could part ways.
        found: tuple[float, float] = self._fabric.broadcast((nll, float(macro_f1)))
        return found

    def _resume(self) -> list[dict[str, Any]]:
        """The saved epochs' history, with weights and optimiser as they were after the last."""
        saved = read_saved(self._scratch, self._fabric.device)
        if saved is None:
            return []
        self._classifier.load_moving_state(saved.classifier)
        self._optimizer.load_state_dict(saved.optimizer)
        self._best_weights = saved.best
        return saved.history

    def _save(self, history: list[dict[str, Any]]) -> None:
        # All others have the same, and go on.
        if self._fabric.global_rank == 0:
            assert self._best_weights is not None
            state = self._classifier.moving_state()
            SavedEpochs(state, self._optimizer.state_dict(), history, self._best_weights).write(
                self._scratch
            )


def best_epoch(history: list[dict[str, Any]], settings: Training) -> int | None:
    """The best epoch of a history; the earliest of equals, None where it is empty."""

    def badness_of(epoch: int) -> tuple[float, float]:
        return badness(history[epoch], settings)

    return min(range(len(history)), key=badness_of, default=None)


def badness(epoch: Mapping[Any, Any], settings: Training) -> tuple[float, float]:
    """What `selection` orders epochs by, of a record of the history: the lowest is the best."""
    macro_f1, nll = float(epoch["validation_macro_f1"]), float(epoch["validation_nll"])
    return (-macro_f1, nll) if settings.selection == "macro_f1" else (nll, 0.0)


def _class_weights(fold: Fold, settings: Training) -> Tensor:
    counts = np.bincount(fold.train.labels, minlength=fold.n_classes)
    weights = np.ones(fold.n_classes)
    if settings.class_weighting == "balanced":
        # A class without images has no weight: label smoothing would give it the largest of all.
        shown = counts > 0
        weights = np.where(shown, len(fold.train.labels) / (shown.sum() * counts.clip(1)), 0.0)
    return torch.from_numpy(weights.astype(np.float32))


def _tell_nobody(_: object) -> None:
    pass
