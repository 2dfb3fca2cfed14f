"""Keyed hashes in place of patients and file names, before anything is written."""

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pandas as pd

from sonobench.datasets.cohort import Cohort, DatasetError
from sonobench.images import SUFFIXES
from sonobench.tables import SAMPLES

_BYTES = 32
# Hexadecimal digits of a pseudonym: 64 bits, so that two of a million images hardly ever agree.
_DIGITS = 16


def pseudonym_key() -> bytes:
    """The secret that pseudonyms are made with, made when it is first needed.

    It is kept apart from every run, in `SONOBENCH_PSEUDONYM_KEY` or the user's configuration:
    the same key gives the same pseudonyms, so that a run goes on and runs can be compared. Who
    has the key and a list of patients can tell who is who; without the key nobody can.

    Raises:
        DatasetError: the file cannot be read or written, or holds no key.
    """
    chosen = os.environ.get("SONOBENCH_PSEUDONYM_KEY")
    file = Path(chosen) if chosen else Path.home() / ".config" / "sonobench" / "pseudonym.key"
    try:
        if not file.exists():
            _write_key(file)
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: no key for pseudonyms can be read there ({error})") from None
    if len(key) != _BYTES:
        raise DatasetError(f"{file}: expected a key of {2 * _BYTES} hexadecimal digits")
    return key


def _write_key(file: Path) -> None:
    """Make a key that only its owner can read; where another process was faster, its key stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as opened:
            opened.write(secrets.token_hex(_BYTES))
        # A link appears with its content or not at all, and never over a file that is there.
        with suppress(FileExistsError):
            os.link(aside, file)
    finally:
        Path(aside).unlink()


def _suffix(path: str) -> str:
    """That of an image; what else stands after a name's last dot may be a part of the name."""
    suffix = PurePosixPath(path).suffix
    return suffix if suffix.lower() in (*SUFFIXES, ".dcm") else ""


def pseudonymised(cohort: Cohort, key: bytes) -> Cohort:
    """The cohort with pseudonyms as patients, operators and paths, and without further columns.

    A row of the metadata file is still named by its number. What the file has beside the columns
    of the sample table is left out, but for what its loader knows to be harmless
    (`Cohort.impersonal`): of anything else nobody can know whether it tells who somebody is.

    Args:
        cohort: as its loader found it.
        key: of `pseudonym_key`.
    """

    def pseudonym(text: str) -> str:
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:_DIGITS]

    samples = cohort.samples

    def patient(whole: str) -> str:
        return f"{cohort.name}/{pseudonym(whole)}"

    path = samples["image_id"].map(pseudonym) + samples["path"].map(_suffix)
    kept = [column for column in samples if column in (*SAMPLES.names, *cohort.impersonal)]
    # A column without a single operator has no text to hash.
    operator = samples["operator"].astype(object)
    return replace(
        cohort,
        samples=samples[kept].assign(
            image_id=cohort.name + "/" + path,
            path=path,
            patient_id=samples["patient_id"].map(patient),
            operator=operator.map(
                lambda who: None if pd.isna(who) else pseudonym(f"operator {who}")
            ),
            row=samples["row"],
            file=samples["path"],
        ),
        look_alike=tuple(tuple(map(patient, group)) for group in cohort.look_alike),
    )
