"""The pixels of a single-frame ultrasound DICOM file; its header is not read further."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sonobench.images.size import too_large

_MAGIC, _PREAMBLE = b"DICM", 128
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
# https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.7.6.3.html
_OTHERS = ("PALETTE COLOR", "HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB")


class NotReadable(ValueError):
    """A DICOM file that cannot be used; the message says what to do."""


def is_dicom(path: Path) -> bool:
    """Whether the file says that it is one.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC


def lacks_preamble(path: Path) -> bool:
    """Whether a file that `is_dicom` does not know starts as a DICOM data set does.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8)
    group, element = (int.from_bytes(start[at : at + 2], "little") for at in (0, 2))
    length = int.from_bytes(start[4:], "little")
    # The first element of the meta information, or of the identification: with the two letters of
    # its type, or else with a length, which is short.
    typed = start[4:6].isalpha() and start[4:6].isupper()
    return len(start) == 8 and group in (2, 8) and element <= 0x60 and (typed or length <= 64)


def read_dicom(path: Path) -> npt.NDArray[np.uint8]:
    """Pixels as they are shown: uint8, (H, W) or (H, W, 3) RGB.

    MONOCHROME1 is inverted, YBR is converted to RGB. A window of the header is not applied:
    ultrasound is stored as it was on the screen.

    Raises:
        NotReadable: several frames, other than 8 bits, signed values, a palette, or too large;
            whatever pydicom raises on a damaged file.
        ImportError: pydicom, or what it decompresses pixels with, is not installed.
    """
    try:
        # Optional: most who use this package have no DICOM files.
        import pydicom  # noqa: PLC0415
        from pydicom.pixels.utils import pixel_array  # noqa: PLC0415
    except ImportError:
        raise ImportError(
            "a DICOM file; install what reads it: pip install 'sonobench[dicom]'"
        ) from None
    header = pydicom.dcmread(path)
    _check(header)
    try:
        pixels = pixel_array(header)
    except RuntimeError as error:
        # https://pydicom.github.io/pydicom/stable/guides/plugin_table.html
        if "missing dependencies" not in str(error):
            raise
        raise ImportError(" ".join(str(error).split())) from None
    if header.PhotometricInterpretation == "MONOCHROME1":
        pixels = 255 - pixels
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def _check(header: Any) -> None:
    if "PixelData" not in header:
        raise NotReadable("a DICOM file without an image in it")
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise NotReadable(
            f"a DICOM file of {frames} frames; export the frames that you mean as single images, "
            "each with a row of its own"
        )
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if allocated != 8:
        raise NotReadable(f"expected 8 bits a channel, found {allocated}; export it as 8-bit PNG")
    if stored != 8:
        raise NotReadable(
            f"{stored} of 8 bits a channel are used, so that white is {2**stored - 1} and not 255; "
            "export it as 8-bit PNG"
        )
    if int(header.get("PixelRepresentation") or 0):
        raise NotReadable("its values are signed, so that black is not 0; export it as 8-bit PNG")
    kind = str(header.PhotometricInterpretation)
    if kind not in _GREY + _COLOUR:
        # Anything else may stand in a header, a name as well.
        told = kind if kind in _OTHERS else "that the standard does not have"
        raise NotReadable(
            f"photometric interpretation {told}; expected {', '.join(_GREY + _COLOUR)}. Export it "
            "as PNG"
        )
    if reason := too_large(int(header.Columns), int(header.Rows)):
        raise NotReadable(reason)
