"""From an archive to a dataset in the data root: checked, and there as a whole or not at all."""

import io
import lzma
import shutil
import stat
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock

from sonobench.datasets.archive import Archive
from sonobench.datasets.cohort import Cohort, DatasetError

_CHUNK = 1 << 20
# Names of what says beside the data where they come from.
SOURCE_NOTE = "SOURCE.txt"
_Member = tuple[PurePosixPath, int, Callable[[], IO[bytes]]]


def unpacked_size(file: Path, archive: Archive) -> int:
    """Bytes that an archive unpacks to; every member's name and kind is checked.

    It reads the whole archive, which takes a while.

    Raises:
        DatasetError: it cannot be read, has a member that would leave its folder or is no plain
            file, or unpacks to more than the published archive.
    """
    with _members(file, archive) as members:
        return sum(size for _, size, _ in members)


def unpack(
    file: Path,
    archive: Archive,
    load: Callable[[str, Path], Cohort],
    data_root: Path,
    size: int,
    progress: Callable[[int], None],
) -> Path:
    """Unpack an archive aside, check that its dataset is complete, and put it in its place.

    Args:
        file: the archive.
        archive: what it should be.
        load: the dataset's loader.
        data_root: where the dataset's folder goes.
        size: what `unpacked_size` said.
        progress: called with the bytes that were written since the last call.

    Returns:
        The dataset's folder; what it is and its licence lie in it as SOURCE.txt.

    Raises:
        DatasetError: as `unpacked_size`; or the dataset is there already, the disk has no room or
            cannot be written to, or images or metadata are not the published ones.
    """
    with _writing_to(data_root):
        data_root.mkdir(parents=True, exist_ok=True)
        return _unpack(file, archive, load, data_root, size, progress)


def _unpack(
    file: Path,
    archive: Archive,
    load: Callable[[str, Path], Cohort],
    data_root: Path,
    size: int,
    progress: Callable[[int], None],
) -> Path:
    place = data_root / archive.folder
    with FileLock(data_root / f".{archive.folder}.lock"):
        if place.exists():
            raise DatasetError(
                f"{place} is there already; move it away to unpack {file.name} in its place"
            )
        for leftover in data_root.glob(f".{archive.folder}.aside.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(data_root).free
        if size > free:
            raise DatasetError(
                f"{file.name} unpacks to {size:,} bytes, and {data_root} has {free:,} left; "
                "choose another data root (--data-root) or make room"
            )
        aside = data_root / f".{archive.folder}.aside.{uuid.uuid4().hex[:8]}"
        aside.mkdir()
        try:
            with _members(file, archive) as members:
                _write(members, aside, progress)
            folder = _dataset_folder(aside, file, archive)
            _check(load(archive.name, folder), archive, file)
            (folder / SOURCE_NOTE).write_text(archive.terms(), encoding="utf-8")
            folder.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return place


def _write(members: Iterator[_Member], folder: Path, progress: Callable[[int], None]) -> None:
    for name, size, opened in members:
        target = folder / name
        written = 0
        # What fails at the target is no fault of the archive, which is read in the same loop.
        with _writing_to(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            out = target.open("xb", buffering=0)
        with out, opened() as source:
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > size:
                    break
                left = chunk
                with _writing_to(target):
                    while left:
                        left = left[out.write(left) :]
                progress(len(chunk))
        if written != size:
            found = "more" if written > size else f"{written:,}"
            raise DatasetError(f"{name}: expected {size:,} bytes, found {found}")


@contextmanager
def _writing_to(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{place}: cannot be written ({error.strerror}); make room, or choose another data "
            "root (--data-root)"
        ) from None


def _dataset_folder(aside: Path, file: Path, archive: Archive) -> Path:
    found = [path.parent for path in aside.rglob(archive.metadata)]
    if len(found) != 1:
        raise DatasetError(
            f"{file}: expected one {archive.metadata} in it, found {len(found)}; it is not "
            f"{archive.file} of https://doi.org/{archive.doi}"
        )
    return found[0]


def _check(cohort: Cohort, archive: Archive, file: Path) -> None:
    absent = [path.name for path in cohort.files() if not path.is_file()]
    if absent:
        raise DatasetError(
            f"{file}: {len(absent)} of {len(cohort.samples)} images are not in it; first: "
            f"{absent[0]}. Bring {archive.file} again."
        )
    images, patients = len(cohort.samples), cohort.samples["patient_id"].nunique()
    if (images, patients) != (archive.images, archive.patients):
        raise DatasetError(
            f"{file}: {images:,} images of {patients:,} patients, published are "
            f"{archive.images:,} of {archive.patients:,}; it is not {archive.file} of "
            f"https://doi.org/{archive.doi}"
        )
    found = cohort.metadata_sha256
    if found != archive.metadata_sha256:
        raise DatasetError(
            f"{file}: {archive.metadata} in it has SHA-256 {found}, published is "
            f"{archive.metadata_sha256}; it is not {archive.file} of https://doi.org/{archive.doi}"
        )


@contextmanager
def _members(file: Path, archive: Archive) -> Iterator[Iterator[_Member]]:
    """The plain files of an archive, checked one by one; any damage is a DatasetError."""
    try:
        opened = file.open("rb")
    except OSError as error:
        raise DatasetError(
            f"{file}: cannot be opened ({error.strerror}); expected the archive {archive.file}"
        ) from None
    try:
        with opened:
            if zipfile.is_zipfile(opened):
                with zipfile.ZipFile(opened) as packed:
                    yield _checked(_zip_members(packed), file, archive)
            else:
                opened.seek(0)
                # Headers are some hundred bytes a file; what is more than that is no dataset.
                with lzma.open(opened) as stream:
                    limited = _Limited(stream, 2 * archive.largest_size)
                    with tarfile.open(fileobj=limited, mode="r|") as packed:
                        yield _checked(_tar_members(packed), file, archive)
    except DatasetError:
        raise
    # zipfile, tarfile and lzma raise a dozen kinds of errors on damaged files; whatever it was,
    # this archive cannot be used and the message carries the cause.
    except Exception as error:
        raise DatasetError(
            f"{file}: cannot be unpacked ({type(error).__name__}: {error}). Bring {archive.file} "
            "again."
        ) from None


def _checked(members: Iterator[_Member], file: Path, archive: Archive) -> Iterator[_Member]:
    seen, total = set[PurePosixPath](), 0
    for name, size, opened in members:
        total += size
        if total > archive.largest_size:
            raise DatasetError(
                f"{file}: unpacks to more than {archive.largest_size:,} bytes; it is not "
                f"{archive.file} of https://doi.org/{archive.doi}"
            )
        if name in seen:
            raise DatasetError(f"{file}: {name} is in it twice")
        seen.add(name)
        yield name, size, opened


def _zip_members(packed: zipfile.ZipFile) -> Iterator[_Member]:
    for info in packed.infolist():
        if info.is_dir():
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise DatasetError(f"{packed.filename or 'the archive'}: {info.filename!r} is a link")
        if info.flag_bits & 1:
            raise DatasetError(f"{info.filename!r} is encrypted")
        yield _safe(info.filename), info.file_size, lambda info=info: packed.open(info)  # type: ignore[misc]


def _tar_members(packed: tarfile.TarFile) -> Iterator[_Member]:
    for info in packed:
        if info.isdir():
            continue
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.size < 0:
            raise DatasetError(f"{info.name!r} is a link or no plain file")

        def opened(info: tarfile.TarInfo = info) -> IO[bytes]:
            content = packed.extractfile(info)
            assert content is not None
            return content

        yield _safe(info.name), info.size, opened


def _safe(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in name:
        raise DatasetError(f"{name!r} would be unpacked outside of its folder")
    return path


class _Limited(io.BufferedIOBase):
    """A stream that refuses to give more than so many bytes."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, size: int | None = -1, /) -> bytes:
        """As `IO.read`."""
        content = self._stream.read(-1 if size is None else size)
        self._left -= len(content)
        if self._left < 0:
            raise DatasetError("it unpacks to far more than was published")
        return content
