"""Keyed hashes in place of patients and file names, before anything is written."""

import hashlib
import hmac
import os
import secrets
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sonobench.datasets.cohort import Cohort, DatasetError
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
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as opened:
                opened.write(secrets.token_hex(_BYTES))
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: no key for pseudonyms can be read there ({error})") from None
    if len(key) != _BYTES:
        raise DatasetError(f"{file}: expected a key of {2 * _BYTES} hexadecimal digits")
    return key


def pseudonymised(cohort: Cohort, key: bytes) -> Cohort:
    """The cohort with pseudonyms as patients and paths, and without further columns.

    A row of the metadata file is still named by its number. What the file has beside the columns
    of the sample table is left out: nobody can know whether it tells who somebody is.

    Args:
        cohort: as its loader found it.
        key: of `pseudonym_key`.
    """

    def pseudonym(text: str) -> str:
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:_DIGITS]

    samples = cohort.samples
    suffixes = samples["path"].map(lambda path: PurePosixPath(path).suffix)
    path = samples["image_id"].map(pseudonym) + suffixes
    kept = [column for column in samples if column in SAMPLES.names]
    return replace(
        cohort,
        samples=samples[kept].assign(
            image_id=cohort.name + "/" + path,
            path=path,
            patient_id=cohort.name + "/" + samples["patient_id"].map(pseudonym),
            row=samples["row"],
            file=samples["path"],
        ),
    )
