"""Ids, labels and classes as text: one spelling, missing values, names that look alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonobench.tables import (
    fault_of_class,
    fault_of_id,
    fault_of_value,
    look_alike,
    normalized,
    one_slip_apart,
    without_spelling,
)


@pytest.mark.parametrize(
    "text",
    [
        "Fetal femur",
        " Fetal  femur ",
        "Fetal\u00a0femur",
        "Fetal\u202f\u2003femur",
        "Fetal\u3000femur\r",
    ],
)
def test_every_kind_of_blank_is_a_space(text: str) -> None:
    assert normalized(text) == "Fetal femur"


def test_an_accent_has_one_spelling() -> None:
    assert normalized("Fe\u0301mur") == normalized("F\u00e9mur") == "F\u00e9mur"


@pytest.mark.parametrize(
    "hidden", ["\u200b", "\ufeff", "\u2060", "\u00ad", "\u3164", "\u2800", "\x07"]
)
def test_a_character_that_is_not_seen_is_named(hidden: str) -> None:
    assert f"not seen (U+{ord(hidden):04X})" in fault_of_class(f"a{hidden}b")


def test_joiners_of_persian_words_are_letters() -> None:
    assert fault_of_class("\u0634\u06a9\u0645\u200c\u0647\u0627") == ""


@pytest.mark.parametrize(
    "text", ["#N/A", "#REF!", "#NAME?", "#DIV/0!", "#NULL!", "#NV", "#BEZUG!", "#####", "Err:502"]
)
def test_errors_of_spreadsheets_are_values_of_no_column(text: str) -> None:
    for fault in (fault_of_class, fault_of_value, fault_of_id):
        assert fault(text) == "is an error of a spreadsheet"


@pytest.mark.parametrize("text", ["2.02E+11", "3.5E+10", "2,02e+11", "1E-05", "1.98E+011"])
def test_a_number_that_a_spreadsheet_has_shortened_is_no_id(text: str) -> None:
    assert "digits are lost" in fault_of_id(text)
    assert fault_of_class(text) == fault_of_value(text) == ""


@pytest.mark.parametrize(
    ("text", "an_id", "a_value"),
    [("NA", False, True), ("Unknown", False, True), ("-", False, True), ("none", False, True),
     ("nan", False, False), ("<NA>", False, False), ("None", False, False),
     ("1E5", True, True), ("#1", True, True), ("A-", True, True), ("20220311", True, True)],
)  # fmt: skip
def test_words_for_a_missing_value(text: str, an_id: bool, a_value: bool) -> None:
    assert (fault_of_id(text) == "", fault_of_value(text) == "") == (an_id, a_value)
    # Whether a class is called so is for a protocol to say.
    assert fault_of_class(text) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("001", "1"), ("P1", "p1"), ("p002", "p2"), ("7", "7.0"), ("P-1", "P1"), ("p 1", "p_1"),
     ("P01", "PO1"), ("10", "1O"), ("O1", "1"), ("12", "\uff11\uff12"), ("3", "\u0663"),
     ("P1", "\u04201"), ("maria-jose", "Maria Jose"), ("NO1", "No. 1"), ("1-07", "1-7"),
     ("a\u20131", "a-1"), ("home/001", "home/1")],
)  # fmt: skip
def test_names_that_look_alike(one: str, other: str) -> None:
    assert look_alike([one, "x", other]) == [[one, other]]


@pytest.mark.parametrize(
    ("one", "other"),
    [("1-11", "11-1"), ("1-1", "11"), ("10", "1"), ("100", "1"), ("A+", "A"), ("p12", "q12"),
     ("No1", "N1"), ("***", "!!!"), ("p1a", "p1b"), ("1.5", "15"), ("1", "-1-1")],
)  # fmt: skip
def test_names_of_two_patients_do_not_look_alike(one: str, other: str) -> None:
    assert look_alike([one, other]) == []


def test_groups_are_in_the_order_given_and_joined_by_any_spelling() -> None:
    names = ["7", "2", "PO1", "002", "P01", "x", "po-1"]
    assert look_alike(names) == [["2", "002"], ["PO1", "P01", "po-1"]]


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [("abdomne", "abdomen", True), ("Abdomen", "abdomen", True), ("abdome", "abdomen", True),
     ("abdoomen", "abdomen", True), ("abdomin", "abdomen", True), ("the brian", "the brain", True),
     ("Fetalbrain", "Fetal brain", True), ("LVOT", "RVOT", False), ("Grade 1", "Grade 2", False),
     ("femur left", "femur right", False), ("normal", "abnormal", False), ("A", "B", False),
     ("brain axial", "brian axail", False), ("abdomne", "abodmen", False)],
)  # fmt: skip
def test_labels_one_slip_apart(one: str, other: str, near: bool) -> None:
    assert one_slip_apart(one, other) is near
    assert one_slip_apart(other, one) is near


@pytest.mark.parametrize(
    ("one", "other"),
    [("001", "1"), ("000", "0"), ("P1", "p1"), ("p002", "P2"), ("7", "7.0"), ("007.00", "7"),
     ("12", "\uff11\uff12"), ("3", "\u0663"), ("\uff301", "p1"), ("Fe\u0301 1", "F\u00c9\u00a01"),
     ("1-07", "1-7"), ("home/001", "HOME/1"), ("stra\u00dfe", "STRASSE")],
)  # fmt: skip
def test_ids_that_differ_in_spelling_alone(one: str, other: str) -> None:
    assert without_spelling(one) == without_spelling(other)
    assert look_alike([one, other]) == [[one, other]]


@pytest.mark.parametrize(
    ("one", "other"),
    [("P-1", "P1"), ("p 1", "p1"), ("PO1", "P01"), ("P1", "\u04201"), ("1.05", "1.5"),
     ("2.1.0", "2.1"), ("p1.0", "p1"), ("0,05", "0,5"), ("10", "1"), ("1.0", "10"), ("p1", "p2"),
     ("0", "O")],
)  # fmt: skip
def test_ids_that_differ_in_more_than_spelling(one: str, other: str) -> None:
    assert without_spelling(one) != without_spelling(other)


@given(st.text(), st.text())
def test_what_has_no_spelling_has_one_spelling(text: str, other: str) -> None:
    plain = without_spelling(text)
    assert without_spelling(plain) == plain
    # Nothing is one patient here that would not be asked about in a manifest.
    names = [*{normalized(text), normalized(other)}]
    if len(names) == 2 and plain == without_spelling(other):
        assert look_alike(names) == [names]
