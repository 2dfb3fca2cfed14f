"""Finding an encoder's weights: the weights folder, an installed package, or the hub."""

import functools
import os
from importlib import resources
from pathlib import Path

from huggingface_hub import constants, get_session, hf_hub_download

from sonobench.encoders.card import EncoderCard
from sonobench.encoders.checkpoint import file_sha256
from sonobench.encoders.encoder import EncoderError


class WeightsMissing(EncoderError):
    """Weights that are not at hand; the message says which file to put where."""


def weights_folder() -> Path:
    """Where weights files are looked for: `SONOBENCH_WEIGHTS`, or the user's cache."""
    chosen = os.environ.get("SONOBENCH_WEIGHTS")
    return Path(chosen) if chosen else Path.home() / ".cache" / "sonobench" / "weights"


def find_weights(card: EncoderCard) -> Path:
    """The file with an encoder's weights, fetched from the hub if need be.

    Raises:
        WeightsMissing: it is nowhere; never replaced by random weights.
        EncoderError: its SHA-256 is not the published one.
    """
    weights = card.weights
    if weights is None:
        raise WeightsMissing(f"{card.name}: has no weights of its own; give a 'checkpoint'")
    file = weights_folder() / weights.file
    if not file.is_file():
        file = _fetch(card)
    if weights.sha256 and (found := file_sha256(file)) != weights.sha256:
        raise EncoderError(
            f"{card.name}: {file} is not the published file: expected SHA-256 {weights.sha256}, "
            f"found {found}. Fetch it again, or name it as 'checkpoint' if it is meant."
        )
    return file


def _fetch(card: EncoderCard) -> Path:
    weights = card.weights
    assert weights is not None
    if weights.origin == "package":
        try:
            file = Path(str(resources.files(weights.where))) / weights.path
        except ModuleNotFoundError:
            file = Path()
        if file.is_file():
            return file
        raise WeightsMissing(
            f"{card.name}: weights come with the Python package '{weights.where}', which has no "
            f"{weights.path}; install it"
        )
    try:
        return Path(
            hf_hub_download(weights.where, weights.path, local_files_only=not _hub_answers())
        )
    # The hub's client raises errors of its own, of its HTTP library and of the system; they all
    # mean "not at hand", and the message carries the cause.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsMissing(
            f"{card.name}: weights are not here, and the hub did not give them ({reason}). Bring "
            f"{weights.path} of Hugging Face repository {weights.where}, and put it at "
            f"{weights_folder() / weights.file} or name it as 'checkpoint'."
        ) from None


@functools.cache
def _hub_answers() -> bool:
    # Asked once a process: the client itself retries for 20 seconds a file without a network.
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:
        return False
    return True
