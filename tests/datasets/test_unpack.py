"""Unpacking: complete and in its place, or not at all, and never out of its folder."""

import io
import resource
import signal
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from standins import Files, african_files, facts, spanish_files, tarred, zipped

from sonobench.datasets import ARCHIVES, Archive, DatasetError
from sonobench.datasets.registry import published_loader
from sonobench.datasets.unpack import unpack, unpacked_size

SPANISH, AFRICAN = spanish_files(3), african_files(2)
ANOTHER = {name: data.replace(b"Op. 1", b"Op. 2") for name, data in SPANISH.items()}
SPANISH_FACTS = facts("fetal_planes_db", SPANISH, 3)
AFRICAN_FACTS = facts("african_planes", AFRICAN, 4)


def unpacked(content: bytes, archive: Archive, root: Path) -> Path:
    (root / "brought").mkdir(parents=True, exist_ok=True)
    file = root / "brought" / archive.file
    file.write_bytes(content)
    size = unpacked_size(file, archive)
    load = published_loader(archive)
    return unpack(file, archive, load, root / "data", size, lambda _count: None)


def left(root: Path) -> list[str]:
    """What is in the data root but for the lock."""
    return sorted(path.name for path in (root / "data").glob("*") if path.suffix != ".lock")


@pytest.mark.parametrize(
    ("content", "archive"),
    [
        (zipped(SPANISH), SPANISH_FACTS),
        (
            zipped({f"FETAL_PLANES_ZENODO/{name}": data for name, data in SPANISH.items()}),
            SPANISH_FACTS,
        ),
        (tarred(AFRICAN), AFRICAN_FACTS),
    ],
    ids=["spanish", "spanish in a folder", "african"],
)
def test_an_archive_becomes_its_folder_with_licence_and_citation(
    content: bytes, archive: Archive, tmp_path: Path
) -> None:
    place = unpacked(content, archive, tmp_path)
    assert place == tmp_path / "data" / archive.folder
    assert left(tmp_path) == [archive.folder]
    source = (place / "SOURCE.txt").read_text()
    assert archive.doi in source
    assert "CC BY 4.0" in source
    assert "Scientific Reports" in source


def test_the_size_is_known_before(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(zipped(SPANISH))
    assert unpacked_size(file, SPANISH_FACTS) == sum(map(len, SPANISH.values()))


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    unpacked(zipped(SPANISH), SPANISH_FACTS, tmp_path)
    with pytest.raises(DatasetError, match="is there already; move it away"):
        unpacked(zipped(SPANISH), SPANISH_FACTS, tmp_path)


def test_what_an_interrupted_unpacking_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "data" / ".FETAL_PLANES_DB.aside.killed"
    leftover.mkdir(parents=True)
    unpacked(zipped(SPANISH), SPANISH_FACTS, tmp_path)
    assert not leftover.exists()


def without(files: Files, ending: str) -> Files:
    return {name: data for name, data in files.items() if not name.endswith(ending)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[: len(c) // 2], "cannot be unpacked"),
        (lambda c: b"\x00" * len(c), "cannot be unpacked"),
        (lambda c: b"", "cannot be unpacked"),
        (lambda c: c.replace(b"\x89PNG", b"\x88PNG"), "cannot be unpacked.*CRC"),
        (lambda c: zipped(without(SPANISH, "Plane1_1_of_6.png")), r"3 of 18 images are not in it"),
        (lambda c: zipped(without(SPANISH, ".csv")), "expected one FETAL_PLANES_DB_data"),
        (lambda c: zipped(spanish_files(2)), "12 images of 2 patients, published are 18 of 3"),
        (
            lambda c: zipped(ANOTHER),
            r"FETAL_PLANES_DB_data\.csv in it has SHA-256 .*, published is",
        ),
    ],
)
def test_a_damaged_or_wrong_archive_leaves_nothing(
    change: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        unpacked(change(zipped(SPANISH)), SPANISH_FACTS, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a/../../out.png", "..\\out", "C:out"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_name_that_leaves_the_folder_is_refused(
    pack: Callable[[Files], bytes], name: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="would be unpacked outside of its folder"):
        unpacked(pack({**SPANISH, name: b"x"}), SPANISH_FACTS, tmp_path)
    assert left(tmp_path) == []
    assert not list(tmp_path.rglob("*out*"))


def test_a_link_in_a_tar_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as packed:
        link = tarfile.TarInfo("Zenodo_dataset/Algeria")
        link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
        packed.addfile(link)
    with pytest.raises(DatasetError, match="is a link"):
        unpacked(content.getvalue(), AFRICAN_FACTS, tmp_path)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        link = zipfile.ZipInfo("Images")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/tmp")
    with pytest.raises(DatasetError, match="is a link"):
        unpacked(content.getvalue(), SPANISH_FACTS, tmp_path)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as packed:
        for _ in range(2):
            packed.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DatasetError, match=r"a\.png is in it twice"):
        unpacked(content.getvalue(), AFRICAN_FACTS, tmp_path)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_what_unpacks_to_more_than_was_published_is_refused_unwritten(
    pack: Callable[[Files], bytes], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="more than 10,000,000 bytes"):
        unpacked(pack({"bomb": bytes(10**7 + 1)}), SPANISH_FACTS, tmp_path)
    assert left(tmp_path) == []


def test_a_disk_without_room_is_named_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(map(len, SPANISH.values()))
    usage = type("usage", (), {"free": 17})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(DatasetError, match=rf"unpacks to {needed:,} bytes.* has 17 left"):
        unpacked(zipped(SPANISH), SPANISH_FACTS, tmp_path)


def test_the_published_archives_have_room_for_what_they_hold() -> None:
    # 2.1 GB and 41 MB of PNG files are published.
    assert ARCHIVES["fetal_planes_db"].largest_size > 2.1e9
    assert ARCHIVES["african_planes"].largest_size > 41e6


def test_an_archive_that_is_not_there_is_named() -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.zip: cannot be opened \(No such file .*FET"):
        unpacked_size(Path("nowhere.zip"), SPANISH_FACTS)


def test_a_disk_that_fills_up_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    # Files larger than this process may write: Linux then says "File too large".
    limit = 1000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = tmp_path / "a.zip"
    file.write_bytes(zipped(SPANISH))
    assert max(map(len, SPANISH.values())) > limit
    arguments = (file, SPANISH_FACTS, published_loader(SPANISH_FACTS), tmp_path / "data")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(DatasetError, match=r"cannot be written \(File too large\); make room"):
            unpack(*arguments, 0, lambda _count: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert left(tmp_path) == []


def test_a_data_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DatasetError, match=r"data: cannot be written \(File exists\)"):
        unpacked(zipped(SPANISH), SPANISH_FACTS, tmp_path)


def test_a_member_of_another_size_is_named_with_both(tmp_path: Path) -> None:
    content = zipped({"a.txt": b"12345"})
    # The size in the directory of a zip, after the four bytes of the packed size.
    directory = content.index(b"PK\x01\x02") + 24
    larger = content[:directory] + (7).to_bytes(4, "little") + content[directory + 4 :]
    with pytest.raises(DatasetError, match=r"a\.txt: expected 7 bytes, found 5"):
        unpacked(larger, SPANISH_FACTS, tmp_path)
