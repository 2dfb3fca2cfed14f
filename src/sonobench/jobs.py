"""Which jobs a benchmark is made of: admission, embedding and adaptation of every encoder."""

from collections.abc import Sequence
from dataclasses import replace

from sonobench import steps
from sonobench.encoders import file_sha256
from sonobench.engine import Job, Task
from sonobench.preparation import Data, Member
from sonobench.protocol import Protocol


def plan_jobs(
    protocol: Protocol, members: Sequence[Member], data: Data, shares: int
) -> tuple[list[Job], dict[str, Task], dict[tuple[str, str, int], Task]]:
    """Jobs of admission, embedding and adaptation.

    Args:
        protocol: what is measured.
        members: the encoders that take part.
        data: the cohorts.
        shares: into how many jobs an encoder's embedding of a cohort is divided.

    Returns:
        The jobs, the certificate's task of each encoder's label, and the task of each trained
        (encoder, adaptation, seed).
    """
    numerics, classes, seed = protocol.numerics, protocol.classes, protocol.seeds[0]
    settings = protocol.adaptations.linear_probe
    majority = steps.majority_job(data.samples, data.splits, classes)
    jobs, certificates = [majority], dict[str, Task]()
    adapted = {("none", "majority_class", seed): majority.tasks[0]}
    for member in members:
        features = dict[int, list[Task]]()
        if member.embeddings is not None:
            read = steps.given_embeddings_job(
                member.entry.label,
                member.embeddings,
                file_sha256(member.embeddings),
                data.samples,
            )
            jobs.append(read)
            features[seed] = list(read.tasks)
        for spec in member.specs:
            certificate = steps.certificate_job(spec, numerics, protocol.admission)
            jobs.append(certificate)
            certificates.setdefault(spec.label, certificate.tasks[0])
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
        if settings is None:
            continue
        for trained_seed, tasks in features.items():
            name = f"linear probe {member.entry.label}"
            name += f" seed {trained_seed}" if len(features) > 1 else ""
            probe = steps.probe_job(
                name, tasks, data.samples, data.splits, classes, settings, numerics
            )
            jobs.append(probe)
            adapted[member.entry.label, "linear_probe", trained_seed] = probe.tasks[0]
    return _each_task_once(jobs), certificates, adapted


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
