"""What turns an image into a vector: cards, catalogue, strict loading, admission, embedding.

`resolve` finds an encoder's card and weights, `open_encoder` builds it, `certify` admits it and
`embed` uses it. An encoder takes uint8 images; normalisation is sealed inside.
"""

from sonobench.encoders.admission import RANDOM_MEDIAN, certify
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord, Weights
from sonobench.encoders.checkpoint import CheckpointError, KeyTable, file_sha256
from sonobench.encoders.embedding import embed
from sonobench.encoders.encoder import Encoder, EncoderError
from sonobench.encoders.registry import EncoderSpec, catalogue, open_encoder, resolve
from sonobench.encoders.weights import WeightsMissing

__all__ = [
    "RANDOM_MEDIAN",
    "CheckpointError",
    "Encoder",
    "EncoderCard",
    "EncoderError",
    "EncoderSpec",
    "KeyTable",
    "Preprocess",
    "PretrainingRecord",
    "Weights",
    "WeightsMissing",
    "catalogue",
    "certify",
    "embed",
    "file_sha256",
    "open_encoder",
    "resolve",
]
