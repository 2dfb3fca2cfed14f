"""Encoders against vectors that their official implementations gave, from file to feature."""

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import open_clip
import pytest
import torch
from encoders.official import Tensors, golden_feature, normalised_input, official_tensors
from torch import nn

from sonobench.encoders import fetalclip, open_encoder, resolve, tf32
from sonobench.encoders.checkpoint import load_strictly
from sonobench.encoders.checkpoint_file import read_checkpoint
from sonobench.protocol import EncoderEntry


@pytest.fixture(autouse=True)
def _all_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


class HistoryBuffer:
    """Stands for a class of mmengine."""

    def __init__(self) -> None:
        self.history = np.array([0.3, 0.2])
        self.methods = OrderedDict(mean=np.mean, last=np.float64(0.2))


def save(tensors: Tensors, file: Path) -> None:
    """As a flat state dict."""
    torch.save(tensors, file)


def save_wrapped(tensors: Tensors, file: Path) -> None:
    """As the state of a model on several devices, beside what training left."""
    torch.save({"model": {f"module.{k}": v for k, v in tensors.items()}, "epoch": 7}, file)


def save_like_mmengine(tensors: Tensors, file: Path) -> None:
    """With objects of mmengine's own classes, and numpy's, beside the state."""
    package, module = ModuleType("mmengine"), ModuleType("mmengine.logging")
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HistoryBuffer, "__module__", module.__name__)
        patch.setitem(sys.modules, package.__name__, package)
        patch.setitem(sys.modules, module.__name__, module)
        content = {
            "meta": {"epoch": 12, "time": np.datetime64("2024-11-01")},
            "state_dict": OrderedDict(tensors),
            "message_hub": {"log_scalars": OrderedDict(loss=HistoryBuffer())},
        }
        torch.save(content, file)


SAVE = {"usfm": save_wrapped, "ultrasam": save_like_mmengine}
OfficialFile = Callable[[str], Path]


@pytest.fixture(scope="module")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> OfficialFile:
    """The official file of an encoder; one at a time, since they are large."""
    folder = tmp_path_factory.mktemp("official")

    def made(name: str) -> Path:
        file = folder / f"{name}.pth"
        if not file.exists():
            for other in folder.iterdir():
                other.unlink()
            SAVE.get(name, save)(official_tensors(name), file)
        return file

    return made


def relative_error(feature: torch.Tensor, entry: str) -> float:
    golden = golden_feature(entry)
    return float((feature - golden).norm() / golden.norm())


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "settings", "entry"),
    [
        ("usfm", {}, "usfm/mean_patch_fc_norm_identity"),
        ("usfm", {"feature": "token"}, "usfm/cls_norm"),
        ("mofo", {}, "mofo/gap_last_map"),
        ("dinov3", {"size": 224}, "dinov3_vitb16/cls_norm_224"),
        ("dinov3", {}, "dinov3_vitb16/cls_norm_256"),
        pytest.param("ultrasam", {"size": 512}, "ultrasam/avg_featmap_512", marks=slow),
        pytest.param("ultrasam", {}, "ultrasam/avg_featmap_1024", marks=slow),
        pytest.param("fetalclip", {}, "fetalclip/visual_projected", marks=slow),
    ],
)
def test_a_file_of_the_authors_gives_their_feature(
    official_file: OfficialFile, name: str, settings: dict[str, object], entry: str
) -> None:
    file = official_file(name)
    asked = EncoderEntry.model_validate({"name": name, "checkpoint": file.name, **settings})
    spec = resolve(asked, 0, file.parent)
    encoder, table = open_encoder(spec, "cpu")
    assert table is not None
    with torch.inference_mode():
        feature = encoder.network(normalised_input(spec.card.preprocess.geometry.size))[0]
    assert relative_error(feature, entry) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "settings", "entry"),
    [
        ("usfm", {}, "usfm/mean_patch_fc_norm_identity"),
        ("mofo", {}, "mofo/gap_last_map"),
        ("dinov3", {}, "dinov3_vitb16/cls_norm_256"),
        ("ultrasam", {"size": 512}, "ultrasam/avg_featmap_512"),
        ("fetalclip", {}, "fetalclip/visual_projected"),
    ],
)
def test_cuda_gives_the_feature_of_a_file_of_the_authors(
    official_file: OfficialFile, name: str, settings: dict[str, object], entry: str
) -> None:
    file = official_file(name)
    asked = EncoderEntry.model_validate({"name": name, "checkpoint": file.name, **settings})
    encoder, _ = open_encoder(resolve(asked, 0, file.parent), "cuda")
    image = normalised_input(encoder.card.preprocess.geometry.size).cuda()
    with torch.inference_mode(), tf32(False):
        feature = encoder.network(image)[0].cpu()
    assert relative_error(feature, entry) < 1e-4


@pytest.mark.slow
def test_the_text_tower_of_fetalclip_is_in_its_file(official_file: OfficialFile) -> None:
    network: nn.Module = open_clip.CLIP(**fetalclip.CONFIG).eval()
    load_strictly(network, read_checkpoint(official_file("fetalclip")), lambda key: key)
    words = open_clip.SimpleTokenizer(context_length=117)("Ultrasound image of the fetal brain.")
    with torch.inference_mode():
        feature = network.encode_text(words)[0]
    assert relative_error(feature, "fetalclip/text_0") < 1e-4
