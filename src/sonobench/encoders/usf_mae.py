"""USF-MAE: ViT-B/16 trained as a masked autoencoder on open ultrasound sets."""

from torch import nn

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord, Weights
from sonobench.encoders.checkpoint import Dropped
from sonobench.encoders.timm_models import set_size
from sonobench.images import Geometry


def _build() -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(
        "vit_base_patch16_224", num_classes=0, global_pool="token"
    )
    return network


def _rename(key: str) -> str | Dropped:
    if key.startswith("decoder_"):
        return Dropped("decoder of pre-training")
    if key == "mask_token":
        return Dropped("mask token of pre-training")
    return key


ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="usf_mae",
            preprocess=Preprocess(Geometry("squash", 224)),
            dimension=768,
            parameters=85_798_656,
            feature="class token after the last norm (masked autoencoders' own probe feature)",
            family="usf_mae",
            architecture="timm vit_base_patch16_224",
            citation="USF-MAE: ultrasound self-supervised foundation model with masked "
            "autoencoding (https://github.com/Yusufii9/USF-MAE)",
            licence="MIT",
            weights=Weights(
                "USF-MAE.pth", origin="drive", where="1ZPu_7KhMEuaq-XdLhVp2EEgMgLJ4dKhr"
            ),
            pretraining={
                "fetal_planes_db": PretrainingRecord(
                    "listed", "its authors name it among their pre-training sets"
                ),
                "african_planes": PretrainingRecord("unknown", "its authors say nothing of it"),
            },
            note="Pre-trained on the images of FETAL_PLANES_DB: its number there is no number on "
            "unseen images.",
        ),
        _build,
        _rename,
        set_size=set_size,
        sizes=range(32, 1025, 16),
        signature={"decoder_embed.weight": (512, 768), "pos_embed": (1, 197, 768)},
    ),
)
