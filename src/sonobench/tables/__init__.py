"""The tables that pass between rooms: their schemas, checked, and their Parquet and CSV files.

Every table is a pandas frame whose columns, types and key are declared here once. A frame that
enters or leaves a run goes through `check`, so that a wrong table stops where it was made.
"""

from sonobench.tables.evaluated import (
    CLAIMS,
    COMPARISONS,
    LABEL_EFFICIENCY,
    LEFT_OUT,
    PAPER,
    RELIABILITY,
    RISK_COVERAGE,
    SUBGROUPS,
    TEMPERATURES,
    empty,
)
from sonobench.tables.files import (
    read_classes,
    read_json,
    read_parquet,
    read_table,
    read_texts,
    replace_file,
    write_csv,
    write_parquet,
)
from sonobench.tables.schema import (
    PREDICTIONS,
    RESULTS,
    ROLES,
    SAMPLES,
    SPLITS,
    Column,
    Table,
    TableError,
    check,
)
from sonobench.tables.spreadsheet import csv_rows, csv_text, defused, original
from sonobench.tables.text import (
    fault_of_class,
    fault_of_id,
    fault_of_value,
    look_alike,
    missing_value,
    normalized,
    one_slip_apart,
    without_spelling,
)

__all__ = [
    "CLAIMS",
    "COMPARISONS",
    "LABEL_EFFICIENCY",
    "LEFT_OUT",
    "PAPER",
    "PREDICTIONS",
    "RELIABILITY",
    "RESULTS",
    "RISK_COVERAGE",
    "ROLES",
    "SAMPLES",
    "SPLITS",
    "SUBGROUPS",
    "TEMPERATURES",
    "Column",
    "Table",
    "TableError",
    "check",
    "csv_rows",
    "csv_text",
    "defused",
    "empty",
    "fault_of_class",
    "fault_of_id",
    "fault_of_value",
    "look_alike",
    "missing_value",
    "normalized",
    "one_slip_apart",
    "original",
    "read_classes",
    "read_json",
    "read_parquet",
    "read_table",
    "read_texts",
    "replace_file",
    "without_spelling",
    "write_csv",
    "write_parquet",
]
