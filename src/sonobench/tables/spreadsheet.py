"""CSV that spreadsheets open as text: fields that they would run as formulas are defused.

The rule is OWASP's for CSV injection: a field that begins with one of `= + - @`, their full-width
forms, a tab or a line break, and is no number, gets an apostrophe before it. One that has
apostrophes before such a character gets a further one, so that `original` gives every text back.
https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence

import pandas as pd

_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|nan)")


def defused(text: str) -> str:
    """The text as a field that no spreadsheet takes for a formula; numbers stay as they are."""
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def original(field: str) -> str:
    """The text that a field of a CSV file stands for: without the apostrophe of `defused`."""
    if field.startswith("'") and _FORMULA.match(field):
        return field[1:]
    return field


class _Rows(io.StringIO):
    """Ends lines with LF alone.

    The csv module quotes what has a line break in it only if it ends lines with that: a carriage
    return would begin a row for a spreadsheet.
    """

    def write(self, row: str, /) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV: LF, full precision, so that equal numbers are equal bytes; texts defused."""
    texts = {
        place: column
        if pd.api.types.is_numeric_dtype(column)
        else column.map(lambda value: defused(value) if isinstance(value, str) else value)
        for place, (_, column) in enumerate(frame.items())
    }
    text = _Rows(newline="")
    header = [defused(str(name)) for name in frame]
    pd.DataFrame(texts, frame.index).to_csv(text, index=False, header=header, lineterminator="\r\n")
    return text.getvalue()


def csv_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of text as CSV, as `csv_text`."""
    text = _Rows(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerows([defused(field) for field in row] for row in (header, *rows))
    return text.getvalue()
