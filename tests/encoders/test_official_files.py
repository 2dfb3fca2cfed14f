"""Every encoder of the catalogue reads its official file to the last tensor, and no other."""

import pytest
import torch
from encoders.official import ENCODERS, Tensors, blank_tensors, shapes

from sonobench.encoders import CheckpointError, KeyTable, catalogue
from sonobench.encoders.checkpoint import Dropped, load_strictly
from sonobench.encoders.hints import what_it_seems
from sonobench.encoders.registry import architecture


def read(name: str, tensors: Tensors, feature: str | None = None) -> tuple[KeyTable, set[str]]:
    """Key table and the network's keys; nothing but keys and shapes is looked at."""
    built = architecture(name, feature)
    assert built.key_map is not None
    with torch.device("meta"):
        network = built.build()
    table = load_strictly(network, built.prepare(tensors), built.key_map)
    return table, {k for k in network.state_dict() if not k.endswith("num_batches_tracked")}


def first_matrix(name: str, tensors: Tensors) -> str:
    """A key that the encoder takes, of a tensor with two dimensions or more."""
    key_map = architecture(name).key_map
    assert key_map is not None
    kept = (key for key in tensors if not isinstance(key_map(key), Dropped))
    return next(key for key in kept if tensors[key].ndim >= 2)


# The networks here have shapes but no weights.
pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")


@pytest.fixture(scope="module", params=ENCODERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tensors(name: str) -> Tensors:
    return blank_tensors(name)


def test_the_suite_knows_every_encoder_with_weights() -> None:
    with_weights = {name for name, made in catalogue().items() if made.key_map is not None}
    assert with_weights == set(ENCODERS)


def test_every_tensor_is_mapped_or_dropped_by_a_named_rule(name: str, tensors: Tensors) -> None:
    table, own = read(name, tensors)
    counters = {key for key in table.loaded.values() if key.endswith("num_batches_tracked")}
    assert set(table.loaded.values()) - counters == own
    assert all(table.dropped.values())


def test_usfm_drops_its_norm_only_where_the_feature_does_not_use_it() -> None:
    tensors = blank_tensors("usfm")
    assert "norm.weight" in read("usfm", tensors)[0].dropped
    assert "norm.weight" in read("usfm", tensors, "token")[0].loaded


def test_the_hub_file_of_dinov3_has_no_biases_of_queries_and_values() -> None:
    made = shapes(architecture("dinov3").build)
    hub = {key: torch.zeros(()).expand(shape) for key, shape in made.items() if "_bias" not in key}
    table, own = read("dinov3", hub)
    assert set(table.loaded.values()) == own


def test_a_missing_tensor_is_named(name: str, tensors: Tensors) -> None:
    key = first_matrix(name, tensors)
    with pytest.raises(CheckpointError, match=r"missing \(1\): "):
        read(name, {k: v for k, v in tensors.items() if k != key})


def test_a_tensor_too_many_is_named(name: str, tensors: Tensors) -> None:
    key = f"{first_matrix(name, tensors)}.surprise"
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): .*surprise"):
        read(name, {**tensors, key: torch.zeros(2)})


def test_a_tensor_of_another_shape_is_named(name: str, tensors: Tensors) -> None:
    key = first_matrix(name, tensors)
    with pytest.raises(CheckpointError, match=r"of another shape \(1\): .*expected"):
        read(name, {**tensors, key: tensors[key][1:]})


def test_a_tensor_with_nan_is_named(name: str, tensors: Tensors) -> None:
    key = first_matrix(name, tensors)
    with pytest.raises(CheckpointError, match=r"not finite \(1\)"):
        read(name, {**tensors, key: torch.tensor(torch.nan).expand(tensors[key].shape)})


def seems(name: str, tensors: Tensors) -> str:
    built = architecture(name)
    assert built.key_map is not None
    with torch.device("meta"):
        wanted = built.build().state_dict()
    others = [made for other, made in catalogue().items() if other != name]
    return "; ".join(what_it_seems(tensors, wanted, built.key_map, others))


def test_a_file_of_another_encoder_is_recognised(name: str, tensors: Tensors) -> None:
    wrong = "mofo" if name != "mofo" else "usfm"
    assert f"this is a file of '{name}'" in seems(wrong, tensors)


def test_segmentation_heads_are_recognised() -> None:
    heads = {"image_encoder.norm.weight": torch.zeros(1), "mask_decoder.a.weight": torch.zeros(1)}
    assert "segmentation or detection heads" in seems("usfm", heads)


@pytest.mark.parametrize(
    ("name", "key", "shape", "pixels"),
    [
        # (2·24 - 1)² + 3 offsets of a 24 × 24 grid of patches of 16.
        ("usfm", "rel_pos_bias.relative_position_bias_table", (2212, 12), 384),
        ("usf_mae", "pos_embed", (1, 577, 768), 384),
        ("ultrasam", "backbone.pos_embed", (1, 14, 14, 768), 224),
    ],
)
def test_the_size_of_a_position_table_is_told(
    name: str, key: str, shape: tuple[int, ...], pixels: int
) -> None:
    tensors = {**blank_tensors(name), key: torch.zeros(()).expand(shape)}
    assert f"({key}) is that of a {pixels} px model" in seems(name, tensors)


def test_a_prefix_of_a_larger_model_is_told() -> None:
    tensors = {f"student.encoder.{k}": v for k, v in blank_tensors("usfm").items()}
    assert "prefix 'student.encoder.'" in seems("usfm", tensors)
