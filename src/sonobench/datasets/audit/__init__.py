"""What is wrong with the data, or must be known of them, found before anything is trained."""

from sonobench.datasets.audit.audit import audit
from sonobench.datasets.audit.finding import SEVERITIES, Finding
from sonobench.datasets.audit.spellings import spellings

__all__ = ["SEVERITIES", "Finding", "audit", "spellings"]
