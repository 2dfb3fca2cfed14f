"""Bringing a published archive here: going on where a download broke off, and verified."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
import urllib3
from filelock import FileLock, Timeout

from sonobench.datasets.archive import Archive
from sonobench.datasets.cohort import DatasetError

# Seconds without an answer, and bytes at a time at most.
_TIMEOUT, _CHUNK = 30, 1 << 20
# A server that gives fewer bytes a second than this, over so many seconds, is given up.
_SLOWEST, _PATIENCE = 1024, 30.0
# Bytes of a record; that of a data set has some thousand.
_LONGEST_RECORD = 4 << 20
DownloadProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class PublishedFile:
    """A file of a record: where it is, how many bytes it has, and its checksum (`md5:…`)."""

    url: str
    size: int
    checksum: str


def look_up(archive: Archive) -> PublishedFile:
    """Ask the record that publishes an archive for its address, size and checksum.

    Raises:
        DatasetError: the record cannot be reached or does not have the file; with the way round.
    """
    try:
        listed = {entry["key"]: entry for entry in json.loads(_record(archive.record))["files"]}
        entry = listed[archive.file]
        url, size = str(entry["links"]["self"]), int(entry["size"])
        if size <= 0 or not url.startswith(("https://", "http://")):
            raise ValueError
        return PublishedFile(url, size, str(entry["checksum"]))
    except requests.RequestException as error:
        raise DatasetError(
            f"{archive.record} cannot be reached ({_reason(error)}). {archive.by_hand()}"
        ) from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{archive.record} does not list {archive.file} as it used to "
            f"({type(error).__name__}). "
            f"{archive.by_hand()}"
        ) from None


def download(
    archive: Archive, published: PublishedFile, folder: Path, progress: DownloadProgress
) -> Path:
    """Bring an archive into `folder`; what an earlier attempt left in its `.part` file is kept.

    Args:
        archive: which.
        published: what `look_up` said.
        folder: where it goes, made where it is not there.
        progress: called with the bytes that are here and that there are in all.

    Raises:
        DatasetError: another process downloads it, the disk has no room or cannot be written to,
            the connection breaks off and nothing more comes, less than 1 KiB a second comes for
            half a minute, or the file is not the published one.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    part = folder / f"{archive.file}.part"
    bring = _Resuming(part, published.size, progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{archive.file}.lock", timeout=0):
            _refuse_full_disk(archive, published.size, folder)
            file = pooch.retrieve(
                published.url,
                known_hash=published.checksum,
                fname=archive.file,
                path=folder,
                downloader=bring,
            )
    except Timeout:
        raise DatasetError(f"{part}: another process downloads it just now; wait for it") from None
    except requests.RequestException as error:
        raise DatasetError(
            f"the download of {archive.file} broke off ({_reason(error)}); the same command "
            f"goes on where it was. {archive.by_hand()}"
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot be written ({error.strerror}); make room, or choose another data "
            "root (--data-root)"
        ) from None
    except ValueError as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{archive.file} was damaged on its way: expected {published.checksum}. It is removed; "
            "fetch it again."
        ) from None
    return Path(file)


def _refuse_full_disk(archive: Archive, size: int, folder: Path) -> None:
    """The archive and what it unpacks to, about as much again, must find room."""
    here = sum(file.stat().st_size for file in folder.glob(f"{archive.file}*"))
    needed, free = 2 * size - here, shutil.disk_usage(folder).free
    if needed > free:
        raise DatasetError(
            f"{archive.file} and what it unpacks to need {needed:,} bytes, and {folder} has "
            f"{free:,} left; choose another data root (--data-root) or make room"
        )


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"HTTP status {error.response.status_code}"
    return str(error) if isinstance(error, _TooSlow) else type(error).__name__


class _TooSlow(requests.Timeout):
    """Less comes than is worth waiting for."""


class _Pace:
    """Counts what comes, over all connections, and gives up where it is too little."""

    def __init__(self) -> None:
        self._since, self._came = time.monotonic(), 0

    def came(self, count: int) -> None:
        """Note bytes that came.

        Raises:
            _TooSlow: over the last `_PATIENCE` seconds they were fewer than `_SLOWEST` a second.
        """
        self._came += count
        seconds = time.monotonic() - self._since
        if seconds >= _PATIENCE:
            if self._came < _SLOWEST * seconds:
                raise _TooSlow(
                    f"{self._came:,} bytes came in {seconds:.0f} seconds, expected at least "
                    f"{_SLOWEST:,} a second"
                )
            self._since, self._came = time.monotonic(), 0


def _pieces(answer: requests.Response, pace: _Pace) -> Iterator[bytes]:
    """The content as it comes; `iter_content` waits until a piece is whole, however long."""
    try:
        while piece := answer.raw.read1(_CHUNK):
            pace.came(len(piece))
            yield piece
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from None


def _record(url: str) -> bytes:
    pace, content = _Pace(), b""
    headers = {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        answer.raise_for_status()
        for piece in _pieces(answer, pace):
            content += piece
            if len(content) > _LONGEST_RECORD:
                raise ValueError(f"more than {_LONGEST_RECORD:,} bytes")
    return content


class _Resuming:
    """A downloader for pooch that goes on from a `.part` file by HTTP ranges."""

    def __init__(self, part: Path, size: int, progress: DownloadProgress) -> None:
        self._part, self._size, self._progress = part, size, progress
        self._pace = _Pace()

    def __call__(self, url: str, output_file: str, _pooch: Any, check_only: bool = False) -> None:
        """Complete the part and move it to `output_file`; pooch then takes its checksum."""
        assert not check_only
        while (here := self._here()) != self._size:
            try:
                self._go_on(url, here)
            except _TooSlow:
                raise
            except requests.RequestException:
                # Whatever the cause, another attempt is worth while as long as something comes.
                if self._here() <= here:
                    raise
        self._part.replace(output_file)

    def _here(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _go_on(self, url: str, here: int) -> None:
        headers = {"Accept-Encoding": "identity"}
        if 0 < here < self._size:
            headers["Range"] = f"bytes={here}-"
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            answer.raise_for_status()
            goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {here}-")
            if answer.status_code != requests.codes.partial_content or not goes_on:
                here = 0  # the server gives the whole file only
            with self._part.open("ab" if here else "wb") as file:
                for chunk in _pieces(answer, self._pace):
                    file.write(chunk)
                    here += len(chunk)
                    self._progress(here, self._size)
                    if here > self._size:
                        break
        if here < self._size:
            raise requests.ConnectionError(f"{here} of {self._size} bytes came")
        if here > self._size:
            self._part.unlink()
            raise DatasetError(
                f"{url}: expected {self._size:,} bytes, and more came; fetch it again"
            )
