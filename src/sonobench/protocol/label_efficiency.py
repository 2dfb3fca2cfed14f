"""Settings of the curve over training patients."""

from itertools import pairwise

from pydantic import Field, field_validator

from sonobench.protocol.section import Section


class LabelEfficiency(Section):
    """Linear probes trained on fewer patients; the same patients for every encoder."""

    patients: tuple[int, ...] = Field(
        min_length=1,
        description="Numbers of training patients of a fold, ascending. A smaller number's "
        "patients are among a larger one's.",
    )
    draws: int = Field(
        default=5, ge=1, description="How often the patients of every fold are drawn."
    )
    seed: int = Field(default=0, ge=0, description="Seed of these draws.")

    @field_validator("patients")
    @classmethod
    def _ascending(cls, patients: tuple[int, ...]) -> tuple[int, ...]:
        if patients[0] < 1 or any(a >= b for a, b in pairwise(patients)):
            raise ValueError("patients must be whole numbers above 0, ascending")
        return patients
