"""MOFO: a CSWin encoder with a convolutional stem, trained to segment many organs."""

from torch import Tensor, nn

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard, Preprocess, PretrainingRecord, Weights
from sonobench.encoders.checkpoint import Dropped
from sonobench.encoders.cswin import Merge, stage
from sonobench.images import Geometry

_UNSTATED = PretrainingRecord(
    "unknown", "its authors name segmentation sets and say nothing of this one"
)
_PREFIX = "_backbone_encoder."
_SIDE = 224


class _Mofo(nn.Module):
    """CSWin-Small behind two convolutions at half the resolution, averaged over the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.stage0_conv_embed = nn.Sequential(
            nn.Conv2d(3, 32, kernel_size=3, stride=2, padding=1),
            nn.InstanceNorm2d(32),
            nn.LeakyReLU(0.01),
            nn.Conv2d(32, 32, kernel_size=3, padding=1),
            nn.InstanceNorm2d(32),
            nn.LeakyReLU(0.01),
        )
        self.merge0 = Merge(32, 64)
        self.stage1 = stage(64, heads=2, depth=2, side=56, stripe=1)
        self.merge1 = Merge(64, 128)
        self.stage2 = stage(128, heads=4, depth=4, side=28, stripe=2)
        self.merge2 = Merge(128, 256)
        self.stage3 = stage(256, heads=8, depth=32, side=14, stripe=7)
        self.merge3 = Merge(256, 512)
        self.stage4 = stage(512, heads=16, depth=2, side=7, stripe=7)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 224, 224) → (B, 512)."""
        maps = self.stage0_conv_embed(images).permute(0, 2, 3, 1)
        maps = self.stage1(self.merge0(maps))
        maps = self.stage2(self.merge1(maps))
        maps = self.stage3(self.merge2(maps))
        pooled: Tensor = self.stage4(self.merge3(maps)).mean((1, 2))
        return pooled


def _rename(key: str) -> str | Dropped:
    if not key.startswith(_PREFIX):
        return Dropped("segmenter around the encoder")
    key = key.removeprefix(_PREFIX)
    if key.startswith(("norm.", "head.")):
        return Dropped("norm and head that the encoder never uses, so untrained")
    return key


ARCHITECTURES = (
    Architecture(
        EncoderCard(
            name="mofo",
            preprocess=Preprocess(
                Geometry("squash", _SIDE), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
            ),
            dimension=512,
            parameters=34_148_448,
            feature="mean of the last map, 7×7, without a norm",
            family="mofo",
            architecture="CSWin-Small (arXiv 2107.00652) with MOFO's stem",
            citation="Chen et al., Multi-organ foundation model for universal ultrasound image "
            "segmentation with task prompt and anatomical prior, IEEE Transactions on Medical "
            "Imaging 44 (2025)",
            licence="not stated for the weights (their code: GPL-3.0)",
            weights=Weights(
                "mofo_weight_sel.pth",
                origin="drive_folder",
                where="1SpBRMuM3hCZj9RhriHkMrMIGMcT0TamA",
                path="mofo_weight_sel.pth",
            ),
            pretraining={
                "fetal_planes_db": _UNSTATED,
                "african_planes": _UNSTATED,
                "hc18": PretrainingRecord("listed", "named among its training sets"),
            },
            note="The input is 224 pixels always, scaled to 0 … 1 without mean and deviation.",
        ),
        _Mofo,
        _rename,
        sizes=range(_SIDE, _SIDE + 1),
        signature={f"{_PREFIX}stage0_conv_embed.0.weight": (32, 3, 3, 3)},
    ),
)
