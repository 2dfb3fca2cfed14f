"""All that a report is made of: a run's folder and what its predictions say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd

from sonobench.evaluation import Evaluation
from sonobench.report.cases import Opinions
from sonobench.report.charts import Figure, figures
from sonobench.report.comparisons import Comparisons
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores


@dataclass(frozen=True)
class Material:
    """What page, tables and figures show.

    Attributes:
        run: the folder but for its predictions.
        evaluation: of the predictions.
        scores, comparisons: the same, as the report asks it.
        opinions: what every model said of every tested image.
        figures: by name.
    """

    run: RunFolder
    evaluation: Evaluation
    scores: Scores
    comparisons: Comparisons
    opinions: Opinions
    figures: dict[str, Figure]

    @classmethod
    def read(cls, folder: Path, evaluation: Evaluation, predictions: pd.DataFrame) -> Self:
        """Read what the folder holds.

        Raises:
            TableError: a file of the folder is missing or wrong.
        """
        run, scores = RunFolder.read(folder), Scores.from_results(evaluation.results)
        return cls(
            run,
            evaluation,
            scores,
            Comparisons.of(evaluation.comparisons, run.protocol.evaluation.confidence),
            Opinions.of(predictions, run.samples, run.protocol.classes),
            figures(run, scores, evaluation),
        )
