import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonobench.images import UnreadableImage, decode

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


def test_sixteen_bit_colour_is_refused_although_pil_reads_it(tmp_path: Path) -> None:
    # PIL writes none: a PNG of 1×1 pixels, 16 bits a channel, colour type 2.
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + bytes(range(6)))
    content = chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(UnreadableImage, match="expected 8 bits a channel, found 16; convert"):
        decode(tmp_path / "deep.png")


@pytest.mark.parametrize("kind", ["tiff", "gif", "png"])
def test_several_images_in_a_file_are_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"film.{kind}"
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImage, match="expected one image, found 2 in it"):
        decode(file)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, kind: str) -> None:
    assert (decode(save(tmp_path, Image.fromarray(GREY), f"a.{kind}")).pixels == GREY).all()
