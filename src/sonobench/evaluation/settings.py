"""What an evaluation must be told beside its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from sonobench.evaluation.paper import PaperNames

IN_DOMAIN = "in_domain"
Outputs = Literal["logits", "probabilities", "classes"]


@dataclass(frozen=True)
class EvaluationSettings:
    """Classes, cohorts and the estimand; how intervals are computed.

    Attributes:
        classes: training classes, in the order of the logits.
        source: name of the dataset that models were trained on; its test images are the
            evaluation `in_domain`, for which all `classes` are declared. None where nothing of it
            was tested.
        declared: for each external dataset, by name, the classes that it has. Averages over
            classes run over these, whatever occurs in a sample.
        estimand: `held_out`: every trained model is tested on the same in-domain images.
            `cross_validation`: the in-domain images are divided over the folds; patients are
            resampled within their fold and the statistic is the mean of the folds' metrics.
        bootstrap_draws: number of draws of the patient bootstrap.
        rank_draws: in how many of them, at most, rank-based metrics and calibration errors are
            computed.
        confidence: of every interval, in (0, 1).
        seed: of the patient bootstrap.
        outputs: what the column `logits` of predictions holds. `logits`: their softmax says how
            probable classes are. `probabilities`: as somebody gives them. `classes`: only which is
            largest counts, and there are no metrics of probabilities, no closed label space beside
            the open one and no ensembles.
        zero_probability: what a given probability of 0 counts as where logarithms are taken.
        paper: which encoders and cohorts are the published study's; None: no comparison with it.

    Raises:
        ValueError: a setting contradicts another or lies outside its range.
    """

    classes: tuple[str, ...]
    source: str | None
    declared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    estimand: Literal["held_out", "cross_validation"] = "held_out"
    bootstrap_draws: int = 10_000
    rank_draws: int = 1_000
    confidence: float = 0.95
    seed: int = 0
    outputs: Outputs = "logits"
    zero_probability: float = 1e-12
    paper: PaperNames | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: expected two or more different names, found {self.classes}")
        for taken in (self.source, IN_DOMAIN):
            if taken in self.declared:
                raise ValueError(f"declared: {taken!r} cannot be the name of an external dataset")
        for dataset, names in self.declared.items():
            unknown = [name for name in names if name not in self.classes]
            if unknown or not names or len(set(names)) < len(names):
                raise ValueError(
                    f"declared: dataset {dataset!r}: expected one or more different classes of "
                    f"{', '.join(self.classes)}; found {', '.join(names) or 'none'}"
                )
        if self.estimand not in ("held_out", "cross_validation"):
            raise ValueError(
                f"estimand: expected held_out or cross_validation, found {self.estimand!r}"
            )
        if self.outputs not in get_args(Outputs):
            raise ValueError(
                f"outputs: expected {', '.join(get_args(Outputs))}, found {self.outputs!r}"
            )
        if not 0 < self.zero_probability < 1:
            raise ValueError(
                "zero_probability: expected a number between 0 and 1, found "
                f"{self.zero_probability}"
            )
        if self.bootstrap_draws < 1:
            raise ValueError(f"bootstrap_draws: expected 1 or more, found {self.bootstrap_draws}")
        if self.rank_draws < 1:
            raise ValueError(f"rank_draws: expected 1 or more, found {self.rank_draws}")
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"confidence: expected a number between 0 and 1, found {self.confidence}"
            )

    @property
    def probabilities(self) -> bool:
        """Whether it is known how probable classes are."""
        return self.outputs != "classes"

    @property
    def evaluations(self) -> dict[str, tuple[str, ...]]:
        """Declared classes by evaluation: `in_domain`, then the external datasets."""
        home = {} if self.source is None else {IN_DOMAIN: self.classes}
        return {**home, **self.declared}

    def dataset_of(self, evaluation: str) -> str | None:
        """Name of the dataset whose images an evaluation tests."""
        return self.source if evaluation == IN_DOMAIN else evaluation

    def by_fold(self, evaluation: str) -> bool:
        """Whether every fold has a test set of its own."""
        return evaluation == IN_DOMAIN and self.estimand == "cross_validation"
