import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from sonobench.encoders import EncoderCard, EncoderError, Preprocess, Weights, WeightsMissing
from sonobench.encoders.registry import catalogue
from sonobench.encoders.weights import fetch_weights, find_weights
from sonobench.images import Geometry

CONTENT = b"weights" * 1000


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a server on this machine with one file."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w.pth").write_bytes(CONTENT)
    handler = partial(_Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/w.pth"
        server.shutdown()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SONOBENCH_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def card(url: str, sha256: str | None = None, terms: str | None = None) -> EncoderCard:
    weights = Weights("mine.pth", origin="url", where=url, sha256=sha256)
    geometry = Geometry("squash", 32)
    return EncoderCard("mine", Preprocess(geometry), 8, weights=weights, terms=terms)


def test_a_file_comes_into_the_weights_folder_verified(address: str, folder: Path) -> None:
    mine = card(address, hashlib.sha256(CONTENT).hexdigest())
    assert fetch_weights(mine) == folder / "mine.pth" == find_weights(mine)
    assert (folder / "mine.pth").read_bytes() == CONTENT


def test_what_is_here_is_not_fetched_again(folder: Path) -> None:
    folder.mkdir()
    (folder / "mine.pth").write_bytes(CONTENT)
    assert fetch_weights(card("http://127.0.0.1:9/nobody")) == folder / "mine.pth"


def test_another_file_than_the_published_one_is_refused_and_taken_away(
    address: str, folder: Path
) -> None:
    with pytest.raises(EncoderError, match="not the published file: expected SHA-256 000"):
        fetch_weights(card(address, "0" * 64))
    assert not list(folder.iterdir())


def test_without_a_network_the_message_says_which_file_belongs_where(folder: Path) -> None:
    # Nobody listens on the discard port.
    with pytest.raises(WeightsMissing, match=rf"http://127\.0\.0\.1:9/nobody.*{folder}/mine\.pth"):
        fetch_weights(card("http://127.0.0.1:9/nobody"))


def test_a_run_does_not_fetch_what_asks_for_an_agreement(address: str, folder: Path) -> None:
    with pytest.raises(WeightsMissing, match="`sonobench models fetch mine` brings them"):
        find_weights(card(address, terms="non-commercial use only"))
    assert not folder.exists()


@pytest.mark.parametrize(
    "name", [n for n, a in catalogue().items() if a.card.weights and n != "efficientnet_lite0"]
)
def test_missing_weights_of_the_catalogue_say_what_to_bring_and_where_to_put_it(
    name: str, folder: Path
) -> None:
    with pytest.raises(WeightsMissing, match=rf"(?s)Bring .*(http|Hugging Face).*{folder}"):
        find_weights(catalogue()[name].card)
