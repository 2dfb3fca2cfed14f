"""MobileFetalCLIP: FetalCLIP distilled into FastViT."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord, Weights
from sonobench.encoders.checkpoint import Dropped
from sonobench.encoders.timm_models import set_size
from sonobench.images import Geometry

_DIMENSION = 512
_PREFIX = "image_encoder.model."
_TEACHER = PretrainingRecord("unknown", "distilled from FetalCLIP; its own images are not listed")


def _build() -> nn.Module:
    # timm's classifier is the projection into the space shared with captions.
    import timm

    network: nn.Module = timm.create_model("fastvit_mci0", num_classes=_DIMENSION)
    return network


def _prepare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from timm.models.fastvit import checkpoint_filter_fn

    image = {key: tensor for key, tensor in tensors.items() if key.startswith(_PREFIX)}
    others = {key: tensor for key, tensor in tensors.items() if key not in image}
    # timm knows the names of this family's files, and turns the projection round.
    rename: Callable[..., dict[str, Tensor]] = checkpoint_filter_fn
    with torch.device("meta"):
        network = _build()
    bare = {key.removeprefix(_PREFIX): tensor for key, tensor in image.items()}
    return {**others, **rename(bare, network)}


def _rename(key: str) -> str | Dropped:
    if key.startswith("text_encoder."):
        return Dropped("text tower")
    if key == "logit_scale":
        return Dropped("scale of the contrastive loss")
    return key


ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="mobilefetalclip",
            preprocess=Preprocess(Geometry("pad_square", 256)),
            dimension=_DIMENSION,
            parameters=11_406_976,
            feature="image tower's output after the projection, not normalised",
            family="mobilefetalclip",
            architecture="timm fastvit_mci0 with its projection to 512",
            citation="MobileFetalCLIP (https://huggingface.co/numansaeed/MobileFetalCLIP), after "
            "Maani et al., FetalCLIP (arXiv 2502.14807)",
            licence="CC BY-NC 4.0",
            terms="non-commercial use only",
            weights=Weights(
                "mobile_fetal_clip_weights.pt",
                origin="hub",
                where="numansaeed/MobileFetalCLIP",
                path="mobile_fetal_clip_weights.pt",
                sha256="50ab0669d2f5de80e8d75ef2f3bda054410e3af7db85ac2fa7f045550daf46f1",
            ),
            pretraining={"fetal_planes_db": _TEACHER, "african_planes": _TEACHER},
        ),
        _build,
        _rename,
        prepare=_prepare,
        set_size=set_size,
        sizes=range(64, 1025, 32),
        signature={f"{_PREFIX}patch_embed.0.rbr_conv.0.conv.weight": (64, 3, 3, 3)},
    ),
)
