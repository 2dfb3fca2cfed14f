"""Hostile images and archives: damaged ones, and whole ones that mean harm or cannot be read."""

import hashlib
import io
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from benchmarks.fuzz_cases import Tally, damaged, many
from sonobench.datasets import ARCHIVES, african_planes
from sonobench.datasets.unpack import unpack, unpacked_size
from sonobench.images import UnreadableImage, decode
from sonobench.images.size import LONGEST_SIDE

_AFRICAN = b"""Patient_num,Plane,Train,Center,Filename
1,Fetal brain,1,Algeria,a
2,Fetal brain,0,Algeria,b
"""
_RNG = np.random.default_rng(0)
_GREY = _RNG.integers(0, 256, (40, 30), dtype=np.uint8)
_COLOUR = _RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)


@dataclass(frozen=True)
class _File:
    """A file as bytes.

    Attributes:
        kind: in the figures.
        content: what is in it.
        pixels: those that it must be read as; None where it may be refused, or be damaged.
        refused: whether it must be.
    """

    kind: str
    content: bytes
    pixels: npt.NDArray[np.uint8] | None = None
    refused: bool = False


@st.composite
def _files(draw: st.DrawFn) -> _File:
    made = draw(st.sampled_from(["damaged"] * 4 + ["foreign"] * 2 + ["turned", "sized"]))
    if made == "damaged":
        kind = draw(st.sampled_from(sorted(_images())))
        return _File(kind, draw(damaged(_images()[kind])))
    if made == "turned":
        kind = draw(st.sampled_from(["PNG", "TIFF", "TIFF lzw", "WEBP"]))
        pixels = draw(st.sampled_from([_GREY, _COLOUR]))
        return _File(f"{kind} turned", _turned(kind, pixels, draw(st.integers(0, 9))), pixels)
    if made == "sized":
        sides = st.sampled_from([1, 2, 50, LONGEST_SIDE, LONGEST_SIDE + 1, 100_000, 2**31 - 1])
        width, height = draw(sides), draw(sides)
        whole = min(width, height) == 1 and max(width, height) <= LONGEST_SIDE
        rows = bytes(height * (width + 1)) if whole else b""
        zeros = np.zeros((height, width), dtype=np.uint8) if whole else None
        # What is not whole has no pixels at all.
        return _File("PNG sized", _png(width, height, rows), zeros, refused=not whole)
    kind = draw(st.sampled_from(sorted(_foreign())))
    if draw(st.integers(0, 3)) == 0:
        return _File(kind, _foreign()[kind], refused=True)
    # Damaged, a 16-bit or a signed image may be another that is read.
    foreign = not kind.startswith(("DICOM", "PPM"))
    return _File(f"{kind} damaged", draw(damaged(_foreign()[kind])), refused=foreign)


def torment_images(count: int) -> dict[str, object]:
    """Files of every format that is read, and of others, through the decoder."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(scratch) / "image.png"

        @many(count)
        @given(_files())
        def torment(file: _File) -> None:
            path.write_bytes(file.content)
            with tally.one(file.kind):
                try:
                    pixels = decode(path).pixels
                except UnreadableImage:
                    assert file.pixels is None, "a whole file is refused"
                    raise
                assert not file.refused, "what must be refused is read"
                assert pixels.dtype == np.uint8
                assert pixels.ndim in (2, 3)
                assert max(pixels.shape) <= LONGEST_SIDE
                if file.pixels is not None:
                    assert pixels.shape == file.pixels.shape
                    assert (pixels == file.pixels).all()

        torment()
    return tally.figures()


def torment_archives(count: int) -> dict[str, object]:
    """Damaged and hostile zip and tar.xz archives through the unpacking."""
    tally, kinds = Tally(), _archives()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)

        @many(count)
        @given(
            st.sampled_from(sorted(kinds)).flatmap(
                lambda kind: st.tuples(
                    st.just(kind), st.one_of(damaged(kinds[kind]), st.just(kinds[kind]))
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


def _saved(pixels: npt.NDArray[np.uint8], kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def _turned(kind: str, pixels: npt.NDArray[np.uint8], orientation: int) -> bytes:
    exif = Image.Exif()
    # libtiff writes those from 1 to 8 only.
    exif[ExifTags.Base.Orientation] = orientation if kind != "TIFF lzw" else orientation % 8 + 1
    if kind == "TIFF lzw":
        return _saved(pixels, "TIFF", exif=exif, compression="tiff_lzw")
    return _saved(pixels, kind, exif=exif, lossless=True)


def _png(width: int, height: int, rows: bytes) -> bytes:
    """A grey PNG file that need not have the pixels that it says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def _dicom(pixels: bytes, **header: object) -> bytes:
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
    for name, value in header.items():
        setattr(scan, name, value)
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


@cache
def _images() -> dict[str, bytes]:
    """Whole files of every format that is read."""
    made = {
        f"{kind} {name}": _saved(pixels, kind)
        for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
        for name, pixels in (("grey", _GREY), ("colour", _COLOUR))
    }
    return {**made, "DICOM": _dicom(_GREY.tobytes())}


@cache
def _foreign() -> dict[str, bytes]:
    """Whole files that must be refused: other formats, and images that would be read wrongly."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n"
    scan = _GREY.tobytes()
    return {
        **{kind: _saved(_COLOUR, kind) for kind in ("EPS", "PCX", "TGA", "SGI", "ICO", "DDS")},
        "PostScript": program,
        "PPM 16 bits": b"P6 2 1 65535 " + bytes(12),
        "DICOM signed": _dicom(scan, PixelRepresentation=1),
        "DICOM 6 bits": _dicom(scan, BitsStored=6, HighBit=5),
        "DICOM without preamble": _dicom(scan)[128 + 4 :],
        "DICOM long": _dicom(scan, Rows=60_000, Columns=1),
    }
