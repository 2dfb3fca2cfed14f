"""Stand-ins of the published archives: same layout and names, tiny images, and a server."""

import io
import json
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import md5, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from sonobench.datasets import ARCHIVES, Archive
from sonobench.protocol import FETAL_PLANES

_RNG = np.random.default_rng(0)
Files = dict[str, bytes]


def _picture(position: int) -> bytes:
    """A bright bar, whose position is the class, on speckle."""
    pixels = _RNG.rayleigh(30, (40, 48))
    pixels[2 + 6 * position : 6 + 6 * position] += 120
    content = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def spanish_files(patients: int = 15) -> Files:
    """An image of each of the six classes a patient; every third patient is a test patient."""
    lines = ["Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train "]
    files = {}
    for patient in range(1, patients + 1):
        for position, plane in enumerate(FETAL_PLANES):
            name = f"Patient{patient:05d}_Plane{position + 1}_1_of_6"
            train = int(patient % 3 != 0)
            lines.append(f"{name};{patient};{plane};Not A Brain;Op. 1;Voluson E6;{train} ")
            files[f"Images/{name}.png"] = _picture(position)
    return {"FETAL_PLANES_DB_data.csv": "\n".join(lines).encode() + b"\n", **files}


def african_files(patients: int = 4) -> Files:
    """Two centres whose patient numbers restart; one image is twice in Algeria."""
    lines, files = ["Patient_num,Plane,Train,Center,Filename"], {}
    for centre, code in (("Algeria", "DZA"), ("Egypt", "EGY")):
        for patient in range(1, patients + 1):
            for position, plane in enumerate(FETAL_PLANES[:4]):
                name = f"patient{patient:03d}_{code}_plane{position}"
                lines.append(f"{patient},{plane},{patient % 2},{centre},{name}")
                files[f"Zenodo_dataset/{centre}/{name}.png"] = _picture(position)
    twice = "Zenodo_dataset/Algeria/patient00{}_DZA_plane0.png"
    files[twice.format(2)] = files[twice.format(1)]
    return {
        "Zenodo_dataset/African_planes_database.csv": "\n".join(lines).encode() + b"\n",
        **files,
    }


def zipped(files: Files) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return content.getvalue()


def tarred(files: Files) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz", preset=0) as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return content.getvalue()


def facts(
    name: str, files: Files, patients: int, record: str = "http://nowhere.invalid"
) -> Archive:
    """What is known of the published archive, with the stand-in's counts."""
    return replace(
        ARCHIVES[name],
        record=record,
        images=sum(file.endswith(".png") for file in files),
        patients=patients,
        metadata_sha256=next(
            sha256(data).hexdigest() for file, data in files.items() if file.endswith(".csv")
        ),
        largest_size=10**7,
    )


@dataclass
class Server:
    """What the loopback server gives, and what it was asked.

    Attributes:
        content: of the one file that it has.
        breaks_after: bytes after which it closes each connection; None for never.
        drips: whether it gives a byte at a time, a hundred a second at most.
        record: what it says of the file; None for the truth.
        ranges: whether it goes on in the middle of the file.
        published_md5: what the record says; that of the content if None.
        asked: the Range of every request for the file.
    """

    name: str
    content: bytes
    breaks_after: int | None = None
    drips: bool = False
    record: bytes | None = None
    ranges: bool = True
    published_md5: str | None = None
    published_size: int | None = None
    asked: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def served(server: Server) -> Iterator[Server]:
    """Serve it on loopback: `/record` describes the file, `/file` is it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/record":
                self._record()
            elif self.path == "/file":
                self._file()
            else:
                self.send_error(404)

        def _record(self) -> None:
            digest = server.published_md5 or md5(server.content).hexdigest()
            entry = {
                "key": server.name,
                "size": server.published_size or len(server.content),
                "checksum": f"md5:{digest}",
                "links": {"self": f"{server.address}/file"},
            }
            body = server.record or json.dumps({"files": [entry]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self._give(body)

        def _file(self) -> None:
            asked = self.headers.get("Range", "")
            server.asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
            body = server.content[start:]
            self.send_response(206 if start else 200)
            if start:
                whole = len(server.content)
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self._give(body[: server.breaks_after])

        def _give(self, body: bytes) -> None:
            step = 1 if server.drips else max(1, len(body))
            # A client that has given up has closed the connection.
            with suppress(OSError):
                for start in range(0, len(body), step):
                    self.wfile.write(body[start : start + step])
                    if server.drips:
                        time.sleep(0.01)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
