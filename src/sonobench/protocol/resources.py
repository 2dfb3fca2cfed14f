"""What tasks may take of a cluster: the one part of a protocol that changes no result."""

import re
import unicodedata
from typing import Literal

from pydantic import Field, field_validator

from sonobench.protocol.section import Section


class Limits(Section):
    """What a task of one sort asks for, beside its `numerics.threads_per_task` CPU threads."""

    gpus: float | None = Field(
        default=None,
        ge=0,
        description="CUDA devices, where the backend is cuda; less than one is a share of one, "
        "used beside other tasks (Slurm gives whole ones). null: a whole one for the first task of "
        "a model, and for the others the share of its memory that the first one took.",
    )
    memory_gb: float = Field(default=16.0, gt=0, description="Main memory; Slurm only.")
    hours: float = Field(
        default=4.0,
        gt=0,
        description="Time limit; a task that exceeds it is put into the queue again, at most three "
        "times; Slurm only.",
    )


class Resources(Section):
    """Limits for clusters. They change no result, and neither the protocol's hash nor any key."""

    embedding: Limits = Field(
        default=Limits(gpus=0.25), description="Admission and embedding of an encoder."
    )
    probe: Limits = Field(default=Limits(gpus=0.25), description="Probes of frozen features.")
    finetuning: Limits = Field(
        default=Limits(memory_gb=32, hours=24), description="Training of a network."
    )
    slurm: dict[str, str | int] = Field(
        default={},
        description="Further options of sbatch by their long names: `{partition: gpu, account: "
        "lab}`.",
    )
    slurm_executor: Literal["slurm", "local"] = Field(
        default="slurm",
        description="local: submitit starts processes of this machine in place of Slurm jobs, to "
        "try a set-up.",
    )

    @field_validator("slurm")
    @classmethod
    def _one_line_each(cls, options: dict[str, str | int]) -> dict[str, str | int]:
        """Each becomes a line of a script that Slurm runs, and must not become several."""
        for name, value in options.items():
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
                raise ValueError(
                    f"{name!r}: expected an option of sbatch by its long name, without dashes "
                    "before it: letters, digits, '-' and '_'"
                )
            if hidden := [c for c in str(value) if unicodedata.category(c) in ("Cc", "Zl", "Zp")]:
                raise ValueError(
                    f"{name}: has a control character in it (U+{ord(hidden[0]):04X}); an option of "
                    "sbatch is one line"
                )
        return options
