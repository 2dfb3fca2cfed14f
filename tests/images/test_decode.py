import errno
import hashlib
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

from sonobench.images import CannotDecode, UnreadableImage, decode, decode_all

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (13, 17), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)


def save(folder: Path, image: Image.Image, name: str = "image.png") -> Path:
    image.save(folder / name)
    return folder / name


def test_a_grey_image_has_one_channel(tmp_path: Path) -> None:
    decoded = decode(save(tmp_path, Image.fromarray(GREY)))
    assert (decoded.pixels == GREY).all()


def test_a_colour_image_has_three_channels(tmp_path: Path) -> None:
    assert (decode(save(tmp_path, Image.fromarray(COLOUR))).pixels == COLOUR).all()


def test_equal_channels_are_stored_as_one(tmp_path: Path) -> None:
    as_colour = Image.fromarray(np.stack([GREY] * 3, axis=2))
    assert (decode(save(tmp_path, as_colour)).pixels == GREY).all()


@pytest.mark.parametrize("other", [0, 1, 2])
def test_an_image_is_colour_when_one_channel_differs_from_two_equal_ones(
    tmp_path: Path, other: int
) -> None:
    pixels = np.stack([GREY] * 3, axis=2)
    pixels[3, 4, other] ^= 1
    assert (decode(save(tmp_path, Image.fromarray(pixels))).pixels == pixels).all()


def test_alpha_is_dropped_and_not_blended(tmp_path: Path) -> None:
    alpha = np.full(GREY.shape, 7, dtype=np.uint8)
    transparent = Image.fromarray(np.dstack([COLOUR, alpha]), "RGBA")
    assert (decode(save(tmp_path, transparent)).pixels == COLOUR).all()


def test_a_palette_image_is_decoded_to_its_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert (decode(save(tmp_path, palette)).pixels == expected).all()


def test_the_same_picture_in_another_file_has_the_same_hash(tmp_path: Path) -> None:
    grey = decode(save(tmp_path, Image.fromarray(GREY), "grey.png"))
    colour = decode(save(tmp_path, Image.fromarray(np.stack([GREY] * 3, axis=2)), "colour.bmp"))
    assert grey.sha256 == colour.sha256


def test_the_hash_tells_shapes_apart(tmp_path: Path) -> None:
    flat = np.zeros((4, 6), dtype=np.uint8)
    one = decode(save(tmp_path, Image.fromarray(flat), "one.png"))
    two = decode(save(tmp_path, Image.fromarray(flat.T), "two.png"))
    assert one.sha256 != two.sha256


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"nowhere\.png: no such file"):
        decode(tmp_path / "nowhere.png")


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    file = tmp_path / "text.png"
    file.write_text("this is not an image")
    with pytest.raises(UnreadableImage, match=r"text\.png: not an image"):
        decode(file)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tiff"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str) -> None:
    file = save(tmp_path, Image.fromarray(COLOUR).resize((300, 200)), f"image.{kind}")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImage, match=rf"image\.{kind}: "):
        decode(file)


def test_sixteen_bits_a_channel_are_refused_and_not_clipped(tmp_path: Path) -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 200)
    with pytest.raises(UnreadableImage, match="expected 8 bits a channel"):
        decode(save(tmp_path, deep))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG file whose pixels need not be as many as its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep_jpeg2000(folder: Path) -> bytes:
    """8-bit colour whose header says 12 bits for every channel."""
    content = bytearray(save(folder, Image.fromarray(COLOUR), "a.jp2").read_bytes())
    channels = content.index(b"\xff\x4f\xff\x51") + 42
    content[channels : channels + 9 : 3] = bytes([11] * 3)
    return bytes(content)


@pytest.mark.parametrize(
    ("kind", "bits"), [("png", 16), ("ppm", 16), ("plain ppm", 10), ("jp2", 12)]
)
def test_deep_colour_is_refused_although_pil_reads_it(tmp_path: Path, kind: str, bits: int) -> None:
    content = {
        "png": png(1, 1, 16, 2, b"\0" + bytes(range(6))),
        "ppm": b"P6 1 1 65535 " + bytes(range(6)),
        "plain ppm": b"P3 1 1 1023 0 7 1023 ",
        "jp2": deep_jpeg2000(tmp_path),
    }[kind]
    (tmp_path / "deep").write_bytes(content)
    message = f"expected 8 bits a channel, found {bits}; convert"
    with pytest.raises(UnreadableImage, match=message):
        decode(tmp_path / "deep")


def test_colour_of_fewer_bits_is_scaled_to_eight(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 2 1 15 " + bytes([0, 5, 15, 3, 4, 1]))
    assert decode(tmp_path / "a.ppm").pixels.tolist() == [[[0, 85, 255], [51, 68, 17]]]


@pytest.mark.parametrize("kind", ["tiff", "gif", "png"])
def test_several_images_in_a_file_are_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"film.{kind}"
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImage, match="expected one image, found 2 in it"):
        decode(file)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif", "jp2", "pgm"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, kind: str) -> None:
    assert (decode(save(tmp_path, Image.fromarray(GREY), f"a.{kind}")).pixels == GREY).all()


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_an_image_is_colour_where_one_channel_alone_differs(tmp_path: Path, channel: int) -> None:
    pixels = np.stack([GREY] * 3, axis=2)
    pixels[3, 4, channel] ^= 1
    assert (decode(save(tmp_path, Image.fromarray(pixels))).pixels == pixels).all()


@pytest.mark.parametrize("kind", ["eps", "pcx", "tga", "sgi", "ico", "dds"])
def test_formats_that_are_not_documented_are_not_opened(tmp_path: Path, kind: str) -> None:
    # Under the name of one that is.
    written = save(tmp_path, Image.fromarray(COLOUR), f"image.{kind}")
    written.rename(tmp_path / "image.png")
    with pytest.raises(UnreadableImage, match=r"image\.png: not an image, or of no format that is"):
        decode(tmp_path / "image.png")


@pytest.mark.parametrize("width_and_height", [(1, 100_000), (16_385, 1), (10_000, 9_000)])
def test_a_size_that_asks_for_gigabytes_is_refused_by_its_header(
    tmp_path: Path, width_and_height: tuple[int, int]
) -> None:
    width, height = width_and_height
    (tmp_path / "large.png").write_bytes(png(width, height, 8, 0, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's own, of the third
        with pytest.raises(UnreadableImage, match=rf"large\.png: {width}×{height} pixels"):
            decode(tmp_path / "large.png")


def test_a_long_image_within_the_bound_is_read(tmp_path: Path) -> None:
    (tmp_path / "long.png").write_bytes(png(1, 16_384, 8, 0, b"\0\7" * 16_384))
    assert (decode(tmp_path / "long.png").pixels == 7).all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_large_image_has_one_verdict_in_whichever_thread(tmp_path: Path) -> None:
    # Between the size at which PIL warns and the one at which it refuses.
    (tmp_path / "large.png").write_bytes(png(12_000, 10_000, 8, 0, b""))
    small = save(tmp_path, Image.fromarray(GREY), "small.png")

    def reason(file: Path) -> str:
        try:
            decode(file)
        except UnreadableImage as error:
            return error.reason
        return ""

    with ThreadPoolExecutor(8) as pool:
        reasons = set(pool.map(reason, [small, tmp_path / "large.png"] * 50))
    assert {text[:30] for text in reasons} == {"", "12000×10000 pixels are too man"}


def test_decoding_changes_no_filter_of_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `catch_warnings` puts back what another thread has changed meanwhile.
    monkeypatch.setattr(warnings, "catch_warnings", None)
    decode(save(tmp_path, Image.fromarray(GREY)))


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "compressed tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_as_stored_whatever_the_orientation(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    stored: npt.NDArray[np.uint8] = np.kron(GREY, np.ones((8, 8), dtype=np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = tmp_path / f"image.{kind.rsplit(maxsplit=1)[-1]}"
    options = {"compression": "tiff_lzw"} if kind == "compressed tif" else {}
    Image.fromarray(stored).save(
        file, exif=exif, **options, **{"webp": {"lossless": True}}.get(kind, {})
    )
    decoded = decode(file)
    assert decoded.orientation == orientation
    assert decoded.pixels.shape == stored.shape
    assert np.abs(decoded.pixels.astype(int) - stored).max() <= (4 if kind == "jpg" else 0)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"\0" * 40])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_matter(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    decoded = decode(tmp_path / "a.png")
    assert (decoded.pixels == GREY).all()
    assert decoded.orientation == 1


def test_a_file_that_changed_after_it_was_hashed_ends_the_decoding(tmp_path: Path) -> None:
    file = save(tmp_path, Image.fromarray(COLOUR), "a.png")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    decode_all([file], tmp_path, {}, hashes=[sha256])
    (tmp_path / "index.parquet").unlink()
    save(tmp_path, Image.fromarray(GREY), "a.png")
    with pytest.raises(CannotDecode, match=r"a\.png: it has changed since the run began"):
        decode_all([file], tmp_path, {}, hashes=[sha256])
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory to decode it"),
        (OSError(errno.EIO, "Input/output error"), r"cannot be read \(Input/output error\)"),
        (OSError(errno.EMFILE, "Too many open files"), r"cannot be read \(Too many open files\)"),
        (ImportError("a decoder is missing"), "a decoder is missing"),
        # In Pillow's words, without a number of the system.
        (OSError("out of memory when reading image file"), "out of memory when reading"),
    ],
)
def test_what_no_file_is_to_blame_for_is_no_fault_of_it(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    file = save(tmp_path, Image.fromarray(COLOUR), "a.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(CannotDecode, match=reason):
        decode(file)
    # So it is no row of an index that is kept, but ends the decoding.
    with pytest.raises(CannotDecode, match=r"a\.png"):
        decode_all([file], tmp_path, {})
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.filterwarnings("ignore:image file could not be identified")
def test_a_decoder_that_pillow_lacks_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg2000 = save(tmp_path, Image.fromarray(COLOUR), "a.jp2")
    webp = save(tmp_path, Image.fromarray(COLOUR), "a.webp")
    with monkeypatch.context() as without:
        without.delattr(Image.core, "jpeg2k_decoder")
        with pytest.raises(CannotDecode, match="decoder jpeg2k not available"):
            decode(jpeg2000)
        # What Pillow itself goes by, and what tells of it.
        without.setattr("PIL.WebPImagePlugin.SUPPORTED", False)
        without.setattr("PIL.features.check", lambda name: name != "webp")
        with pytest.raises(CannotDecode, match="a WebP file, and Pillow is installed without"):
            decode(webp)
    assert decode(jpeg2000).channels == decode(webp).channels == 3


# OpenJPEG says of the first that memory is lacking and of the second that the data are broken,
# libwebp that it has no decoder.
@pytest.mark.parametrize(("kind", "mebibytes"), [("jp2", 150), ("jp2", 300), ("webp", 150)])
def test_a_want_of_memory_that_a_decoder_blames_on_the_file_is_not_the_files(
    tmp_path: Path, kind: str, mebibytes: int
) -> None:
    file = save(tmp_path, Image.new("RGB", (6000, 6000)), f"large.{kind}")
    program = (
        "import pathlib, resource, sys; from sonobench.images import CannotDecode, decode\n"
        "now = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + (int(sys.argv[2]) << 20),) * 2)\n"
        "try: decode(pathlib.Path(sys.argv[1]))\n"
        "except CannotDecode as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(file), str(mebibytes)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "memory" in told.stdout
