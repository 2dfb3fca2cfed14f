"""Ids, labels and names of classes as text: one spelling, missing values, names that look alike.

Whatever is compared by its letters passes here: manifests, published tables, label files,
protocols, and predictions made elsewhere.
"""

import re
from collections.abc import Iterable
from unicodedata import category, decimal, normalize

# What programs write where a value is missing. A class or a site may well be called NA or none.
_MISSING = frozenset(("nan", "NaN", "NaT", "<NA>", "NULL", "null", "None"))
# What people write for it, in any case of letters: as an id it would be one of very many images.
_MISSING_ID = frozenset(
    (*map(str.casefold, _MISSING), "na", "n/a", "n.a.", "unknown", "missing", "-", "--", "?")
)
# #N/A, #REF!, #NAME?, #DIV/0! and what they are in other languages (#NV, #BEZUG!); a column that
# was too narrow (####); LibreOffice's Err:502.
_SPREADSHEET_ERROR = re.compile(r"#N/?[AV]|#[^\W\d_]+(?:/0)?[!?]|#GETTING_DATA|#{2,}|Err:\d+")
# 202011223344 becomes 2.02E+11 in a cell of the usual width, and is saved so.
_SHORTENED_NUMBER = re.compile(r"[+-]?\d(?:[.,]\d+)?E[+-]\d{2,3}", re.IGNORECASE)
# Blanks that are no blanks to Unicode, or take no room: Hangul fillers and Braille's empty cell.
_EMPTY_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
# They join and part letters of a word in Persian and in Indian scripts.
_JOINERS = "\u200c\u200d"
# Cyrillic and Greek capitals that look as Latin ones.
_LATIN = str.maketrans("АВЕКМНОРСТУХІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEKMHOPCTYXIJSABEZHIKMNOPTYX")
_WHOLE_NUMBER = re.compile(r"(?<=\d)\.0+$")
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
# As spreadsheets write and lose them, so not those of 1.05 and not the .0 of 2.1.0 or p1.0.
_LOST_ZEROS = re.compile(r"(?<![\d.,])0+(?=\d)")
_NUMBER_AS_REAL = re.compile(r"(\d+)\.0+")
_NOT_BETWEEN_NUMBERS = re.compile(r"(?<!\d) +| +(?!\d)")
# The letter O where a digit should be: beside digits, a small one not as the end of a word (No1).
_LETTER_O = re.compile(r"O+(?=\d)|(?<![^\W\d_])o+(?=\d)|(?<=\d)[Oo]+")
# Shorter words differ by a letter without being misspelled: LVOT and RVOT.
_SHORTEST_WORD = 5


def normalized(text: str) -> str:
    """The text in one spelling: Unicode NFC, every stretch of blanks one space, none at the ends.

    Blanks are all that Unicode has, the no-break space of spreadsheets and web pages among them.
    """
    return " ".join(normalize("NFC", text).split())


def fault_of_class(text: str) -> str:
    """What makes a text no name of a class; empty if it can be one.

    Faults are ends of sentences: `label is 'x', which …`.
    """
    # Of a million rows nearly all texts are plain.
    plain = text.isascii() and text.isprintable()
    if not plain and (hidden := [letter for letter in text if _unseen(letter)]):
        return f"has a character in it that is not seen (U+{ord(hidden[0]):04X}); take it out"
    return "is an error of a spreadsheet" if _SPREADSHEET_ERROR.fullmatch(text) else ""


def missing_value(text: str) -> str:
    """Whether a text is what programs write for a missing value, as the end of a sentence."""
    missing = text in _MISSING or _SPREADSHEET_ERROR.fullmatch(text)
    return "looks like a missing value" if missing else ""


def fault_of_value(text: str) -> str:
    """What makes a text no value of a column: as of a class, or a missing value; empty if none."""
    return fault_of_class(text) or missing_value(text)


def fault_of_id(text: str) -> str:
    """What makes a text no id of a patient or an image; empty if it can be one.

    Beside what no value can be: what people write where they do not know, and a long number that a
    spreadsheet has shortened, so that many patients are one.
    """
    if fault := fault_of_value(text):
        return fault
    if text.casefold() in _MISSING_ID:
        return "looks like a missing value"
    if _SHORTENED_NUMBER.fullmatch(text):
        return (
            "is a number that a spreadsheet has shortened, its last digits are lost; export the "
            "table anew with this column as text"
        )
    return ""


def without_spelling(text: str) -> str:
    """An id without what programs change and nobody means, so that two that are equal are one id.

    That is upper and lower case, the form of letters and digits (full-width and others, Unicode
    NFKC), leading zeros (`001`, `p002`), and `.0` at the end of a whole number. What else makes
    names look alike may be meant, or be a slip of a person.
    """
    plain = _usual_letters(normalized(text))
    if number := _NUMBER_AS_REAL.fullmatch(plain):
        plain = number[1]
    return normalized(_LOST_ZEROS.sub("", plain).casefold())


def look_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of two and more names that are probably one, spelled in several ways.

    Names look alike if they differ in nothing but upper and lower case, leading zeros (`p002`,
    `p2`), a `.0` at the end, punctuation and blanks other than between two numbers (`P-1`, `P1`;
    but `1-11` and `11-1` are two), the letter O for 0, full-width and other digits, and Cyrillic or
    Greek letters for Latin ones.

    Returns:
        Groups in the order in which their first name is given, names in the order given.
    """
    leader = dict[str, str]()

    def leader_of(one: str) -> str:
        while leader[one] != one:
            one = leader[one]
        return one

    first = dict[str, str]()
    for one in names:
        leader.setdefault(one, one)
        for key in _keys(one):
            leader[leader_of(one)] = leader_of(first.setdefault(key, one))
    groups = dict[str, list[str]]()
    for one in leader:
        groups.setdefault(leader_of(one), []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def one_slip_apart(one: str, other: str) -> bool:
    """Whether two different labels differ by so little that one of them may be misspelled.

    They look alike, or a single word of five letters or more has a letter too many, too few,
    changed or swapped with the next: `abdomne`, `abdomen`.
    """
    if look_alike([one, other]):
        return True
    words = [re.findall(r"\w+", label.casefold()) for label in (one, other)]
    if len(words[0]) != len(words[1]):
        return False
    differing = [pair for pair in zip(*words, strict=True) if pair[0] != pair[1]]
    return len(differing) == 1 and _one_letter_apart(*differing[0])


def _separates(letter: str) -> bool:
    """Whether it is punctuation, a blank or not seen; the signs + < = > | ~ tell names apart."""
    return category(letter)[0] in "PZC"


_ASCII_SEPARATORS = str.maketrans({chr(code): " " for code in range(128) if _separates(chr(code))})


def _unseen(letter: str) -> bool:
    return (category(letter) in ("Cc", "Cf") and letter not in _JOINERS) or letter in _EMPTY_LETTERS


def _usual_letters(text: str) -> str:
    """The text in Unicode NFKC, digits of all scripts as 0 to 9."""
    if text.isascii():
        return text
    return "".join(str(decimal(letter, letter)) for letter in normalize("NFKC", text))


def _keys(text: str) -> set[str]:
    """What is left of a name without what people and spreadsheets change, O as letter and as 0."""
    plain = _WHOLE_NUMBER.sub("", _usual_letters(text).translate(_LATIN))
    zeros = _LETTER_O.sub(lambda found: "0" * len(found[0]), plain)
    # A name of nothing but punctuation is like no other.
    return {_without_separators(key.casefold()) or text for key in {plain, zeros}}


def _without_separators(text: str) -> str:
    """The text without punctuation, blanks and leading zeros; numbers stay apart."""
    if text.isascii():
        seen = text.translate(_ASCII_SEPARATORS)
    else:
        seen = "".join(" " if _separates(letter) else letter for letter in text)
    return _NOT_BETWEEN_NUMBERS.sub("", _LEADING_ZEROS.sub("", seen))


def _one_letter_apart(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    if len(short) < _SHORTEST_WORD or not (short.isalpha() and long.isalpha()):
        return False
    same = next((at for at in range(len(short)) if short[at] != long[at]), len(short))
    short, long = short[same:], long[same:]
    if len(short) < len(long):
        return short == long[1:]
    swapped = short[:2] == long[1::-1] and short[2:] == long[2:]
    return swapped or short[1:] == long[1:]
