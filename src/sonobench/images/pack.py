"""Packs: the images of a dataset under one geometry, decoded once, as uint8 memory maps.

One decoding pass writes the index (pixel hashes, sizes, what was unreadable) and the packs of
as many geometries as are wanted. Images whose three channels are equal take one channel.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.images.appearance import Appearance, appearance
from sonobench.images.decode import CannotDecode, UnreadableImage, decode
from sonobench.images.geometry import Geometry

_INDEX = "index.parquet"
_COLUMNS = ("pixel_sha256", "width", "height", "channels", "error")
_ROWS = "rows.npy"
_FILES = {1: "grey.u8", 3: "colour.u8"}


@dataclass(frozen=True)
class _Rendered:
    record: dict[str, object]
    squares: tuple[npt.NDArray[np.uint8] | None, ...]


class PackWriter:
    """Appends squares of one geometry to a folder, in the order of the dataset's files."""

    def __init__(self, folder: Path, geometry: Geometry) -> None:
        self._folder = folder
        self._geometry = geometry
        self._files: dict[int, BinaryIO] = {}
        self._counts = {1: 0, 3: 0}
        self._rows: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        for channels, name in _FILES.items():
            self._files[channels] = (self._folder / name).open("wb")
        return self

    def append(self, square: npt.NDArray[np.uint8] | None) -> None:
        """Add the next file's square; None where the file was unreadable."""
        if square is None:
            self._rows.append((0, -1))
            return
        channels = 1 if square.ndim == 2 else 3
        self._files[channels].write(np.ascontiguousarray(square).data)
        self._rows.append((channels, self._counts[channels]))
        self._counts[channels] += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        if error is None:
            np.save(self._folder / _ROWS, np.array(self._rows, dtype=np.int64).reshape(-1, 2))


class Pack:
    """Random access to the squares of one geometry.

    Args:
        folder: what a `PackWriter` made.
        geometry: the one it was made with.
    """

    def __init__(self, folder: Path, geometry: Geometry) -> None:
        self.geometry = geometry
        self._rows = np.load(folder / _ROWS)
        self._maps: dict[int, npt.NDArray[np.uint8]] = {}
        side = geometry.size
        for channels, name in _FILES.items():
            count = int((self._rows[:, 0] == channels).sum())
            if count:
                self._maps[channels] = np.memmap(
                    folder / name, dtype=np.uint8, mode="r", shape=(count, side, side, channels)
                )

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Squares at `positions`: (B, C, S, S) uint8, C = 1 where all are grey, else 3.

        Raises:
            ValueError: one of them could not be decoded.
        """
        rows = self._rows[positions]
        if (rows[:, 1] < 0).any():
            bad = int(np.asarray(positions)[rows[:, 1] < 0][0])
            raise ValueError(f"image {bad} of this pack could not be decoded; leave it out")
        channels = 1 if (rows[:, 0] == 1).all() else 3
        side = self.geometry.size
        squares = np.empty((len(rows), side, side, channels), dtype=np.uint8)
        for kind, images in self._maps.items():
            chosen = rows[:, 0] == kind
            if chosen.any():
                squares[chosen] = images[rows[chosen, 1]]  # one channel is copied to all three
        return np.ascontiguousarray(squares.transpose(0, 3, 1, 2))


def decode_all(
    files: Sequence[Path],
    index_folder: Path | None,
    packs: Mapping[Geometry, Path],
    *,
    hashes: Sequence[str] | None = None,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Decode every file once; write the index and one pack a geometry.

    Threads suffice: PIL decodes and resizes outside the interpreter lock. At most a few squares
    a thread are in memory, however many files there are. Unreadable files become rows of the
    index with an `error`; whether that stops a run is the protocol's decision.

    Args:
        files: the dataset's files, in the order of its rows.
        index_folder: where the index goes; None to leave it.
        packs: folder of each wanted geometry.
        hashes: SHA-256 of each file, as its artefacts are named by; None where nobody asks.
        threads: decoding threads; all cores if None.
        on_progress: called with the number of files done since the last call.

    Raises:
        CannotDecode: for a reason that is no file's, or a file is not the one of its hash.
    """

    def work(item: tuple[Path, str | None]) -> _Rendered:
        path, expected = item
        rendered = render(path)
        # After its pixels were taken: what the hash names is what was read.
        if expected is not None and _sha256(path) != expected:
            raise CannotDecode(path, "it has changed since the run began; start it again")
        return rendered

    def render(path: Path) -> _Rendered:
        try:
            decoded = decode(path)
        except UnreadableImage as error:
            nothing = _record(None, 0, 0, 0, error.reason, Appearance())
            return _Rendered(nothing, (None,) * len(packs))
        height, width = decoded.pixels.shape[:2]
        looks = appearance(decoded.pixels)
        found = _record(decoded.sha256, width, height, decoded.channels, "", looks)
        squares = tuple(geometry.render(decoded.pixels) for geometry in packs)
        return _Rendered(found, squares)

    records = []
    with ExitStack() as stack:
        writers = [
            stack.enter_context(PackWriter(folder, geometry)) for geometry, folder in packs.items()
        ]
        expected: Sequence[str | None] = hashes or [None] * len(files)
        items = zip(files, expected, strict=True)
        for result in _in_order(work, items, threads or os.cpu_count() or 1):
            for writer, square in zip(writers, result.squares, strict=True):
                writer.append(square)
            records.append(result.record)
            if on_progress:
                on_progress(1)
    if index_folder is not None:
        columns = [*_COLUMNS, *(field.name for field in fields(Appearance))]
        pd.DataFrame(records, columns=columns).to_parquet(index_folder / _INDEX, index=False)


def read_index(folder: Path) -> pd.DataFrame:
    """One row a file: pixel_sha256, width, height, channels, the error of an unreadable one, and
    the fields of `Appearance`."""
    return pd.read_parquet(folder / _INDEX)


def _record(
    sha256: str | None, width: int, height: int, channels: int, error: str, looks: Appearance
) -> dict[str, object]:
    facts = zip(_COLUMNS, (sha256, width, height, channels, error), strict=True)
    return {**dict(facts), **asdict(looks)}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CannotDecode(path, f"cannot be read ({error.strerror})") from error


def _in_order(
    work: Callable[[tuple[Path, str | None]], _Rendered],
    items: Iterable[tuple[Path, str | None]],
    threads: int,
) -> Iterator[_Rendered]:
    pending: deque[Future[_Rendered]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
