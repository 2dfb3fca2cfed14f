"""Single-frame ultrasound DICOM, in files that pydicom writes."""

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sonobench.images import CannotDecode, UnreadableImage, decode

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import compress, convert_color_space  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 31), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def scan(pixels: npt.NDArray[np.uint8], photometric: str, **header: Any) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"  # Ultrasound Image Storage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    made.PatientName, made.PatientID = "Secret^Name", "12345"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PhotometricInterpretation = photometric
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    for name, value in header.items():
        setattr(made, name, value)
    return made


def decoded(made: Dataset, folder: Path) -> npt.NDArray[np.uint8]:
    made.save_as(folder / "scan.dcm", enforce_file_format=True)
    return decode(folder / "scan.dcm").pixels


def test_grey_pixels_are_as_stored(tmp_path: Path) -> None:
    assert (decoded(scan(GREY, "MONOCHROME2"), tmp_path) == GREY).all()


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    assert (decoded(scan(GREY, "MONOCHROME1"), tmp_path) == 255 - GREY).all()


def test_colour_is_rgb(tmp_path: Path) -> None:
    assert (decoded(scan(COLOUR, "RGB"), tmp_path) == COLOUR).all()


def test_planes_one_after_the_other_are_put_together(tmp_path: Path) -> None:
    made = scan(COLOUR, "RGB", PlanarConfiguration=1)
    made.PixelData = COLOUR.transpose(2, 0, 1).tobytes()
    assert (decoded(made, tmp_path) == COLOUR).all()


def test_ybr_is_converted_to_rgb(tmp_path: Path) -> None:
    stored = convert_color_space(COLOUR, "RGB", "YBR_FULL")
    pixels = decoded(scan(stored, "YBR_FULL"), tmp_path)
    # YBR_FULL is rounded to 8 bits, so that a unit is lost on the way.
    assert np.abs(pixels.astype(int) - COLOUR).max() <= 2


def test_grey_as_rgb_is_one_channel(tmp_path: Path) -> None:
    assert (decoded(scan(np.stack([GREY] * 3, axis=2), "RGB"), tmp_path) == GREY).all()


def test_compressed_pixels_are_read(tmp_path: Path) -> None:
    made = scan(GREY, "MONOCHROME2")
    compress(made, RLELossless)
    assert (decoded(made, tmp_path) == GREY).all()


def test_a_file_is_dicom_by_what_is_in_it_not_by_its_name(tmp_path: Path) -> None:
    scan(GREY, "MONOCHROME2").save_as(tmp_path / "IM0001", enforce_file_format=True)
    assert (decode(tmp_path / "IM0001").pixels == GREY).all()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"NumberOfFrames": 3}, "3 frames; export the frames that you mean as single images"),
        ({"BitsAllocated": 16, "BitsStored": 12}, "expected 8 bits a channel, found 16"),
        ({"BitsStored": 7, "HighBit": 6}, "7 of 8 bits a channel are used, .* white is 127"),
        ({"BitsStored": 1, "HighBit": 0}, "1 of 8 bits a channel are used"),
        ({"PixelRepresentation": 1}, "its values are signed, so that black is not 0"),
        ({"Rows": 20_000, "Columns": 1}, "1×20000 pixels: expected sides of 16,384 at most"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR; expected MONOCHROME1"),
        (
            {"PhotometricInterpretation": "JONES"},
            "scan.dcm: photometric interpretation that the standard does not have; expected",
        ),
        ({"Rows": 60_000, "Columns": 60_000}, "60000×60000 pixels are too many"),
        ({"PixelData": GREY.tobytes()[:100]}, "cannot be decoded"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_do(
    header: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = scan(GREY, "MONOCHROME2", **header)
        with pytest.raises(UnreadableImage, match=message):
            decoded(made, tmp_path)


@pytest.mark.parametrize("part", ["meta information", "data set", "implicit data set"])
def test_a_dicom_file_without_its_preamble_is_named_as_one(tmp_path: Path, part: str) -> None:
    made = scan(GREY, "MONOCHROME2")
    content = io.BytesIO()
    if part == "meta information":
        made.save_as(content, enforce_file_format=True)
        stored = content.getvalue()[128 + 4 :]
    else:
        if part.startswith("implicit"):
            made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        made.save_as(content)
        stored = content.getvalue()
        stored = stored[stored.index(b"\x08\0\x16\0") :]
    (tmp_path / "scan.png").write_bytes(stored)
    with pytest.raises(UnreadableImage, match=r"a DICOM file without its first 128 bytes"):
        decode(tmp_path / "scan.png")


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless])
def test_a_program_in_place_of_compressed_pixels_is_not_drawn(tmp_path: Path, syntax: str) -> None:
    made = scan(GREY, "MONOCHROME2")
    made.file_meta.TransferSyntaxUID = syntax
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 31 20\n%%EndComments\n"
    made.PixelData = encapsulate([program])
    made["PixelData"].VR = "OB"
    with pytest.raises(UnreadableImage, match=r"cannot be decoded .*(?i:identify|decode)"):
        decoded(made, tmp_path)


def test_a_dicom_file_without_an_image_is_refused(tmp_path: Path) -> None:
    made = scan(GREY, "MONOCHROME2")
    del made.PixelData
    with pytest.raises(UnreadableImage, match="a DICOM file without an image in it"):
        decoded(made, tmp_path)


def test_without_pydicom_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scan(GREY, "MONOCHROME2")
    made.save_as(tmp_path / "scan.dcm", enforce_file_format=True)
    monkeypatch.setitem(sys.modules, "pydicom", None)  # how Python marks what cannot be imported
    with pytest.raises(CannotDecode, match=r"pip install 'sonobench\[dicom\]'"):
        decode(tmp_path / "scan.dcm")
