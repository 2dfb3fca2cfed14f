"""A cohort as its loader found it, and the strict reading of delimited metadata files."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


class DatasetError(ValueError):
    """Images or metadata that cannot be used; the message says file, row and what to do."""


@dataclass(frozen=True)
class Cohort:
    """Samples of one dataset before its images are decoded.

    Attributes:
        name: the dataset's name in the protocol.
        folder: what `path` in the samples is relative to.
        metadata: the file that the samples came from, for messages.
        samples: the columns of the sample table but pixel_sha256 and subject_id, and `row`, the
            line of the metadata file.
    """

    name: str
    folder: Path
    metadata: Path
    samples: pd.DataFrame

    def files(self) -> list[Path]:
        """Image files, in the order of the samples."""
        return [self.folder / path for path in self.samples["path"]]

    def check_labels(self, classes: tuple[str, ...]) -> None:
        """Every label must be one of `classes`.

        Raises:
            DatasetError: with the first row of each label that is not.
        """
        unknown = self.samples[~self.samples["label"].isin(classes)].drop_duplicates("label")
        if len(unknown):
            rows = "; ".join(f"'{s.label}' (row {s.row})" for s in unknown.itertuples())
            raise DatasetError(
                f"{self.metadata}: labels of dataset '{self.name}' that are not among the "
                f"protocol's classes ({', '.join(classes)}): {rows}. Correct the labels, or add "
                "the class to 'classes' if models are to be trained on it."
            )


def read_rows(
    file: Path, *, delimiter: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a delimited text file as (line number, {column: text}), blank lines passed over.

    Spaces around headers and values are not part of them.

    Raises:
        DatasetError: not there, not UTF-8, a column missing or doubled, a row with too few or too
            many fields.
    """
    try:
        text = file.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from None
    with text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in required if name not in header]
            if missing:
                raise DatasetError(
                    f"{file}, row 1: expected the columns {', '.join(required)}"
                    + (f" (optional: {', '.join(optional)})" if optional else "")
                    + f", separated by '{delimiter}'; missing: {', '.join(missing)}; "
                    f"found: {', '.join(header) or 'an empty file'}"
                )
            doubled = sorted({name for name in header if header.count(name) > 1})
            if doubled:
                raise DatasetError(f"{file}, row 1: columns appear twice: {', '.join(doubled)}")
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    raise DatasetError(
                        f"{file}, row {reader.line_num}: expected {len(header)} fields, "
                        f"found {len(fields)}"
                    )
                values = (field.strip() for field in fields)
                yield reader.line_num, dict(zip(header, values, strict=True))
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{file}: expected UTF-8 text ({error.reason} at byte {error.start}); "
                "save it as 'CSV UTF-8'"
            ) from None
        except csv.Error as error:
            raise DatasetError(f"{file}, row {reader.line_num}: {error}") from None


def one_of(value: str, allowed: dict[str, str], column: str, file: Path, row: int) -> str:
    """The meaning of a coded value.

    Raises:
        DatasetError: it is not one of the allowed codes.
    """
    if value not in allowed:
        raise DatasetError(
            f"{file}, row {row}: {column}: expected {' or '.join(allowed)}, found '{value}'"
        )
    return allowed[value]
