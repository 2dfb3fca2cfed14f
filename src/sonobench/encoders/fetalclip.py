"""FetalCLIP: open_clip's ViT-L/14 with a text tower of long captions."""

from functools import partial
from typing import Any

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import (
    CLIP_MEAN,
    CLIP_STD,
    EncoderCard,
    Preprocess,
    PretrainingRecord,
    Weights,
)
from sonobench.encoders.open_clip_models import image_tower, image_tower_key, set_size
from sonobench.images import Geometry

# open_clip.CLIP(**CONFIG) is the whole model, text tower included.
CONFIG: dict[str, Any] = {
    "embed_dim": 768,
    "vision_cfg": {"image_size": 224, "patch_size": 14, "width": 1024, "layers": 24},
    "text_cfg": {
        "context_length": 117,
        "vocab_size": 49408,
        "width": 768,
        "heads": 12,
        "layers": 12,
    },
}

_OWN_IMAGES = PretrainingRecord(
    "not_listed",
    "its authors describe 210,035 images of their own with captions, and evaluate on this set",
)

ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="fetalclip",
            preprocess=Preprocess(Geometry("pad_square", 224), CLIP_MEAN, CLIP_STD),
            dimension=768,
            parameters=303_966_208,
            feature="image tower's output after the projection, not normalised (the official "
            "probe's)",
            family="fetalclip",
            architecture="open_clip ViT-L/14, context length 117",
            citation="Maani et al., FetalCLIP: a visual-language foundation model for fetal "
            "ultrasound image analysis (arXiv 2502.14807)",
            licence="CC BY-NC 4.0",
            terms="non-commercial use only",
            weights=Weights(
                "FetalCLIP_weights.pt",
                origin="hub",
                where="numansaeed/fetalclip-model",
                path="FetalCLIP_weights.pt",
                sha256="90916caa408baf9374ee3f8c1533463331a4ace37a13e61385e782905b35c310",
            ),
            pretraining={
                "fetal_planes_db": _OWN_IMAGES,
                "african_planes": PretrainingRecord(
                    "not_listed", "its authors describe images of their own"
                ),
            },
        ),
        partial(image_tower, CONFIG),
        image_tower_key,
        set_size=set_size,
        sizes=range(56, 673, 14),
        signature={
            "positional_embedding": (117, 768),
            "visual.conv1.weight": (1024, 3, 14, 14),
        },
    ),
)
