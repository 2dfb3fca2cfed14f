"""A run's tables: what its folder holds to be evaluated, and what an evaluation leaves there."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from sonobench.engine import Store, Task
from sonobench.evaluation import PAPER_MODELS, Evaluation, EvaluationSettings, PaperNames
from sonobench.protocol import Protocol, load_protocol, safe_name
from sonobench.tables import (
    CLAIMS,
    COMPARISONS,
    LABEL_EFFICIENCY,
    PAPER,
    PREDICTIONS,
    RELIABILITY,
    RESULTS,
    RISK_COVERAGE,
    SAMPLES,
    SUBGROUPS,
    TEMPERATURES,
    TableError,
    read_classes,
    read_table,
    write_csv,
    write_parquet,
)

_CURVE = Path("predictions", "label_efficiency")


def read_run(folder: Path) -> tuple[Protocol, pd.DataFrame, pd.DataFrame]:
    """Protocol, samples and predictions of a run.

    Raises:
        TableError, ProtocolError: a file of the folder is missing or wrong; the message names it.
    """
    if not (folder / "protocol.yaml").is_file():
        raise TableError(f"{folder} is no run's folder: there is no protocol.yaml in it")
    protocol = load_protocol(folder / "protocol.yaml")
    samples = read_table(folder / "samples.parquet", SAMPLES)
    files = sorted((folder / "predictions").glob("*.parquet"))
    if not files:
        raise TableError(f"{folder / 'predictions'}: expected predictions, found none")
    return protocol, samples, _read_predictions(files, protocol)


def read_fewer_patients(folder: Path, protocol: Protocol) -> Iterator[tuple[int, pd.DataFrame]]:
    """Predictions of probes trained on fewer patients, by their number; none in most runs."""
    for patients in sorted(int(part.name) for part in (folder / _CURVE).glob("*")):
        files = sorted((folder / _CURVE / str(patients)).glob("*.parquet"))
        yield patients, _read_predictions(files, protocol)


def write_fewer_patients(
    folder: Path, store: Store, curve: Mapping[tuple[str, int], Task], protocol: Protocol
) -> None:
    """Predictions of probes trained on fewer patients, in place of those of an earlier protocol.

    Encoders that failed are left out.
    """
    shutil.rmtree(folder / _CURVE, ignore_errors=True)
    for (encoder, patients), task in curve.items():
        if store.has(task):
            rows = pd.read_parquet(store.folder(task) / "predictions.parquet")
            write_parquet(
                rows.assign(encoder=encoder, adaptation="linear_probe"),
                folder / _CURVE / str(patients) / f"{safe_name(encoder)}.parquet",
                PREDICTIONS,
                protocol.classes,
            )


def evaluation_settings(protocol: Protocol, samples: pd.DataFrame) -> EvaluationSettings:
    """The evaluation's own settings, from the protocol and the labels of each external cohort."""
    labels = samples.groupby("dataset")["label"].unique()
    scheme = protocol.split.scheme
    return EvaluationSettings(
        classes=protocol.classes,
        source=protocol.source.name,
        declared={
            dataset.name: dataset.classes
            or tuple(name for name in protocol.classes if name in labels[dataset.name])
            for dataset in protocol.external
        },
        estimand="held_out" if scheme == "official_test" else "cross_validation",
        bootstrap_draws=protocol.evaluation.bootstrap_draws,
        rank_draws=protocol.evaluation.rank_draws,
        confidence=protocol.evaluation.confidence,
        seed=protocol.evaluation.seed,
        paper=_paper_names(protocol),
    )


def write_tables(folder: Path, evaluation: Evaluation) -> None:
    """Everything that an evaluation says, as CSV; results as Parquet too.

    A table without rows is not written, and taken away where another protocol left it.
    """
    write_parquet(evaluation.results, folder / "results.parquet", RESULTS)
    for table in (
        RESULTS,
        COMPARISONS,
        TEMPERATURES,
        RELIABILITY,
        RISK_COVERAGE,
        SUBGROUPS,
        LABEL_EFFICIENCY,
        PAPER,
        CLAIMS,
    ):
        frame, file = getattr(evaluation, table.name), folder / f"{table.name}.csv"
        if frame.empty:
            file.unlink(missing_ok=True)
        else:
            write_csv(frame, file, table)


def _read_predictions(files: list[Path], protocol: Protocol) -> pd.DataFrame:
    for file in files:
        if read_classes(file) != protocol.classes:
            raise TableError(
                f"{file}: its logits are in the order {', '.join(read_classes(file))}, the "
                f"protocol's classes are {', '.join(protocol.classes)}"
            )
    return pd.concat([read_table(file, PREDICTIONS) for file in files], ignore_index=True)


def _paper_names(protocol: Protocol) -> PaperNames | None:
    loaders = {dataset.loader: dataset.name for dataset in protocol.external}
    alike = protocol.source.loader == "fetal_planes_db"
    evaluations = {"in_domain": "in_domain"} if alike else {}
    if "african_planes" in loaders:
        evaluations["external"] = loaders["african_planes"]
    if not evaluations:
        return None
    # Of several entries of one model, such as two input sizes, the first stands for it.
    encoders: dict[str, str] = {}
    for entry in protocol.encoders:
        if entry.name in PAPER_MODELS:
            encoders.setdefault(entry.name, entry.label)
    return PaperNames(encoders, evaluations, alike)
