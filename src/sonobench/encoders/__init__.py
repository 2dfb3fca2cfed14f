"""What turns an image into a vector: cards, catalogue, strict loading, admission, embedding.

`resolve` finds an encoder's card and weights, `open_encoder` builds it, `certify` admits it and
`embed` uses it. An encoder takes uint8 images; normalisation is sealed inside.
"""

from sonobench.encoders.admission import RANDOM_MEDIAN, certify
from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord, Weights
from sonobench.encoders.checkpoint import CheckpointError, KeyTable, file_sha256
from sonobench.encoders.embedding import default_batch, embed, keep_large_blocks
from sonobench.encoders.encoder import Encoder, EncoderError, NormalisedNetwork
from sonobench.encoders.memory_layout import memory_format
from sonobench.encoders.precision import lacks, tf32
from sonobench.encoders.registry import EncoderSpec, catalogue, open_encoder, resolve
from sonobench.encoders.weights import WeightsMissing

__all__ = [
    "RANDOM_MEDIAN",
    "Architecture",
    "CheckpointError",
    "Encoder",
    "EncoderCard",
    "EncoderError",
    "EncoderSpec",
    "KeyTable",
    "NormalisedNetwork",
    "Preprocess",
    "PretrainingRecord",
    "Weights",
    "WeightsMissing",
    "catalogue",
    "certify",
    "default_batch",
    "embed",
    "file_sha256",
    "keep_large_blocks",
    "lacks",
    "memory_format",
    "open_encoder",
    "resolve",
    "tf32",
]
