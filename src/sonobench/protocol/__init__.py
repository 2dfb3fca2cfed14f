"""What is to be measured: the protocol's schema, the shipped protocols, and their reading.

A protocol is frozen data; its hash names it. Nothing that changes a result lives elsewhere.
"""

from sonobench.protocol.finetuning import (
    Augmentation,
    FullFinetune,
    HeadOnly,
    Lora,
    Precision,
    Training,
)
from sonobench.protocol.label_efficiency import LabelEfficiency
from sonobench.protocol.load import (
    ProtocolError,
    differing_settings,
    find_protocol,
    load_protocol,
    protocol_hash,
    shipped_protocols,
)
from sonobench.protocol.resources import Limits, Resources
from sonobench.protocol.schema import (
    FETAL_PLANES,
    Dataset,
    EncoderEntry,
    Evaluation,
    LinearProbe,
    Numerics,
    Protocol,
    Split,
    Subjects,
    safe_name,
)

__all__ = [
    "FETAL_PLANES",
    "Augmentation",
    "Dataset",
    "EncoderEntry",
    "Evaluation",
    "FullFinetune",
    "HeadOnly",
    "LabelEfficiency",
    "Limits",
    "LinearProbe",
    "Lora",
    "Numerics",
    "Precision",
    "Protocol",
    "ProtocolError",
    "Resources",
    "Split",
    "Subjects",
    "Training",
    "differing_settings",
    "find_protocol",
    "load_protocol",
    "protocol_hash",
    "safe_name",
    "shipped_protocols",
]
