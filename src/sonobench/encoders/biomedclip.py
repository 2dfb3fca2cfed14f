"""BiomedCLIP: open_clip with timm's ViT-B/16, trained on figures of biomedical papers."""

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

_CONFIG: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
}
_REPOSITORY = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
_FIGURES = PretrainingRecord(
    "unknown", "PMC-15M are figures of papers, which may show images of any published set"
)

ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="biomedclip",
            preprocess=Preprocess(Geometry("squash", 224), CLIP_MEAN, CLIP_STD),
            dimension=512,
            parameters=86_191_872,
            feature="image tower's output after the projection, not normalised",
            family="biomedclip",
            architecture="open_clip with timm vit_base_patch16_224",
            citation="Zhang et al., BiomedCLIP: a multimodal biomedical foundation model "
            "pretrained from fifteen million scientific image-text pairs (arXiv 2303.00915)",
            licence="MIT",
            weights=Weights(
                "BiomedCLIP.bin",
                origin="hub",
                where=_REPOSITORY,
                path="open_clip_pytorch_model.bin",
            ),
            pretraining={"fetal_planes_db": _FIGURES, "african_planes": _FIGURES},
        ),
        partial(image_tower, _CONFIG),
        image_tower_key,
        set_size=set_size,
        sizes=range(32, 1025, 16),
        signature={"visual.trunk.pos_embed": (1, 197, 768), "visual.head.proj.weight": (512, 768)},
    ),
)
