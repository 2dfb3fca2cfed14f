"""Bringing a published archive here: going on where a download broke off, and verified."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock, Timeout

from sonobench.datasets.archive import Archive
from sonobench.datasets.cohort import DatasetError

# Seconds without an answer, and bytes at a time, which are lost when a connection breaks off.
_TIMEOUT, _CHUNK = 30, 1 << 14
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
        answer = requests.get(archive.record, timeout=_TIMEOUT)
        answer.raise_for_status()
        listed = {entry["key"]: entry for entry in json.loads(answer.content)["files"]}
        entry = listed[archive.file]
        return PublishedFile(
            str(entry["links"]["self"]), int(entry["size"]), str(entry["checksum"])
        )
    except requests.RequestException as error:
        raise DatasetError(
            f"{archive.record} cannot be reached ({_reason(error)}). {archive.by_hand()}"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
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
            the connection breaks off and nothing more comes, or the file is not the published one.
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
    return type(error).__name__


class _Resuming:
    """A downloader for pooch that goes on from a `.part` file by HTTP ranges."""

    def __init__(self, part: Path, size: int, progress: DownloadProgress) -> None:
        self._part, self._size, self._progress = part, size, progress

    def __call__(self, url: str, output_file: str, _pooch: Any, check_only: bool = False) -> None:
        """Complete the part and move it to `output_file`; pooch then takes its checksum."""
        assert not check_only
        while (here := self._here()) != self._size:
            try:
                self._go_on(url, here)
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
                for chunk in answer.iter_content(_CHUNK):
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
