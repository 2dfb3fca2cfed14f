"""Everything that is known of an encoder, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sonobench.images import Geometry

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Contamination = Literal["listed", "not_listed", "unknown"]


@dataclass(frozen=True)
class Preprocess:
    """From a decoded image to what the network takes: (pixels / 255 - mean) / std, three channels.

    Args:
        geometry: how the image becomes square.
        mean, std: of red, green, blue, on the scale 0 … 1.
    """

    geometry: Geometry
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Weights:
    """Where an encoder's weights come from.

    Args:
        file: name of the file; it is looked for in the weights folder first.
        origin: `hub` (a file of a Hugging Face repository), `drive` (a file on Google Drive),
            `drive_folder` (a file of a folder there), `url`, or `package` (a file inside an
            installed Python package).
        where: repository, Google Drive id, URL or package.
        path: path of the file in there; of no use to `drive` and `url`.
        revision: of the Hugging Face repository; its newest if None.
        sha256: of the file where it is published; checked when given.
    """

    file: str
    origin: Literal["hub", "drive", "drive_folder", "url", "package"]
    where: str
    path: str = ""
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class PretrainingRecord:
    """Whether a dataset was in an encoder's pre-training data, and who says so.

    `unknown` is never to be read as clean.
    """

    status: Contamination
    evidence: str


@dataclass(frozen=True)
class EncoderCard:
    """An encoder's description. Only the first three fields are needed for one of your own.

    Attributes:
        name: how protocols call it.
        preprocess: bit-exact to the official pipeline where one is published.
        dimension: length of the feature vector.
        feature: which output of the network the feature is.
        family: module of this package that builds it, or where it comes from.
        architecture: name of the architecture in its library.
        parameters: how many the network has that makes the feature.
        citation, licence: of the weights.
        terms: what one agrees to before they are fetched; None where the licence asks for nothing.
        weights: where they come from; None for controls and networks built by a Python factory.
        pretraining: dataset → what is known (the contamination ledger).
        note: what a user must know besides.
        control: a control is exempt from admission.
    """

    name: str
    preprocess: Preprocess
    dimension: int
    feature: str = "not stated"
    family: str = "own"
    architecture: str = "not stated"
    parameters: int | None = None
    citation: str = "not stated"
    licence: str = "not stated"
    terms: str | None = None
    weights: Weights | None = None
    pretraining: Mapping[str, PretrainingRecord] = field(default_factory=dict)
    note: str = ""
    control: bool = False

    def trained_on(self, dataset: str) -> PretrainingRecord:
        """What is known of `dataset` in the pre-training data; unknown where nobody says."""
        return self.pretraining.get(dataset, PretrainingRecord("unknown", "nobody says"))
