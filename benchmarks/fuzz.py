"""Hostile input: tables and files that hypothesis makes, each of which gives a result or a clear
error, within two seconds of computing, and never a wrong row or a file outside its folder.
"""

import csv
import hashlib
import io
import os
import re
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unicodedata import normalize

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sonobench.datasets import (
    ARCHIVES,
    Cohort,
    DatasetError,
    african_planes,
    fetal_planes_db,
    load_cohort,
    manifest,
)
from sonobench.datasets.propose import from_table
from sonobench.datasets.unpack import unpack, unpacked_size
from sonobench.images import UnreadableImage, decode
from sonobench.protocol import Dataset

# Of the processor: beside other work a clock on the wall would tell of that work.
_SECONDS = 2
_AFRICAN = b"""Patient_num,Plane,Train,Center,Filename
1,Fetal brain,1,Algeria,a
2,Fetal brain,0,Algeria,b
"""


def main(*, small: bool = False) -> dict[str, object]:
    """20,000 tables and 2,000 files, or a twentieth of them."""
    share = 20 if small else 1
    return {
        "tables": torment_tables(20_000 // share),
        "images": torment_images(1_000 // share),
        "archives": torment_archives(1_000 // share),
    }


@dataclass
class _Tally:
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    start: float = field(default_factory=time.perf_counter)

    @contextmanager
    def one(self, kind: str) -> Iterator[None]:
        """Count a case as read or refused; what lasts too long is interrupted and is an error."""
        before = time.process_time()
        signal.signal(signal.SIGPROF, _too_long)
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        try:
            yield
            self.outcomes[f"{kind} read"] += 1
        except (DatasetError, UnreadableImage) as error:
            if not str(error):
                raise AssertionError("an error without a message") from error
            self.outcomes[f"{kind} refused"] += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.slowest = max(self.slowest, time.process_time() - before)

    def figures(self) -> dict[str, object]:
        return {
            "cases": sum(self.outcomes.values()),
            **dict(sorted(self.outcomes.items())),
            "seconds": round(time.perf_counter() - self.start, 1),
            "slowest_ms": round(1000 * self.slowest, 1),
        }


def _too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"more than {_SECONDS} seconds of computing")


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
        content, whole = draw(_damaged(content)), False
    return _Table(layout, content, tuple(rows), whole)


@st.composite
def _damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes cut off, with some replaced, put in, taken out, or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content))))
        kind = draw(st.sampled_from(["cut", "replace", "insert", "delete", "repeat", "zero"]))
        part = draw(st.binary(min_size=1, max_size=16))
        length = draw(st.sampled_from([1, 4, 64, 1024]))
        before, after = content[:place], content[place:]
        content = {
            "cut": before,
            "replace": before + part + after[len(part) :],
            "insert": before + part + after,
            "delete": before + after[length:],
            "repeat": before + after[:length] * 2 + after[length:],
            "zero": before + bytes(min(length, len(after))) + after[length:],
        }[kind]
    return content


def torment_tables(count: int) -> dict[str, object]:
    """Tables of every layout through their readers."""
    tally = _Tally()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "d").mkdir()
        for name in ("a.png", "b.png", "d/2.png", "d/3.png"):
            (folder / name).touch()

        @_many(count)
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
            # A manifest's accents are read in one spelling.
            spelled = {normalize("NFC", written.strip()) for written in values}
            assert normalize("NFC", str(value).removeprefix(prefix)) in spelled


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def torment_images(count: int) -> dict[str, object]:
    """Damaged PNG, JPEG, TIFF, BMP, GIF and DICOM files through the decoder."""
    tally, kinds = _Tally(), _images()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(scratch) / "image"

        @_many(count)
        @given(
            st.sampled_from(sorted(kinds)).flatmap(
                lambda kind: st.tuples(st.just(kind), _damaged(kinds[kind]))
            )
        )
        def torment(case: tuple[str, bytes]) -> None:
            kind, content = case
            file.write_bytes(content)
            with tally.one(kind):
                pixels = decode(file).pixels
                assert pixels.dtype == np.uint8
                assert pixels.ndim in (2, 3)

        torment()
    return tally.figures()


def torment_archives(count: int) -> dict[str, object]:
    """Damaged and hostile zip and tar.xz archives through the unpacking."""
    tally, kinds = _Tally(), _archives()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)

        @_many(count)
        @given(
            st.sampled_from(sorted(kinds)).flatmap(
                lambda kind: st.tuples(
                    st.just(kind), st.one_of(_damaged(kinds[kind]), st.just(kinds[kind]))
                )
            )
        )
        def torment(case: tuple[str, bytes]) -> None:
            kind, content = case
            for old in root.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            file, data = root / "brought", root / "data"
            file.write_bytes(content)
            archive = replace(
                ARCHIVES["african_planes"],
                images=2,
                patients=2,
                metadata_sha256=hashlib.sha256(_AFRICAN).hexdigest(),
                largest_size=100_000,
            )
            try:
                with tally.one(kind):
                    size = unpacked_size(file, archive)
                    load = african_planes.load
                    place = unpack(file, archive, load, data, size, lambda _count: None)
                    assert len(list(place.rglob("*.png"))) == 2
            finally:
                there = {path.name for path in root.iterdir()}
                assert there <= {"brought", "data"}, there
                left = {path.name for path in data.glob("*") if path.suffix != ".lock"}
                assert left <= {archive.folder}, left

        torment()
    return tally.figures()


def _images() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (40, 30), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    made = {}
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF"):
        for name, image in (("grey", grey), ("colour", colour)):
            content = io.BytesIO()
            image.save(content, kind)
            made[f"{kind} {name}"] = content.getvalue()
    made["DICOM"] = _dicom(np.asarray(grey).tobytes())
    return made


def _dicom(pixels: bytes) -> bytes:
    from pydicom.dataset import Dataset as Scan  # noqa: PLC0415
    from pydicom.dataset import FileMetaDataset  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    meta, scan, content = FileMetaDataset(), Scan(), io.BytesIO()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.6.1")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    scan.file_meta = meta
    scan.Rows, scan.Columns, scan.SamplesPerPixel = 40, 30, 1
    scan.BitsAllocated = scan.BitsStored = 8
    scan.HighBit, scan.PixelRepresentation = 7, 0
    scan.PhotometricInterpretation, scan.PixelData = "MONOCHROME2", pixels
    scan.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _archives() -> dict[str, bytes]:
    """Small archives in the African set's layout, and hostile ones."""
    import tarfile  # noqa: PLC0415
    import zipfile  # noqa: PLC0415

    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(content, "PNG")
    files = {
        "Zenodo_dataset/African_planes_database.csv": _AFRICAN,
        "Zenodo_dataset/Algeria/a.png": content.getvalue(),
        "Zenodo_dataset/Algeria/b.png": content.getvalue(),
    }
    out = {"../outside.png": b"x", "/tmp/outside.png": b"x", "a/../../outside.png": b"x"}

    def as_zip(entries: dict[str, bytes]) -> bytes:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writer:
            for name, data in entries.items():
                writer.writestr(name, data)
        return packed.getvalue()

    def as_tar(entries: dict[str, bytes], mode: str = "w:xz", link: str = "") -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode=mode) as writer:  # type: ignore[call-overload]
            for name, data in entries.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if link:
                    info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
                writer.addfile(info, io.BytesIO(data))
        return packed.getvalue()

    hostile: dict[str, Callable[[], bytes]] = {
        "zip that leaves": lambda: as_zip({**files, **out}),
        "tar that leaves": lambda: as_tar({**files, **out}),
        "tar of links": lambda: as_tar(files, link="/etc/passwd"),
        "zip bomb": lambda: as_zip({**files, "bomb": bytes(10**6)}),
        "tar bomb": lambda: as_tar({**files, "bomb": bytes(10**6)}),
    }
    made = {"zip": as_zip(files), "tar.xz": as_tar(files)}
    return {**made, **{name: make() for name, make in hostile.items()}}


def _many(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
