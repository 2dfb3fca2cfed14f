"""Which encoders take part in a run: found with their weights, or left out with the reason."""

import logging
from dataclasses import dataclass
from pathlib import Path

from sonobench.encoders import EncoderError, EncoderSpec, WeightsMissing, file_sha256, resolve
from sonobench.images import Geometry
from sonobench.protocol import EncoderEntry, Protocol, Training

_logger = logging.getLogger("sonobench")


@dataclass(frozen=True)
class Member:
    """An encoder that takes part: its specs (one a seed for a random twin), or its embeddings.

    Attributes:
        entry: of the protocol.
        specs: of the encoder; none of given embeddings.
        embeddings: the file with given ones.
        embeddings_sha256: of that file when the run began, which whoever reads it compares.
    """

    entry: EncoderEntry
    specs: tuple[EncoderSpec, ...] = ()
    embeddings: Path | None = None
    embeddings_sha256: str = ""

    @property
    def geometry(self) -> Geometry | None:
        """Of the pack that it reads; None for given embeddings."""
        return self.specs[0].card.preprocess.geometry if self.specs else None

    @property
    def is_control(self) -> bool:
        """Whether it is there to be compared with, not to be chosen."""
        return bool(self.specs) and self.specs[0].card.control

    def trainings(self, protocol: Protocol) -> dict[str, Training]:
        """Its adaptations that train by gradient, by name; none where there is nothing to train."""
        if not self.specs or self.specs[0].card.parameters == 0:
            return {}
        asked = protocol.adaptations_of(self.entry).items()
        return {name: settings for name, settings in asked if isinstance(settings, Training)}


@dataclass(frozen=True)
class Skipped:
    """An encoder that does not take part, and why."""

    label: str
    reason: str


def find_encoders(protocol: Protocol, data_root: Path) -> tuple[list[Member], list[Skipped]]:
    """Resolve every encoder of a protocol, its weights included.

    Raises:
        EncoderError: an unknown name or a wrong file; or weights are missing and the protocol
            says stop.
    """
    members, skipped = [], []
    for entry in protocol.encoders:
        if entry.embeddings is not None:
            file = data_root / entry.embeddings
            if not file.is_file():
                raise EncoderError(f"{entry.label}: embeddings {file} are not there")
            members.append(Member(entry, embeddings=file, embeddings_sha256=file_sha256(file)))
            continue
        random = str(entry.name).startswith("random:")
        try:
            # Only a random twin has more than one set of weights; the probe has one solution.
            seeds = protocol.seeds if random else protocol.seeds[:1]
            specs = tuple(resolve(entry, seed, data_root) for seed in seeds)
        except WeightsMissing as error:
            if protocol.missing_weights == "stop":
                raise
            _logger.warning("skipped: %s", error)
            skipped.append(Skipped(entry.label, str(error)))
        else:
            members.append(Member(entry, specs))
    left_out = {str(e.name) for e in protocol.encoders} - {str(m.entry.name) for m in members}
    for member in members:
        name = str(member.entry.name)
        if name.startswith("random:") and name.removeprefix("random:") in left_out:
            _logger.info("%s takes part all the same: random weights need no file", name)
    return members, skipped
