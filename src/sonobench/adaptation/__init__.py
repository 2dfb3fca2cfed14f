"""What is trained on top of an encoder: linear probe, fine-tuning by gradient, majority class.

Every adaptation returns `Adapted`: predictions on validation, test and external images, and
diagnostics of its training.
"""

from sonobench.adaptation.devices import TrainingError
from sonobench.adaptation.finetune import CohortImages, best_learning_rate, finetune_fold
from sonobench.adaptation.linear_probe import linear_probe
from sonobench.adaptation.majority import majority_class
from sonobench.adaptation.predictions import Adapted

__all__ = [
    "Adapted",
    "CohortImages",
    "TrainingError",
    "best_learning_rate",
    "finetune_fold",
    "linear_probe",
    "majority_class",
]
