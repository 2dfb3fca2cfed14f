"""What is trained on top of an encoder: the linear probe and its solver; the majority class.

Every adaptation returns `Adapted`: predictions on validation, test and external images, and
diagnostics of its training.
"""

from sonobench.adaptation.linear_probe import linear_probe
from sonobench.adaptation.majority import majority_class
from sonobench.adaptation.predictions import Adapted

__all__ = ["Adapted", "linear_probe", "majority_class"]
