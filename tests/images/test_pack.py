from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonobench.images import Geometry, Pack, decode, decode_all, read_index

SQUASH, PAD = Geometry("squash", 24), Geometry("pad_square", 16)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Grey, colour, broken, grey."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    Image.fromarray(rng.integers(0, 256, (30, 40), dtype=np.uint8)).save(paths[0])
    Image.fromarray(rng.integers(0, 256, (50, 20, 3), dtype=np.uint8)).save(paths[1])
    paths[2].write_bytes(b"broken")
    Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(paths[3])
    return paths


@pytest.fixture
def folders(tmp_path: Path, files: list[Path]) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("index", "squash", "pad")}
    for folder in made.values():
        folder.mkdir()
    decode_all(files, made["index"], {SQUASH: made["squash"], PAD: made["pad"]})
    return made


def test_one_pass_makes_packs_of_every_geometry(
    folders: dict[str, Path], files: list[Path]
) -> None:
    for geometry, name in ((SQUASH, "squash"), (PAD, "pad")):
        pack = Pack(folders[name], geometry)
        for position in (0, 1, 3):
            expected = geometry.render(decode(files[position]).pixels)
            if expected.ndim == 2:
                expected = expected[..., None]
            assert (pack.batch(np.array([position]))[0] == expected.transpose(2, 0, 1)).all()


def test_a_batch_of_grey_images_has_one_channel(folders: dict[str, Path]) -> None:
    assert Pack(folders["squash"], SQUASH).batch(np.array([0, 3])).shape == (2, 1, 24, 24)


def test_a_mixed_batch_has_three_and_the_grey_ones_are_repeated(folders: dict[str, Path]) -> None:
    pack = Pack(folders["squash"], SQUASH)
    mixed = pack.batch(np.array([1, 0]))
    assert mixed.shape == (2, 3, 24, 24)
    assert (mixed[1] == pack.batch(np.array([0]))[0]).all()


def test_grey_images_take_a_third_of_the_room(folders: dict[str, Path]) -> None:
    assert (folders["squash"] / "grey.u8").stat().st_size == 2 * 24 * 24
    assert (folders["squash"] / "colour.u8").stat().st_size == 24 * 24 * 3


def test_the_index_says_what_was_found(folders: dict[str, Path], files: list[Path]) -> None:
    index = read_index(folders["index"])
    assert index["pixel_sha256"][0] == decode(files[0]).sha256
    assert index[["width", "height", "channels"]].to_numpy().tolist() == [
        [40, 30, 1],
        [20, 50, 3],
        [0, 0, 0],
        [24, 24, 1],
    ]


def test_an_unreadable_file_is_a_row_with_its_reason(folders: dict[str, Path]) -> None:
    errors = read_index(folders["index"])["error"].tolist()
    assert errors == ["", "", errors[2], ""]
    assert errors[2].startswith("not an image, or of no format that is read")


def test_an_unreadable_image_cannot_be_taken_from_a_pack(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="image 2 of this pack could not be decoded"):
        Pack(folders["squash"], SQUASH).batch(np.array([0, 2]))


def test_a_pack_is_the_same_bytes_whatever_the_number_of_threads(
    tmp_path: Path, files: list[Path]
) -> None:
    contents = []
    for threads in (1, 3):
        folder = tmp_path / f"threads{threads}"
        folder.mkdir()
        decode_all(files, folder, {SQUASH: folder}, threads=threads)
        contents.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert contents[0] == contents[1]


def test_progress_counts_every_file(tmp_path: Path, files: list[Path]) -> None:
    seen: list[int] = []
    decode_all(files, tmp_path, {}, on_progress=seen.append)
    assert sum(seen) == len(files)
