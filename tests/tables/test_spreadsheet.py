"""CSV files in spreadsheets: no field is a formula, and each text is read back as it was."""

import csv
import io
import string

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonobench.tables import csv_rows, csv_text, defused, original

STARTS = "=+-@\t\r\n＝＋－＠"
# Of everything, and much of what the rule is about.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.text(STARTS + "'1.e ,;\"" + string.ascii_letters),
)


FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+2",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    "-",
    "+49 30 1234",
    "-5 mm",
    "-1,5",
    "+infinite",
    "-1e",
]
NUMBERS = ["-0.5", "+1e-3", "-inf", "+inf", "-nan", "-.5", "-5.", "-1E+05", "0", "nan"]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_could_run_has_an_apostrophe_before_it(text: str) -> None:
    assert defused(text) == f"'{text}"


@pytest.mark.parametrize("text", [*NUMBERS, "", "a=b", "brain - femur", "'", "'quoted'", " =1"])
def test_numbers_and_other_texts_stay_as_they_are(text: str) -> None:
    assert defused(text) == text
    assert original(text) == text


@given(TEXTS)
def test_every_text_is_read_back_as_it_was(text: str) -> None:
    assert original(defused(text)) == text


@given(TEXTS)
def test_no_field_begins_as_a_formula_unless_it_is_a_number(text: str) -> None:
    field = defused(text)
    if field[:1] and field[0] in STARTS:
        float(field)  # raises, where it is none


@given(st.floats())
def test_a_number_as_text_is_a_number_in_the_file(value: float) -> None:
    assert defused(repr(value)) == repr(value)
    assert defused(f"{value:+.3e}") == f"{value:+.3e}"


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), TEXTS)
def test_both_writers_write_fields_that_are_read_back(
    rows: list[tuple[str, str]], name: str
) -> None:
    header = (name, f"{name}2")
    frame = pd.DataFrame(rows, columns=list(header), dtype=object)
    for text in (csv_rows(header, rows), csv_text(frame)):
        read = list(csv.reader(io.StringIO(text, newline="")))
        assert [tuple(map(original, fields)) for fields in read] == [header, *rows]


def test_numbers_missing_values_and_categories_are_written_as_before() -> None:
    frame = pd.DataFrame(
        {
            "a": [-0.1, float("-inf"), float("nan")],
            "b": [-1, 2, 3],
            "c": [True, False, True],
            "d": ["-1", None, "=x"],
            "e": pd.Categorical(["=x", "y", "y"]),
        }
    )
    assert csv_text(frame) == "a,b,c,d,e\n-0.1,-1,True,-1,'=x\n-inf,2,False,,y\n,3,True,'=x,y\n"
