"""Hostile input: tables and files that hypothesis makes, each of which gives a result or a clear
error, within two seconds of computing and a gigabyte of memory, and never a wrong row, wrong
weights, wrong pixels of a whole file, or a file outside its folder.
"""

import csv
import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fuzz_cases import Tally, damaged, many
from benchmarks.fuzz_checkpoints import torment_checkpoints
from benchmarks.fuzz_files import torment_archives, torment_images
from sonobench.datasets import Cohort, african_planes, fetal_planes_db, load_cohort, manifest
from sonobench.datasets.propose import from_table
from sonobench.protocol import Dataset
from sonobench.tables import original


def main(*, small: bool = False) -> dict[str, object]:
    """12,000 tables and 8,000 files, or a twentieth of them."""
    share = 20 if small else 1
    return {
        "tables": torment_tables(12_000 // share),
        "images": torment_images(3_500 // share),
        "archives": torment_archives(1_000 // share),
        "checkpoints": torment_checkpoints(3_500 // share),
    }


# ── tables ───────────────────────────────────────────────────────────────────────────────────────

_LAYOUTS: dict[str, tuple[str, ...]] = {
    "manifest": ("path", "label", "patient_id", "site", "split"),
    "fetal_planes_db": (
        *("Image_name", "Patient_num", "Plane", "Brain_plane", "Operator", "US_Machine", "Train "),
    ),
    "african_planes": ("Patient_num", "Plane", "Train", "Center", "Filename"),
    "labels": ("label", "class"),
    "table": ("Image", "Class", "Patient", "Machine"),
}
_USUAL = st.sampled_from(
    ["a.png", "b/c.png", "Fetal brain", "femur", "1", "0", "17", "train", "test", "", " x ", "x y"]
)
_ODD = st.sampled_from(
    [
        *("nan", "NaN", "None", "NULL", "#N/A", "../a.png", "/etc/passwd", "..", ".", "./a.png"),
        *("C:\\x", "a\\..\\..\\b", "a\nb", 'say "x"', "a,b", "a;b", "é", "患者", "\x00", "\ufeff"),
        *("=1+1", "-1", "1e309", "a" * 300, "a" * 140_000, "\u2028", "\u00a0", "\ud7ff", "con"),
    ]
)
_VALUE = st.one_of(_USUAL, _USUAL, _USUAL, _ODD, st.text(max_size=8))


_ENDING = re.compile(r"\r\n|\r|\n")


def _proper(column: str, number: int) -> str:
    """What should stand in a column."""
    path = f"{'ab'[number % 2]}.png" if number < 2 else f"d/{number}.png"
    return {
        **dict.fromkeys(("path", "Image"), path),
        **dict.fromkeys(("Image_name", "Filename"), f"scan {number}"),
        **dict.fromkeys(("label", "Plane", "Class"), ("femur", "Fetal brain")[number % 2]),
        "class": ("Fetal femur", "Fetal brain")[number % 2],
        "split": ("train", "test", "")[number % 3],
        "Train": str(number % 2),
    }.get(column, f"{column} {number}")


@dataclass(frozen=True)
class _Table:
    """A table as bytes, and what stands in it: the line where each row starts, and its values."""

    layout: str
    content: bytes
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    whole: bool
    """Whether the bytes are exactly what the rows say: nothing was damaged."""


class _Sparing(csv.excel):
    quoting = csv.QUOTE_MINIMAL


class _Quoting(csv.excel):
    quoting = csv.QUOTE_ALL


@st.composite
def _tables(draw: st.DrawFn) -> _Table:
    layout = draw(st.sampled_from(list(_LAYOUTS)))
    header = list(_LAYOUTS[layout])
    changes = ["drop", "double", "shuffle", "shuffle", "rename", "extra"]
    change = draw(st.sampled_from(["no"] * 14 + changes))
    if change == "drop":
        header.pop(draw(st.integers(0, len(header) - 1)))
    elif change == "double":
        header.append(draw(st.sampled_from(header)))
    elif change == "shuffle":
        header = draw(st.permutations(header))
    elif change == "rename":
        header[0] = draw(_VALUE)
    elif change == "extra":
        header.append(draw(st.sampled_from(["weeks", "image_id", "", "row"])))
    usual = ";" if layout == "fetal_planes_db" else ","
    separator = draw(st.sampled_from([usual] * 16 + [",", ";", "\t", "|"]))
    ending = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    dialect = draw(st.sampled_from([_Sparing, _Quoting]))
    text = io.StringIO(newline="")
    writer = csv.writer(text, dialect, delimiter=separator, lineterminator=ending)
    writer.writerow(header)
    rows = []
    for number in range(draw(st.integers(0, 4))):
        values = [_proper(name.strip(), number) for name in header]
        # Most rows are as they should be, or else every table would be refused at once.
        for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
            values[draw(st.integers(0, len(values) - 1))] = draw(_VALUE)
        if draw(st.integers(0, 19)) == 0:
            values = values[:-1] if draw(st.booleans()) else [*values, "more"]
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            text.write(ending)
        line = 1 + len(_ENDING.findall(text.getvalue()))
        writer.writerow(values)
        rows.append((line, tuple(values)))
    encoding = draw(st.sampled_from(["utf-8"] * 9 + ["utf-8-sig", "utf-16", "latin-1"]))
    content = text.getvalue().encode(encoding, errors="replace")
    whole = encoding in ("utf-8", "utf-8-sig")
    if draw(st.integers(0, 5)) == 0:
        content, whole = draw(damaged(content)), False
    return _Table(layout, content, tuple(rows), whole)


def torment_tables(count: int) -> dict[str, object]:
    """Tables of every layout through their readers."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "d").mkdir()
        for name in ("a.png", "b.png", "d/2.png", "d/3.png"):
            (folder / name).touch()

        @many(count)
        @given(_tables())
        def torment(table: _Table) -> None:
            with tally.one(table.layout):
                _read_table(table, folder)

        torment()
    return tally.figures()


def _read_table(table: _Table, folder: Path) -> None:
    if table.layout == "manifest":
        file = folder / "manifest.csv"
        file.write_bytes(table.content)
        cohort = manifest.load("x", file)
        _inside(cohort)
        _same_rows(table, cohort)
    elif table.layout == "labels":
        (folder / "classes.csv").write_bytes(table.content)
        (folder / "manifest.csv").write_text("path,label,patient_id\na.png,femur,1\n")
        dataset = Dataset(loader="manifest", name="x", path="manifest.csv", labels="classes.csv")
        assert load_cohort(dataset, folder).samples["source_label"].tolist() == ["femur"]
    elif table.layout == "table":
        (folder / "list.csv").write_bytes(table.content)
        for path in from_table(folder / "list.csv", {}).paths:
            assert (folder / path).is_file()
    else:
        module = fetal_planes_db if table.layout == "fetal_planes_db" else african_planes
        (folder / module.ARCHIVE.metadata).write_bytes(table.content)
        _inside(module.load("x", folder))


def _inside(cohort: Cohort) -> None:
    root = os.path.normpath(cohort.folder)
    for file in cohort.files():
        assert os.path.normpath(file).startswith(root + os.sep), file


def _same_rows(table: _Table, cohort: Cohort) -> None:
    """What was read is what was written, row by row: its line, label and patient."""
    if not table.whole:
        return
    expected = [(line, values) for line, values in table.rows if any(v.strip() for v in values)]
    assert cohort.samples["row"].tolist() == [line for line, _ in expected]
    for column, prefix in (("label", ""), ("patient_id", "x/")):
        for value, (_, values) in zip(cohort.samples[column], expected, strict=True):
            # Labels and patients are read in one spelling of accents and blanks, and without an
            # apostrophe that keeps a spreadsheet from running them.
            spelled = {" ".join(normalize("NFC", original(text)).split()) for text in values}
            assert str(value).removeprefix(prefix) in spelled
