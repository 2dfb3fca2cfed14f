"""A run's tables: what its folder holds to be evaluated, and what an evaluation leaves there."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from sonobench.engine import Store, Task
from sonobench.evaluation import Evaluation
from sonobench.protocol import Protocol, load_protocol, safe_name
from sonobench.tables import (
    CLAIMS,
    COMPARISONS,
    LABEL_EFFICIENCY,
    LEFT_OUT,
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
        LEFT_OUT,
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
