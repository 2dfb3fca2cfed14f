"""Images that are there and cannot be read: named, left out where the protocol says so."""

from pathlib import Path

import pandas as pd
import pytest
from hospitals import WriteProtocol

from sonobench.data_audit import audit_protocol
from sonobench.datasets import DatasetError
from sonobench.engine import LocalEngine, Store
from sonobench.preparation import decode_and_divide, find_cohorts, hash_files
from sonobench.protocol import Protocol, load_protocol


def divide(protocol: Protocol, root: Path, store: Store) -> list[str]:
    """Prepare the data as a run does; what was left out at home."""
    engine = LocalEngine(store, 1)
    files, left_out = hash_files(find_cohorts(protocol, root, engine, store), protocol.unreadable)
    geometries = dict.fromkeys(files, ())
    data = decode_and_divide(protocol, files, geometries, engine, store, left_out)
    return [str(message) for message in data.audit["left_out"]]


@pytest.fixture
def closed(hospitals: Path) -> Path:
    """An image that opens and gives an error when it is read, as of a broken disk."""
    image = hospitals / "home" / str(pd.read_csv(hospitals / "home" / "manifest.csv")["path"][4])
    image.unlink()
    # Linux has no memory at the first address of a process.
    image.symlink_to("/proc/self/mem")
    return image


def test_a_file_that_cannot_be_read_stops_with_its_row(
    write_protocol: WriteProtocol, hospitals: Path, closed: Path, tmp_path: Path
) -> None:
    protocol = load_protocol(write_protocol())
    expected = rf"row 6: .*{closed.name}: cannot be read \(Input/output error\)"
    with pytest.raises(DatasetError, match=expected):
        divide(protocol, hospitals, Store(tmp_path / "store"))


def test_a_file_that_cannot_be_read_is_left_out_where_the_protocol_says_so(
    write_protocol: WriteProtocol, hospitals: Path, closed: Path, tmp_path: Path
) -> None:
    protocol = load_protocol(write_protocol(unreadable="leave_out"))
    (message,) = divide(protocol, hospitals, Store(tmp_path / "store"))
    assert f"{closed.name}: cannot be read" in message


def test_a_cohort_of_which_nothing_decodes_stops_with_a_reason_and_is_audited(
    write_protocol: WriteProtocol, hospitals: Path, tmp_path: Path
) -> None:
    for image in (hospitals / "abroad" / "images").iterdir():
        image.write_bytes(b"no image")
    protocol = load_protocol(write_protocol(unreadable="leave_out"))
    store = Store(tmp_path / "store")
    with pytest.raises(DatasetError, match="none of the images of 'abroad' can be read; first"):
        divide(protocol, hospitals, store)
    for image in (hospitals / "home" / "images").iterdir():
        image.write_bytes(b"no image")
    result = audit_protocol(protocol, hospitals, store)
    unreadable = [f for f in result["findings"] if f["kind"] == "unreadable"]
    assert [(f["cohort"], f["severity"], f["count"]) for f in unreadable] == [
        ("home", "error", 30),
        ("abroad", "error", 12),
    ]
    assert "not an image, or of no format that is read" in unreadable[0]["message"]
