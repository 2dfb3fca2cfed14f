"""What an evaluation says beside its results: comparisons, calibration, subgroups, curves."""

import pandas as pd
import pyarrow as pa

from sonobench.tables.schema import Column, Table, check

_text, _whole, _real = pa.string(), pa.int64(), pa.float64()
_ENCODER = Column("encoder", _text, "label of the encoder")
_ADAPTATION = Column("adaptation", _text, "what was trained on top")
_EVALUATION = Column("evaluation", _text, "in_domain or an external dataset's name")
_CALIBRATION = Column("calibration", _text, "none or temperature")

COMPARISONS = Table(
    "comparisons",
    (
        Column("kind", _text, "pair, adaptation, drop or rank"),
        Column("a", _text, "label of an encoder"),
        Column("a_adaptation", _text, "what was trained on top of it"),
        Column("b", _text, "the encoder it is compared with; none in drop, rank", required=False),
        Column("b_adaptation", _text, "what was trained on top of it", required=False),
        Column("evaluation", _text, "in_domain or an external dataset's name; the latter in drop"),
        Column("label_space", _text, "open or closed"),
        Column("images", _text, "all or distinct"),
        Column("metric", _text, "macro_f1, weighted_f1 or accuracy"),
        Column("estimate", _real, "a - b; in drop in-domain - external; in rank the rank of a"),
        Column("ci_low", _real, "lower bound of the patient-level interval; of the rank"),
        Column("ci_high", _real, "upper bound"),
        Column("p", _real, "two-sided, over patients; in pair, adaptation", required=False),
        Column("p_holm", _real, "corrected by Holm; of macro F1 only", required=False),
        Column(
            "group",
            _text,
            "letters; without a common one: different; from 10 subjects on",
            required=False,
        ),
    ),
    key=(
        "kind",
        "a",
        "a_adaptation",
        "b",
        "b_adaptation",
        "evaluation",
        "label_space",
        "images",
        "metric",
    ),
)

TEMPERATURES = Table(
    "temperatures",
    (
        _ENCODER,
        _ADAPTATION,
        Column("fold", _whole, "which of the trained models"),
        Column("seed", _whole, "seed of the training"),
        Column(
            "temperature",
            _real,
            "divides the logits; least NLL on validation images; 0.01, 100: none",
        ),
        Column("n_images", _whole, "validation images that it was fitted on"),
        Column("n_patients", _whole, "subjects of these"),
    ),
    key=("encoder", "adaptation", "fold", "seed"),
)

RELIABILITY = Table(
    "reliability",
    (
        _ENCODER,
        _ADAPTATION,
        _EVALUATION,
        _CALIBRATION,
        Column("bin", _whole, "0 … 14, of equally many predictions, by confidence"),
        Column("confidence", _real, "mean probability of the predicted class"),
        Column("accuracy", _real, "share predicted right"),
        Column("n_images", _whole, "predictions in the bin, over all trained models"),
    ),
    key=("encoder", "adaptation", "evaluation", "calibration", "bin"),
)

RISK_COVERAGE = Table(
    "risk_coverage",
    (
        _ENCODER,
        _ADAPTATION,
        _EVALUATION,
        _CALIBRATION,
        Column("coverage", _real, "share of the images that is answered, the most confident first"),
        Column("risk", _real, "share predicted wrong among these, mean over trained models"),
    ),
    key=("encoder", "adaptation", "evaluation", "calibration", "coverage"),
)

SUBGROUPS = Table(
    "subgroups",
    (
        _EVALUATION,
        Column("attribute", _text, "site, device, operator, brain_plane"),
        Column("value", _text, "of the attribute"),
        Column("n_images", _whole, "images of the subgroup"),
        Column("n_patients", _whole, "subjects that they are of"),
        Column("n_classes", _whole, "classes with 10 images of 5 subjects or more"),
        Column("shown", pa.bool_(), "whether results hold estimates of it"),
        Column("confounded_with", _text, "values of others that most of it has", required=False),
    ),
    key=("evaluation", "attribute", "value"),
)

LABEL_EFFICIENCY = Table(
    "label_efficiency",
    (
        _ENCODER,
        _EVALUATION,
        Column("n_train_patients", _whole, "subjects that the probe was trained on"),
        Column("metric", _text, "macro_f1, weighted_f1 or accuracy"),
        Column("estimate", _real, "mean over folds and draws"),
        Column("ci_low", _real, "lower bound of the patient-level interval", required=False),
        Column("ci_high", _real, "upper bound", required=False),
        Column("draw_sd", _real, "standard deviation over draws of subjects", required=False),
        Column("fold_sd", _real, "standard deviation over training folds", required=False),
        Column("n_draws", _whole, "how often subjects were drawn"),
    ),
    key=("encoder", "evaluation", "n_train_patients", "metric"),
)

PAPER = Table(
    "paper",
    (
        _ENCODER,
        _ADAPTATION,
        _EVALUATION,
        Column("metric", _text, "macro_f1 or weighted_f1: the paper does not say which"),
        Column("ours", _real, "the estimate of this run"),
        Column("ci_low", _real, "lower bound of its interval", required=False),
        Column("ci_high", _real, "upper bound", required=False),
        Column("theirs", _real, "the published number"),
        Column("difference", _real, "ours - theirs"),
        Column("within", pa.bool_(), "whether theirs lies in our interval"),
    ),
    key=("encoder", "adaptation", "evaluation", "metric"),
)

CLAIMS = Table(
    "claims",
    (
        Column("claim", _text, "what the paper says"),
        Column("verdict", _text, "reproduced, consistent, not reproduced or not tested"),
        Column("reason", _text, "what the verdict rests on"),
    ),
    key=("claim",),
)


LEFT_OUT = Table(
    "left_out",
    (
        _EVALUATION,
        Column("reason", _text, "why it cannot be judged, and what to do"),
    ),
    key=("evaluation",),
)


def empty(table: Table) -> pd.DataFrame:
    """A frame with a table's columns, typed, and no row."""
    return check(pd.DataFrame(columns=table.names), table)
