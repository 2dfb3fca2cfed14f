"""One image file to pixels, and the hash that says whether two files are the same image."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sonobench.images.dicom import NotReadable, is_dicom, read_dicom

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class UnreadableImage(ValueError):
    """A file that is missing, truncated, or not an 8-bit image; `reason` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """Pixels of one image: uint8, (H, W) where its three channels are equal, else (H, W, 3)."""

    pixels: npt.NDArray[np.uint8]

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

    Alpha is dropped, not blended (PIL's ``convert("RGB")``). Of a DICOM file the pixels are read
    and nothing else (`sonobench.images.dicom`).

    Raises:
        UnreadableImage: missing, truncated, not an image, of several frames, or of more than 8 bits
            a channel.
    """
    try:
        if is_dicom(path):
            return _decoded(read_dicom(path))
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                # PIL reads PNG files of 16 bits a channel as RGB, with half of their bits.
                deep = any(";16" in str(part) for part in getattr(image, "tile", ()))
                if image.mode not in _EIGHT_BIT or deep:
                    raise UnreadableImage(
                        path,
                        "expected 8 bits a channel, found "
                        + ("16" if deep else f"PIL mode {image.mode}")
                        + "; convert it to 8-bit grey or RGB",
                    )
                if (frames := getattr(image, "n_frames", 1)) > 1:
                    raise UnreadableImage(
                        path, f"expected one image, found {frames} in it; save the one you mean"
                    )
                if image.mode in ("1", "L"):
                    return Decoded(np.asarray(image.convert("L")))
                pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise UnreadableImage(path, "no such file") from None
    except NotReadable as error:
        raise UnreadableImage(path, str(error)) from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, "not an image that PIL can read") from None
    except UnreadableImage:
        raise
    # PIL's decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error …
    # on damaged files; whatever it was, this file cannot be read and the message carries the cause.
    except Exception as error:
        raise UnreadableImage(path, f"cannot be decoded ({error})") from None
    return _decoded(pixels)


def _decoded(pixels: npt.NDArray[np.uint8]) -> Decoded:
    """Three equal channels are one."""
    if pixels.ndim == 2:
        return Decoded(pixels)
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return Decoded(np.ascontiguousarray(pixels[..., 0]))
    return Decoded(pixels)
