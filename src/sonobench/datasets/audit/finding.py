"""One thing that the audit found, as data and as a sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

_LISTED = 20
Severity = Literal["error", "warning", "info"]
# The worst first.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """What was found in a cohort.

    Attributes:
        kind: `exact_duplicates`, `label_conflict`, `burned_in`, …
        severity: `error` ends a run, `warning` can move a number, `info` is to be known.
        cohort: its name in the protocol.
        message: a sentence for people.
        count: of what the sentence counts.
        image_ids: of some of the images, twenty at most.
    """

    kind: str
    severity: Severity
    cohort: str
    message: str
    count: int
    image_ids: tuple[str, ...] = ()

    @staticmethod
    def some(image_ids: Iterable[str]) -> tuple[str, ...]:
        """The first twenty."""
        return tuple(str(image_id) for image_id in islice(image_ids, _LISTED))
