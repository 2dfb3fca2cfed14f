"""Downloads from a loopback server: whole, broken off, damaged, of the wrong size."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from standins import Server, african_files, facts, served, tarred

from sonobench.datasets import Archive, DatasetError, fetch
from sonobench.datasets.fetch import PublishedFile, download, look_up

FILES = african_files()
CONTENT = tarred(FILES)
NAME = "Zenodo_dataset.tar.xz"


def archive_at(server: Server) -> Archive:
    return facts("african_planes", FILES, 8, f"{server.address}/record")


def brought(server: Server, folder: Path) -> Path:
    archive = archive_at(server)
    return download(archive, look_up(archive), folder, lambda _here, _total: None)


def left(folder: Path) -> list[str]:
    """What is in a folder but for the lock."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_file_comes_whole_and_says_how_far_it_is(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    with served(Server(NAME, CONTENT)) as server:
        archive = archive_at(server)
        file = download(archive, look_up(archive), tmp_path, lambda *far: said.append(far))
    assert file.read_bytes() == CONTENT
    assert said[-1] == (len(CONTENT), len(CONTENT))
    assert left(tmp_path) == [NAME]


def test_a_download_that_breaks_off_goes_on_by_itself_as_long_as_something_comes(
    tmp_path: Path,
) -> None:
    with served(Server(NAME, CONTENT, breaks_after=20_000)) as server:
        assert brought(server, tmp_path).read_bytes() == CONTENT
        # Each request starts where the one before broke off.
        starts = range(20_000, len(CONTENT), 20_000)
        assert server.asked == ["", *(f"bytes={start}-" for start in starts)]


def test_a_later_command_goes_on_where_an_earlier_one_ended(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:7000])
    with served(Server(NAME, CONTENT)) as server:
        assert brought(server, tmp_path).read_bytes() == CONTENT
        assert server.asked == ["bytes=7000-"]


def test_a_server_that_cannot_go_on_gives_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 7000)
    with served(Server(NAME, CONTENT, ranges=False)) as server:
        assert brought(server, tmp_path).read_bytes() == CONTENT


def test_when_nothing_comes_any_more_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:7000])
    with (
        served(Server(NAME, CONTENT, breaks_after=0)) as server,
        pytest.raises(DatasetError, match=r"broke off.*same command goes on.*data import"),
    ):
        brought(server, tmp_path)
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:7000]


@pytest.mark.parametrize("server", [Server(NAME, CONTENT, drips=True), Server(NAME, CONTENT, 1)])
def test_a_server_that_gives_a_byte_at_a_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setattr(fetch, "_PATIENCE", 0.1)
    monkeypatch.setattr(fetch, "_SLOWEST", 1 << 30)
    digest = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    with served(server):
        published = PublishedFile(f"{server.address}/file", len(CONTENT), digest)
        with pytest.raises(DatasetError, match=r"bytes came in 0 seconds, .*same command goes on"):
            download(archive_at(server), published, tmp_path, lambda *_: None)
    assert 0 < (tmp_path / f"{NAME}.part").stat().st_size < len(CONTENT)


def test_a_record_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_PATIENCE", 0.1)
    with (
        served(Server(NAME, CONTENT, drips=True)) as server,
        pytest.raises(DatasetError, match=r"cannot be reached .*bytes came in 0 seconds, expected"),
    ):
        look_up(archive_at(server))


def _record(**changed: object) -> bytes:
    entry = {"key": NAME, "size": 5, "checksum": "md5:x", "links": {"self": "http://x"}}
    return json.dumps({"files": [{**entry, **changed}]}).encode()


@pytest.mark.parametrize(
    "record",
    [
        b"<html>",
        b"[" * 200_000,
        b" " * (5 << 20),
        _record(size=-5),
        _record(size=0),
        _record(size="x"),
        _record(links={"self": "file:///etc/passwd"}),
        _record(links=[]),
        b'{"files": [{"key": "%s", "size": %s}]}' % (NAME.encode(), b"9" * 5000),
        b"\xff\xfe{",
    ],
)
def test_a_record_that_says_something_else_is_refused(record: bytes) -> None:
    with (
        served(Server(NAME, CONTENT, record=record)) as server,
        pytest.raises(DatasetError, match=rf"does not list {NAME} as it used to"),
    ):
        look_up(archive_at(server))


def test_a_damaged_file_is_refused_and_removed(tmp_path: Path) -> None:
    with (
        served(Server(NAME, CONTENT, published_md5="0" * 32)) as server,
        pytest.raises(DatasetError, match=r"damaged on its way: expected md5:000.*fetch it again"),
    ):
        brought(server, tmp_path)
    assert left(tmp_path) == []


def test_a_second_process_does_not_write_into_the_same_file(tmp_path: Path) -> None:
    with (
        served(Server(NAME, CONTENT)) as server,
        FileLock(tmp_path / f".{NAME}.lock"),
        pytest.raises(DatasetError, match=r"part: another process downloads it just now"),
    ):
        brought(server, tmp_path)
    assert left(tmp_path) == []


def test_a_disk_without_room_for_archive_and_images_is_named_before_anything_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:7000])
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("usage", (), {"free": 17}))
    needed = 2 * len(CONTENT) - 7000
    with (
        served(Server(NAME, CONTENT)) as server,
        pytest.raises(DatasetError, match=rf"need {needed:,} bytes, .* has 17 left"),
    ):
        brought(server, tmp_path)
    assert server.asked == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file")
    with (
        served(Server(NAME, CONTENT)) as server,
        pytest.raises(DatasetError, match=r"downloads: cannot be written \(File exists\)"),
    ):
        brought(server, tmp_path / "downloads")


def test_what_the_server_answers_is_in_the_message() -> None:
    with served(Server(NAME, CONTENT)) as server:
        nowhere = replace(archive_at(server), record=f"{server.address}/nowhere")
        with pytest.raises(DatasetError, match=r"cannot be reached \(HTTP status 404\)"):
            look_up(nowhere)


@pytest.mark.parametrize(("difference", "message"), [(-10, "more came"), (10, "broke off")])
def test_a_file_of_another_size_is_refused(tmp_path: Path, difference: int, message: str) -> None:
    wrong = Server(NAME, CONTENT, published_size=len(CONTENT) + difference)
    with served(wrong) as server, pytest.raises(DatasetError, match=message):
        brought(server, tmp_path)
    assert not (tmp_path / NAME).exists()


def test_without_a_network_the_error_says_which_file_to_bring(tmp_path: Path) -> None:
    with served(Server(NAME, CONTENT)) as server:
        archive = archive_at(server)
    with pytest.raises(DatasetError, match=r"cannot be reached.*bring Zenodo_dataset\.tar\.xz"):
        look_up(archive)


def test_a_record_without_the_file_is_refused() -> None:
    with served(Server("another.zip", CONTENT)) as server:
        archive = archive_at(server)
        with pytest.raises(DatasetError, match=r"does not list Zenodo_dataset\.tar\.xz"):
            look_up(archive)
        with pytest.raises(DatasetError, match="does not list"):
            look_up(replace(archive, record=f"{server.address}/file"))
