"""One image file to pixels, and the hash that says whether two files are the same image."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError, features

from sonobench.images.dicom import NotReadable, is_dicom, lacks_preamble, read_dicom
from sonobench.images.size import MOST_PIXELS, too_large

# Pillow's names of what is read. Others of its formats are hardly tested, or start programs:
# PostScript is drawn by Ghostscript, whatever the file is called.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
# How files of these formats are called.
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp"),
    *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".pbm", ".pgm", ".ppm", ".pnm"),
    *(".dcm", ".dicom"),
)
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# What Pillow says, as an OSError without a number, where it lacks a decoder or memory.
_NOT_OF_THE_FILE = re.compile(r"decoder \w+ not available|out of memory")
# OpenJPEG has each of three values of a pixel as 4 bytes, twice; others take less.
_MOST_BYTES = 24 * MOST_PIXELS
# What takes the turn of an EXIF orientation back.
_TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class CannotDecode(RuntimeError):
    """Decoding fails for a `reason` that is not the file's: a package, memory, the disk."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class UnreadableImage(ValueError):
    """A file that is missing, truncated, or not an 8-bit image; `reason` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """One image.

    Attributes:
        pixels: uint8, (H, W) where its three channels are equal, else (H, W, 3).
        orientation: what the file's EXIF tag says, 1 to 8; 1 is upright, or no tag. The pixels are
            as they are stored, whatever it says.
    """

    pixels: npt.NDArray[np.uint8]
    orientation: int = 1

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 1 if self.pixels.ndim == 2 else 3

    @property
    def sha256(self) -> str:
        """SHA-256 of shape and pixels: equal for equal images, whatever file they came in."""
        shape = "x".join(map(str, self.pixels.shape)).encode()
        return hashlib.sha256(shape + b":" + np.ascontiguousarray(self.pixels).data).hexdigest()


def decode(path: Path) -> Decoded:
    """Read an 8-bit grey, RGB, RGBA or palette image as the official pipelines do: as RGB.

    The file is one of `FORMATS` by its content; its name says nothing. Alpha is dropped, not
    blended (PIL's ``convert("RGB")``). Pixels are as they are stored in every format: an EXIF
    orientation does not turn them, as annotations are made on stored pixels and the official
    pipelines do not turn them either. Of a DICOM file the pixels are read and nothing else
    (`sonobench.images.dicom`).

    Raises:
        UnreadableImage: missing, truncated, not an image, of several frames, of more than 8 bits
            a channel, or larger than `sonobench.images.size` allows.
        CannotDecode: another time or elsewhere the same file could be read.
    """
    with _named(path):
        if is_dicom(path):
            return Decoded(_one_channel_if_grey(read_dicom(path)))
        # A file and not a path: PIL maps an uncompressed TIFF with its sides exchanged where its
        # orientation exchanges them, and its pixels would be mixed.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            _refuse(path, image)
            # Of a PNG it may stand after the pixels, so that reading it reads those.
            orientation = _orientation(image)
            as_stored = image.convert("L" if image.mode in ("1", "L") else "RGB")
            # Pillow turns TIFF files, and no others, as it loads them.
            if image.format == "TIFF" and orientation in _TURNED_BACK:
                as_stored = as_stored.transpose(_TURNED_BACK[orientation])
            return Decoded(_one_channel_if_grey(np.asarray(as_stored)), orientation)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever is wrong with the file is an `UnreadableImage`."""
    try:
        yield
    except FileNotFoundError:
        raise UnreadableImage(path, "no such file") from None
    except (MemoryError, ImportError) as error:
        raise CannotDecode(path, str(error) or "there is not enough memory to decode it") from error
    except NotReadable as error:
        raise UnreadableImage(path, str(error)) from None
    except UnidentifiedImageError:
        if _is_webp(path) and not features.check("webp"):
            reason = "a WebP file, and Pillow is installed without what decodes it"
            raise CannotDecode(path, f"{reason}; install Pillow from PyPI") from None
        if lacks_preamble(path):
            reason = (
                "a DICOM file without its first 128 bytes and the 'DICM' after them; write it anew "
                "with whatever exports it, or export it as PNG"
            )
        else:
            reason = f"not an image, or of no format that is read ({', '.join(FORMATS)}, DICOM)"
        raise UnreadableImage(path, reason) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(path, "too many pixels for an image") from None
    except UnreadableImage:
        raise
    # PIL's decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error …
    # on damaged files; whatever it was, this file cannot be read and the message carries the cause.
    except Exception as error:
        # Only those of the system have a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise CannotDecode(path, f"cannot be read ({error.strerror})") from error
        if isinstance(error, OSError) and _NOT_OF_THE_FILE.search(str(error)):
            raise CannotDecode(path, f"Pillow cannot decode it here ({error})") from error
        if not _has_memory():
            raise CannotDecode(
                path,
                f"cannot be decoded ({error}), perhaps for want of memory: less than the "
                f"{_MOST_BYTES / 1e9:.0f} GB that an image may take are free; run with more",
            ) from error
        raise UnreadableImage(path, f"cannot be decoded ({error})") from None


def _has_memory() -> bool:
    """Whether there is memory to decode an image of any size that is read.

    The decoders of WebP and JPEG 2000 take a want of it for a fault of the file.
    """
    try:
        # Asked for and never touched, so that it costs nothing.
        np.empty(_MOST_BYTES, np.uint8)
    except MemoryError:
        return False
    return True


def _is_webp(path: Path) -> bool:
    """Whether a file begins as WebP does, which Pillow does not know without its decoder."""
    with path.open("rb") as file:
        start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"WEBP"


def _refuse(path: Path, image: Image.Image) -> None:
    """Refuse what its header says that it is.

    Raises:
        UnreadableImage: too large, of more than 8 bits a channel, or several images.
    """
    if reason := too_large(*image.size):
        raise UnreadableImage(path, reason)
    bits = _bits(path, image)
    if image.mode not in _EIGHT_BIT or bits > 8:
        found = f"{bits}" if bits > 8 else f"PIL mode {image.mode}"
        raise UnreadableImage(
            path,
            f"expected 8 bits a channel, found {found}; convert it to 8-bit grey or RGB",
        )
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise UnreadableImage(
            path, f"expected one image, found {frames} in it; save the one you mean"
        )


def _bits(path: Path, image: Image.Image) -> int:
    """Bits of a channel, where they are more than the 8 that PIL reads of them.

    PIL reads colour of more bits as 8-bit RGB without a word.
    """
    tiles = getattr(image, "tile", ())
    if image.format == "JPEG2000":
        return _jpeg2000_bits(path)
    if image.format == "PPM" and image.mode == "RGB":
        # A plain tuple before Pillow 11; the last argument is the largest value.
        largest = [args[-1] for *_, args in tiles if isinstance(args, tuple)]
        return max(
            (int(value).bit_length() for value in largest if isinstance(value, int)), default=8
        )
    return 16 if any(";16" in str(tile) for tile in tiles) else 8


def _jpeg2000_bits(path: Path) -> int:
    """Of the codestream's first channels: the SIZ segment after its SOC marker."""
    with path.open("rb") as file:
        start = file.read(1 << 16)
    at = start.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return 8
    # Two markers, then length, capabilities and eight sizes; the count of channels; 3 bytes a one.
    count = int.from_bytes(start[at + 40 : at + 42])
    depths = start[at + 42 : at + 42 + 3 * count : 3]
    return max((1 + (depth & 0x7F) for depth in depths), default=8)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    # A damaged EXIF block says nothing about the orientation, and the pixels do not need it.
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _one_channel_if_grey(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W) where the three channels are equal."""
    if pixels.ndim == 2:
        return pixels
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return pixels
