"""Steps of fine-tuning: one task a fold, and one a learning rate that is tried."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from sonobench.adaptation import CohortImages, best_learning_rate, finetune_fold
from sonobench.encoders import Encoder, EncoderSpec, open_encoder, tf32
from sonobench.engine import JSON, Job, Progress, Store, Task
from sonobench.images import Pack
from sonobench.protocol import Numerics, Training
from sonobench.steps.common import micro_batch, threads, training_data
from sonobench.steps.training import AdaptedTasks, read_adapted, write_adapted

_CHOSEN_BY = ["validation_macro_f1", "validation_nll"]


@dataclass(frozen=True)
class PackedCohort:
    """Where a cohort's images are.

    Attributes:
        name: of the cohort.
        pack: of the encoder's geometry.
        positions: of its samples in the pack, in the order of the sample table.
        training: the pack at 8/7 of the size; None of cohorts that are only tested on.
    """

    name: str
    pack: Task
    positions: npt.NDArray[np.int64]
    training: Task | None = None


@dataclass(frozen=True)
class _Model:
    """What all folds and trials of a fine-tuning share."""

    adaptation: str
    spec: EncoderSpec
    cohorts: tuple[PackedCohort, ...]
    samples: pd.DataFrame
    splits: pd.DataFrame
    classes: tuple[str, ...]
    seed: int
    numerics: Numerics


def finetune_jobs(
    adaptation: str,
    settings: Training,
    spec: EncoderSpec,
    certificate: Task,
    cohorts: Sequence[PackedCohort],
    samples: pd.DataFrame,
    splits: pd.DataFrame,
    classes: tuple[str, ...],
    seed: int,
    numerics: Numerics,
) -> tuple[list[Job], AdaptedTasks]:
    """The fine-tuning of an encoder, fold by fold.

    Args:
        adaptation: its name in tables; the kind of its tasks.
        settings: of the adaptation.
        spec: the encoder.
        certificate: without it the encoder is not used.
        cohorts: the source with its training pack, and the external ones.
        samples, splits: the tables.
        classes: order of the logits.
        seed: of everything that is drawn.
        numerics: the protocol's.
    """
    model = _Model(adaptation, spec, tuple(cohorts), samples, splits, classes, seed, numerics)
    needs = [certificate]
    for cohort in cohorts:
        needs += [task for task in (cohort.pack, cohort.training) if task is not None]
    common: dict[str, JSON] = {
        "encoder": spec.identity,
        "packs": [need.key for need in needs[1:]],
        **training_data(samples, splits, classes),
        "seed": seed,
        "numerics": numerics.model_dump(mode="json"),
    }
    title = f"{adaptation.replace('_', ' ')} {spec.label}" + (f" seed {seed}" if seed else "")

    def job(task: Task, part: str, fold: int, used: Training, trials: tuple[Task, ...]) -> Job:
        step = partial(_finetune, model, used, fold, trials)
        trained = ((splits["fold"] == fold) & (splits["role"] == "train")).sum()
        whole = max(1, trained // used.batch_size) * min(used.batch_size, trained) * used.epochs
        return Job(
            f"{title} · {part}",
            (task,),
            step,
            needs=(*needs, *trials),
            total=int(whole),
            unit="images",
            alike=f"{adaptation} {spec.label}",
        )

    jobs, folds, trials = list[Job](), list[Task](), dict[int, tuple[Task, ...]]()
    for fold in range(int(splits["fold"].max()) + 1):
        searched = _searched_fold(splits, fold)
        if searched not in trials:
            trials[searched] = ()
            part = "learning rate" if searched == 0 else f"fold {searched + 1}, learning rate"
            for rate in settings.learning_rate_search:
                tried = settings.model_copy(
                    update={"learning_rate": rate, "learning_rate_search": ()}
                )
                task = Task(
                    f"{adaptation}_trial",
                    2,
                    {**common, "fold": searched, "settings": tried.model_dump(mode="json")},
                )
                trials[searched] += (task,)
                jobs.append(job(task, f"{part} {rate:g}", searched, tried, ()))
        own: dict[str, JSON] = {"fold": fold, "settings": settings.model_dump(mode="json")}
        if trials[searched]:
            own["trials"] = [trial.key for trial in trials[searched]]
        folds.append(Task(adaptation, 2, {**common, **own}))
        jobs.append(job(folds[-1], f"fold {fold + 1}", fold, settings, trials[searched]))
    return jobs, AdaptedTasks(tuple(folds), tuple(chain.from_iterable(trials.values())))


def _searched_fold(splits: pd.DataFrame, fold: int) -> int:
    """The fold whose patients choose a fold's learning rate: the first, unless it tests on them."""
    role = splits["role"]
    seen = splits.loc[(splits["fold"] == 0) & role.isin(("train", "validation")), "image_id"]
    tested = splits.loc[(splits["fold"] == fold) & (role == "test"), "image_id"]
    return fold if tested.isin(seen).any() else 0


def learning_rate_search(settings: Training, trials: Sequence[Task], store: Store) -> pd.DataFrame:
    """One row a fold and learning rate that was tried: its best epoch, and whether it was chosen.

    Args:
        settings: of the adaptation.
        trials: the tasks of its learning rates, of one fold or of one after the other.
        store: where they are.
    """
    rates, rows = settings.learning_rate_search, []
    for start in range(0, len(trials), len(rates)):
        own = trials[start : start + len(rates)]
        found = [read_adapted(store, trial).diagnostics for trial in own]
        chosen = best_learning_rate(dict(zip(rates, found, strict=True)), settings)
        for rate, diagnostics in zip(rates, found, strict=True):
            # One that diverged has no best epoch.
            best = diagnostics[diagnostics["best"]].reindex(columns=_CHOSEN_BY)
            figures = best.to_numpy()[0] if len(best) else np.full(len(_CHOSEN_BY), np.nan)
            figures_by_name = dict(zip(_CHOSEN_BY, figures, strict=True))
            fold = int(diagnostics["fold"].iloc[0])
            row = {"fold": fold, "learning_rate": rate, **figures_by_name}
            rows.append({**row, "chosen": rate == chosen})
    return pd.DataFrame(rows)


def _finetune(
    model: _Model,
    settings: Training,
    fold: int,
    trials: tuple[Task, ...],
    tasks: Sequence[Task],
    store: Store,
    progress: Progress,
) -> None:
    (task,) = tasks
    if trials:
        search = learning_rate_search(settings, trials, store)
        rate = float(search.loc[search["chosen"], "learning_rate"].iloc[0])
        settings = settings.model_copy(update={"learning_rate": rate})
    geometry = model.spec.card.preprocess.geometry
    cohorts = {
        cohort.name: CohortImages(
            Pack(store.folder(cohort.pack), geometry),
            cohort.positions,
            None
            if cohort.training is None
            else Pack(store.folder(cohort.training), geometry.for_training()),
        )
        for cohort in model.cohorts
    }
    is_trial = task.kind != model.adaptation
    if model.numerics.backend == "cuda":
        # What jobs before it have left would count as its own.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with threads(model.numerics), tf32(settings.precision == "tf32"):
        adapted = finetune_fold(
            partial(_open, model.spec, model.numerics.backend),
            cohorts,
            model.samples,
            model.splits,
            model.classes,
            settings,
            fold=fold,
            seed=model.seed,
            device=model.numerics.backend,
            evaluation_batch=micro_batch(model.numerics, model.spec),
            scratch=store.scratch(task),
            # Test and external images are touched once, by the models that are reported.
            roles=("validation",) if is_trial else ("validation", "test", "external"),
            on_images=progress.advance,
            on_note=progress.note,
        )
    if model.numerics.backend == "cuda" and settings.devices == 1:
        progress.device_share = _share_of_device()
        torch.cuda.empty_cache()
    with store.write(task) as folder:
        write_adapted(adapted, folder)
        if settings.keep_weights and adapted.weights is not None and not is_trial:
            on_cpu = {name: value.cpu() for name, value in adapted.weights.items()}
            torch.save(on_cpu, folder / "weights.pt")


# Bytes that CUDA itself takes of a device for a process that uses it: 0.4 to 0.6 GB as a rule.
_CONTEXT = 2**30


def _share_of_device() -> float:
    """How much of the device's memory this process had at most since its peak was reset."""
    taken = torch.cuda.max_memory_reserved() + _CONTEXT
    return min(1.0, taken / torch.cuda.get_device_properties(0).total_memory)


def _open(spec: EncoderSpec, backend: str) -> Encoder:
    """The encoder with its pre-trained weights, to be changed.

    Filling a large network takes longer than an accelerator takes to train a small fold. Of a
    network that somebody else's code makes nobody knows whether it can be copied.
    """
    if backend == "cpu" or spec.entry.python is not None:
        return open_encoder(spec, backend)[0]
    return fresh_copy(spec, backend)


# As it was before any training, of the encoder that this process trained last.
_last_opened: dict[str, Encoder] = {}


def fresh_copy(spec: EncoderSpec, backend: str) -> Encoder:
    """A copy of the encoder as it is before any training; its weights are read once a process."""
    key = json.dumps(spec.identity, sort_keys=True)
    if key not in _last_opened:
        _last_opened.clear()
        _last_opened[key] = open_encoder(spec, "cpu")[0]
    kept = _last_opened[key]
    return Encoder(deepcopy(kept.network), kept.card, backend)
