import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from sonobench.encoders import (
    CheckpointError,
    EncoderError,
    WeightsMissing,
    open_encoder,
    resolve,
)
from sonobench.encoders.checkpoint import Dropped, load_strictly
from sonobench.encoders.checkpoint_file import read_checkpoint
from sonobench.protocol import EncoderEntry

Tensors = dict[str, torch.Tensor]
# A timm model of a third of a million parameters, made for tests.
MODEL = "test_vit"


@pytest.fixture
def tensors() -> Tensors:
    torch.manual_seed(1)
    return dict(timm.create_model(MODEL).state_dict())


def opened(folder: Path, tensors: object) -> tuple[torch.Tensor, int]:
    """Features and number of loaded tensors of `timm:test_vit` with these weights."""
    torch.save(tensors, folder / "weights.pth")
    entry = EncoderEntry(name=f"timm:{MODEL}", checkpoint="weights.pth")
    encoder, table = open_encoder(resolve(entry, 0, folder), "cpu")
    assert table is not None
    images = torch.arange(160 * 160).remainder(251).to(torch.uint8).view(1, 1, 160, 160)
    return encoder.features(images), len(table.loaded)


def test_every_tensor_of_the_file_reaches_the_network(tmp_path: Path, tensors: Tensors) -> None:
    features, loaded = opened(tmp_path, tensors)
    reference = timm.create_model(MODEL, num_classes=0).eval()
    reference.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("head.")})
    assert loaded == len(reference.state_dict())
    images = torch.arange(160 * 160).remainder(251).view(1, 1, 160, 160).repeat(1, 3, 1, 1)
    cfg = timm.get_pretrained_cfg(MODEL)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (cfg.mean, cfg.std))
    with torch.inference_mode():
        expected = reference((images / 255 - mean) / std)
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
def test_a_wrapper_is_opened(tmp_path: Path, tensors: Tensors, wrapper: str) -> None:
    bare, _ = opened(tmp_path, tensors)
    wrapped, _ = opened(tmp_path, {wrapper: tensors, "epoch": 3})
    assert torch.equal(bare, wrapped)


def test_a_module_prefix_is_taken_off(tmp_path: Path, tensors: Tensors) -> None:
    bare, _ = opened(tmp_path, tensors)
    prefixed, _ = opened(tmp_path, {f"module.{key}": value for key, value in tensors.items()})
    assert torch.equal(bare, prefixed)


def test_safetensors_and_pytorch_files_are_read_alike(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    torch.save(tensors, tmp_path / "weights.pth")
    one = read_checkpoint(tmp_path / "weights.safetensors")
    two = read_checkpoint(tmp_path / "weights.pth")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def damaged(tensors: Tensors, how: str) -> Tensors:
    key = "blocks.0.attn.qkv.weight"
    match how:
        case "one missing":
            return {k: v for k, v in tensors.items() if k != key}
        case "one extra":
            return {**tensors, "blocks.0.attn.surprise": torch.zeros(3)}
        case "one of another shape":
            return {**tensors, key: tensors[key][:, :-1]}
        case _:
            return {**tensors, key: tensors[key].clone().fill_(torch.nan)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("one missing", r"missing \(1\): blocks\.0\.attn\.qkv\.weight"),
        ("one extra", r"unexpected \(1\): blocks\.0\.attn\.surprise"),
        ("one of another shape", r"another shape \(1\): blocks\.0\.attn\.qkv\.weight: expected"),
        ("not finite", r"not finite \(1\): blocks\.0\.attn\.qkv\.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_its_keys(
    tmp_path: Path, tensors: Tensors, how: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, damaged(tensors, how))


def test_a_checkpoint_that_does_not_fit_leaves_the_network_as_it_was(tensors: Tensors) -> None:
    network = nn.Linear(2, 2)
    before = network.weight.clone()
    with pytest.raises(CheckpointError):
        load_strictly(network, {"weight": torch.ones(2, 2)}, lambda key: key)
    assert torch.equal(network.weight, before)


def test_two_tensors_for_one_place_are_refused() -> None:
    state = {"weight": torch.ones(2, 2), "weight2": torch.ones(2, 2), "bias": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"mapped twice \(1\): weight2 → weight"):
        load_strictly(nn.Linear(2, 2), state, lambda key: key.rstrip("2"))


def test_a_tensor_is_dropped_by_a_named_rule_only() -> None:
    state = {"weight": torch.ones(2, 2), "bias": torch.ones(2), "head": torch.ones(1)}
    table = load_strictly(
        nn.Linear(2, 2), state, lambda key: Dropped("classifier") if key == "head" else key
    )
    assert table.dropped == {"head": "classifier"}


class _Payload:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.file),)


def test_no_code_of_a_pickle_runs(tmp_path: Path) -> None:
    witness = tmp_path / "it_ran"
    torch.save({"weight": torch.ones(1), "payload": _Payload(witness)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"these are something else: payload"):
        read_checkpoint(tmp_path / "w.pth")
    assert not witness.exists()


def test_objects_beside_the_state_are_left_unmade(tmp_path: Path) -> None:
    witness = tmp_path / "it_ran"
    weight, shared = torch.arange(6.0).view(2, 3).T, torch.ones(4, dtype=torch.float16)
    state = OrderedDict(weight=nn.Parameter(weight), one=shared[:2], two=shared[2:])
    content = {"state_dict": state, "meta": [_Payload(witness), {_Payload(witness)}]}
    torch.save(content, tmp_path / "w.pth")
    found = read_checkpoint(tmp_path / "w.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert not witness.exists()


def test_a_storage_read_beyond_its_end_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(4)}, "meta": _Payload(tmp_path)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[:8] if "/data/0" in name else content)
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_file_that_does_not_fit_is_named_with_what_it_seems_to_be(tmp_path: Path) -> None:
    torch.save(
        {"storage_tokens": torch.zeros(1, 4, 768), "rope_embed.periods": torch.ones(16)},
        tmp_path / "w.pth",
    )
    entry = EncoderEntry(name="timm:test_vit", checkpoint="w.pth")
    with pytest.raises(CheckpointError, match=r"(?s)w\.pth: does not fit.*a file of 'dinov3'"):
        open_encoder(resolve(entry, 0, tmp_path), "cpu")


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, tensors: Tensors, kind: str) -> None:
    file = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        read_checkpoint(file)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="expected"):
        read_checkpoint(tmp_path / "w.pth")


def test_missing_weights_say_which_file_belongs_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsMissing, match=r"timm/resnet50\.a1_in1k.*resnet50\.a1_in1k\.safeten"):
        resolve(EncoderEntry(name="resnet50"), 0, tmp_path)


def test_weights_in_the_weights_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOBENCH_WEIGHTS", str(tmp_path))
    torch.manual_seed(0)
    save_file(timm.create_model("resnet50").state_dict(), tmp_path / "resnet50.a1_in1k.safetensors")
    spec = resolve(EncoderEntry(name="resnet50", size=64), 0, tmp_path)
    _, table = open_encoder(spec, "cpu")
    assert table is not None
    assert set(table.dropped) == {"fc.weight", "fc.bias"}


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    entry = EncoderEntry(name="efficientnet_lite0", checkpoint="nowhere.pth")
    with pytest.raises(EncoderError, match=r"checkpoint .*nowhere\.pth is not there"):
        resolve(entry, 0, tmp_path)


def test_an_unknown_encoder_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(EncoderError, match="unknown encoder 'resnet5'; did you mean 'resnet50'"):
        resolve(EncoderEntry(name="resnet5"), 0, Path())


def test_an_unknown_timm_model_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"timm .* has no such model"):
        resolve(EncoderEntry(name="timm:resnet5000"), 0, Path())


def test_a_control_has_no_random_twin() -> None:
    with pytest.raises(EncoderError, match="no random twin"):
        resolve(EncoderEntry(name="random:pixel_stats"), 0, Path())
