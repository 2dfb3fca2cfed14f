"""Which jobs a benchmark is made of: admission, embedding and adaptation of every encoder."""

from collections.abc import Sequence
from dataclasses import replace

from sonobench import steps
from sonobench.encoders import EncoderSpec
from sonobench.engine import Job, Resources, Task
from sonobench.members import Member
from sonobench.preparation import Data
from sonobench.protocol import Limits, Protocol, Training


def plan_jobs(
    protocol: Protocol, members: Sequence[Member], data: Data, shares: int
) -> tuple[list[Job], dict[str, Task], dict[tuple[str, str, int], steps.AdaptedTasks]]:
    """Jobs of admission, embedding and adaptation.

    Args:
        protocol: what is measured.
        members: the encoders that take part.
        data: the cohorts.
        shares: into how many jobs an encoder's embedding of a cohort is divided.

    Returns:
        The jobs, the certificate's task of each encoder's label, and the tasks of each trained
        (encoder, adaptation, seed).
    """
    numerics, classes, seed = protocol.numerics, protocol.classes, protocol.seeds[0]
    majority = steps.majority_job(data.samples, data.splits, classes)
    jobs, certificates = [majority], dict[str, Task]()
    adapted = {("none", "majority_class", seed): steps.AdaptedTasks(majority.tasks)}
    for member in members:
        probed = "linear_probe" in protocol.adaptations_of(member.entry)
        settings = protocol.adaptations.linear_probe if probed else None
        features = dict[int, list[Task]]()
        if member.embeddings is not None and settings is not None:
            read = steps.given_embeddings_job(
                member.entry.label,
                member.embeddings,
                member.embeddings_sha256,
                data.samples,
            )
            jobs.append(read)
            features[seed] = list(read.tasks)
        for spec in member.specs:
            certificate = steps.certificate_job(spec, numerics, protocol.admission)
            jobs.append(certificate)
            certificates.setdefault(spec.label, certificate.tasks[0])
            if settings is None:
                continue
            tasks = features.setdefault(spec.seed if spec.seed is not None else seed, [])
            for name, positions in data.positions.items():
                pixels = data.samples.loc[data.samples["dataset"] == name, "pixel_sha256"]
                embedding, embedded = steps.embed_jobs(
                    spec,
                    name,
                    pixels.tolist(),
                    positions,
                    steps.pack_task(data.files[name].hashes, spec.card.preprocess.geometry),
                    certificate.tasks[0],
                    numerics,
                    shares=shares,
                )
                jobs += embedding
                tasks += embedded
        for trained_seed, tasks in features.items():
            assert settings is not None
            name = f"linear probe {member.entry.label}"
            name += f" seed {trained_seed}" if len(features) > 1 else ""
            probe = steps.probe_job(
                name, tasks, data.samples, data.splits, classes, settings, numerics
            )
            jobs.append(probe)
            adapted[member.entry.label, "linear_probe", trained_seed] = steps.AdaptedTasks(
                probe.tasks, features=tuple(tasks)
            )
        for name, training in member.trainings(protocol).items():
            for position, trained_seed in enumerate(protocol.seeds):
                # A random twin has one set of weights a seed, others one for all.
                spec = member.specs[position % len(member.specs)]
                finetuning, tasks_of = steps.finetune_jobs(
                    name,
                    training,
                    spec,
                    steps.certificate_job(spec, numerics, protocol.admission).tasks[0],
                    _packed(data, spec, protocol.source.name),
                    data.samples,
                    data.splits,
                    classes,
                    trained_seed,
                    numerics,
                )
                jobs += finetuning
                adapted[member.entry.label, name, trained_seed] = tasks_of
    kept = [_placed(job, protocol) for job in _each_task_once(jobs)]
    return kept, certificates, adapted


def plan_curve(
    protocol: Protocol, data: Data, adapted: dict[tuple[str, str, int], steps.AdaptedTasks]
) -> tuple[list[Job], dict[tuple[str, int], Task]]:
    """Jobs of the curve over training patients, if the protocol has one.

    Of an encoder with several seeds (a random twin) the first is taken: draws are of patients.

    Args:
        protocol: what is measured.
        data: the cohorts.
        adapted: tasks of the linear probes, from `plan_jobs`.

    Returns:
        The jobs, and the task of each encoder and number of patients.

    Raises:
        ProtocolError: a number of patients that a fold does not have or that lacks a class.
    """
    curve, settings = protocol.label_efficiency, protocol.adaptations.linear_probe
    jobs, made = list[Job](), dict[tuple[str, int], Task]()
    if curve is None or settings is None:
        return jobs, made
    for patients in curve.patients:
        steps.splits_of_fewer(data.samples, data.splits, protocol.classes, patients, curve)
        for (encoder, adaptation, _), tasks in adapted.items():
            if adaptation != "linear_probe" or (encoder, patients) in made:
                continue
            job = steps.curve_job(
                encoder,
                patients,
                tasks.features,
                data.samples,
                data.splits,
                protocol.classes,
                settings,
                curve,
                protocol.numerics,
            )
            jobs.append(_placed(job, protocol))
            made[encoder, patients] = job.tasks[0]
    return _each_task_once(jobs), made


def _packed(data: Data, spec: EncoderSpec, source: str) -> list[steps.PackedCohort]:
    """Where an encoder's images are, the source's also at the size for training."""
    geometry = spec.card.preprocess.geometry
    return [
        steps.PackedCohort(
            name,
            steps.pack_task(data.files[name].hashes, geometry),
            positions,
            steps.pack_task(data.files[name].hashes, geometry.for_training())
            if name == source
            else None,
        )
        for name, positions in data.positions.items()
    ]


def _each_task_once(jobs: Sequence[Job]) -> list[Job]:
    """Take from a job what an earlier one makes: one encoder under two labels is one work."""
    made = set[Task]()
    kept = []
    for job in jobs:
        own = tuple(task for task in job.tasks if task not in made)
        made.update(own)
        if own:
            kept.append(replace(job, tasks=own))
    return kept


def _placed(job: Job, protocol: Protocol) -> Job:
    """The job with what it asks of a machine: the protocol's limits for its kind."""
    measured = protocol.resources.finetuning.gpus is None
    return replace(job, resources=_asked(job, protocol), alike=job.alike if measured else "")


def _asked(job: Job, protocol: Protocol) -> Resources:
    asked, trained = protocol.resources, job.kind.removesuffix("_trial")
    limits = {
        "certificate": asked.embedding,
        "embed": asked.embedding,
        "majority_class": Limits(gpus=0),
    }.get(job.kind, asked.probe)
    training = getattr(protocol.adaptations, trained, None)
    devices = 1
    if isinstance(training, Training):
        limits, devices = asked.finetuning, training.devices
    # Those that share a training have a whole device each, and a process of their own.
    asked_gpus = 1.0 if limits.gpus is None else limits.gpus
    gpus = asked_gpus if devices == 1 else max(asked_gpus, devices)
    return Resources(
        cpus=protocol.numerics.threads_per_task * devices,
        gpus=gpus if protocol.numerics.backend == "cuda" else 0.0,
        memory_gb=limits.memory_gb,
        hours=limits.hours,
    )
