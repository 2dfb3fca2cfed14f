from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from sonobench.protocol import (
    EncoderEntry,
    Protocol,
    ProtocolError,
    load_protocol,
    protocol_hash,
    safe_name,
    shipped_protocols,
)
from sonobench.protocol.document import protocol_markdown

SOURCE = {"loader": "fetal_planes_db"}


def protocol(**sections: object) -> Protocol:
    base = {"name": "p", "source": SOURCE, "encoders": ["efficientnet_lite0"]}
    return Protocol.model_validate(base | sections)


def write(folder: Path, **sections: object) -> Path:
    file = folder / "p.yaml"
    base = {"name": "p", "source": SOURCE, "encoders": ["efficientnet_lite0"]}
    file.write_text(yaml.safe_dump(base | sections))
    return file


@pytest.mark.parametrize("name", shipped_protocols())
def test_every_shipped_protocol_loads(name: str) -> None:
    assert load_protocol(name).name == name


def test_the_shipped_protocols_are_the_demo_and_both_readings_of_the_paper() -> None:
    assert set(shipped_protocols()) == {"demo", "paper", "paper-cv"}


@pytest.mark.parametrize("example", sorted(Path("examples").glob("*.yaml")), ids=str)
def test_every_example_loads(example: Path) -> None:
    assert load_protocol(example).encoders


def test_a_resolved_protocol_reads_back_as_itself(tmp_path: Path) -> None:
    original = load_protocol("demo")
    file = tmp_path / "protocol.yaml"
    file.write_text("# a header\n" + original.to_yaml())
    assert load_protocol(file) == original
    assert protocol_hash(load_protocol(file)) == protocol_hash(original)


def test_the_hash_changes_with_any_setting() -> None:
    changed = load_protocol("demo", ["adaptations.linear_probe.tolerance=1e-4"])
    assert protocol_hash(changed) != protocol_hash(load_protocol("demo"))


def test_the_hash_is_that_of_the_settings_and_not_of_the_text(tmp_path: Path) -> None:
    short = load_protocol(write(tmp_path))
    long = load_protocol(write(tmp_path, split={"folds": 5, "scheme": "official_test"}))
    assert protocol_hash(short) == protocol_hash(long)


def test_a_protocol_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_protocol("demo").split.folds = 3  # type: ignore[misc]


def test_every_field_of_the_schema_is_documented() -> None:
    def undocumented(model: type, where: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            if not field.description:
                found.append(f"{where}.{name}")
            for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if hasattr(inner, "model_fields"):
                    found += undocumented(inner, f"{where}.{name}")
        return found

    assert undocumented(Protocol, "protocol") == []


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"p\.yaml:\n.*'fold'; did you mean 'folds'"):
        load_protocol(write(tmp_path, split={"fold": 3}))


def test_a_wrong_value_is_refused_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"split\.folds: .*greater than or equal to 2"):
        load_protocol(write(tmp_path, split={"folds": 1}))


def test_text_that_is_not_yaml_is_refused_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("name: [")
    with pytest.raises(ProtocolError, match=r"broken\.yaml: not readable as YAML"):
        load_protocol(file)


def test_a_name_that_is_neither_file_nor_shipped_lists_the_shipped() -> None:
    with pytest.raises(ProtocolError, match=r"no protocol 'papre'.*demo, paper, paper-cv"):
        load_protocol("papre")


def test_single_values_can_be_set() -> None:
    changed = load_protocol("demo", ["split.folds=3", "encoders.0=timm:test_vit", "seeds=[1, 2]"])
    assert changed.split.folds == 3
    assert changed.encoders[0].name == "timm:test_vit"
    assert changed.seeds == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("splits.folds=3", "unknown key 'splits'; did you mean 'split'"),
        ("folds=3", "unknown key 'folds'"),
        ("split.folds", "expected KEY=VALUE"),
        ("encoders.7=usfm", "expected a position 0 … 2, found '7'"),
        ("encoders.²=usfm", "expected a position 0 … 2, found '²'"),
        ("name.first=3", "lies under a single value"),
    ],
)
def test_a_value_that_cannot_be_set_is_refused(override: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        load_protocol("demo", [override])


def test_the_controls_are_added_where_they_are_not_listed() -> None:
    labels = [encoder.label for encoder in protocol().encoders]
    assert labels == ["efficientnet_lite0", "random:efficientnet_lite0", "pixel_stats"]


def test_controls_that_are_listed_are_not_added_again() -> None:
    listed = ["pixel_stats", "random:resnet50", "resnet50"]
    assert [e.label for e in protocol(encoders=listed).encoders] == listed


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"encoders": [{}]}, "exactly one of 'name', 'python', 'embeddings'; found none"),
        ({"encoders": [{"name": "a", "python": "b:c"}]}, "found name, python"),
        ({"encoders": [{"embeddings": "f", "size": 224}]}, "computed already"),
        ({"encoders": [{"python": "a:b", "checkpoint": "f"}]}, "loads its own weights"),
        ({"encoders": ["a", "a"]}, "encoder labels must differ; repeated: a"),
        ({"encoders": ["timm:a", "timm/a"]}, "encoder file names must differ"),
        ({"source": {"loader": "manifest", "path": "f"}}, "needs a 'name'"),
        ({"source": {"loader": "manifest", "name": "a"}}, "needs 'path'"),
        ({"source": {"loader": "phantom", "name": "a"}}, "'cohort'"),
        ({"source": {"loader": "manifest", "name": "in_domain", "path": "f"}}, "choose another"),
        ({"external": [SOURCE]}, "dataset names must differ; repeated: fetal_planes_db"),
        ({"external": [{"loader": "african_planes", "classes": ["Ear"]}]}, "training classes: Ear"),
        ({"classes": ["a", "a"]}, "classes must differ"),
        ({"adaptations": {"linear_probe": {"penalties": [0.1, 1]}}}, "descending"),
        ({"encoders": [{"name": "usfm", "label": "a" * 81}]}, "has 81 characters.*at most 80"),
        ({"encoders": [{"python": f"{'a' * 250}:b"}]}, "has 252 characters.*a shorter 'label'"),
        ({"name": "a" * 250}, "name\n.*at most 80 characters"),
        ({"external": [{"loader": "african_planes", "name": "a" * 81}]}, "at most 80 characters"),
        ({"resources": {"slurm": {"partition": "gpu\n#SBATCH --wrap=x"}}}, r"partition: .*U\+000A"),
        ({"resources": {"slurm": {"comment": "a\u2028b"}}}, r"comment: .*U\+2028"),
        ({"resources": {"slurm": {"account": "a\0"}}}, r"account: .*U\+0000"),
        ({"resources": {"slurm": {"a\nb": 1}}}, "expected an option of sbatch by its long name"),
        ({"resources": {"slurm": {"--partition": "a"}}}, "without dashes before it"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    sections: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        protocol(**sections)


def test_the_default_penalties_are_fifteen_from_10_to_1e_6() -> None:
    probe = protocol().adaptations.linear_probe
    assert probe is not None
    assert len(probe.penalties) == 15
    assert (probe.penalties[0], probe.penalties[-1]) == (10.0, 1e-6)


def test_an_encoder_is_labelled_by_what_it_is_unless_a_label_is_given() -> None:
    assert EncoderEntry.model_validate("timm:resnet18").label == "timm:resnet18"
    assert EncoderEntry(embeddings="folder/mine.parquet").label == "mine.parquet"
    assert EncoderEntry(name="usfm", label="ours").label == "ours"


def test_labels_and_options_of_usual_length_are_taken() -> None:
    slurm = {"partition": "gpu", "gres": "gpu:a100:1", "mem_per_cpu": 4, "comment": "Zürich, 2×"}
    made = protocol(encoders=[{"name": "usfm", "label": "a" * 80}], resources={"slurm": slurm})
    assert made.resources.slurm == slurm


def test_a_label_becomes_a_file_name() -> None:
    assert safe_name("random:timm:a/b c") == "random_timm_a_b_c"


def test_the_document_is_that_of_the_schema() -> None:
    written = Path("docs/protocol.md").read_text(encoding="utf-8")
    assert written == protocol_markdown(), (
        "python -m sonobench.protocol.document > docs/protocol.md"
    )


def test_classes_are_spelled_as_labels_are() -> None:
    made = protocol(
        classes=["Fe\u0301mur", " Fetal\u00a0 brain"],
        external=[{"loader": "african_planes", "classes": ["Fetal  brain"]}],
    )
    assert made.classes == ("F\u00e9mur", "Fetal brain")
    assert made.external[0].classes == ("Fetal brain",)


@pytest.mark.parametrize("name", ["fe\u200bmur", "#REF!", " \u00a0"])
def test_what_no_label_can_be_is_no_class(name: str) -> None:
    with pytest.raises(ValidationError, match=r"a class is .*, which "):
        protocol(classes=["brain", name])


def test_classes_in_two_spellings_are_one_class() -> None:
    with pytest.raises(ValidationError, match="classes must differ; repeated: F\u00e9mur"):
        protocol(classes=["Fe\u0301mur", "F\u00e9mur", "other"])


# ── what YAML makes of a text ────────────────────────────────────────────────────────────────────


def refused(folder: Path, text: str, *overrides: str) -> str:
    file = folder / "p.yaml"
    file.write_text(
        f"name: p\nsource: {{loader: fetal_planes_db}}\nencoders: [pixel_stats]\n{text}"
    )
    with pytest.raises(ProtocolError) as error:
        load_protocol(file, overrides)
    return str(error.value).removeprefix(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoders: [usfm]\n", "line 4: key 'encoders' appears in line 3 already; keep one"),
        ("split:\n  folds: 3\n  seed: 1\n  folds: 5\n", "line 7: key 'folds' appears in line 5"),
        ("split: {folds: 3, folds: 5}\n", "line 4: key 'folds' appears in line 4 already"),
        ('"name": q\n', "line 4: key 'name' appears in line 1 already"),
        ("external: [{loader: african_planes, name: a, name: b}]\n", "key 'name' appears"),
    ],
)
def test_a_key_that_appears_twice_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_a_key_twice_in_a_value_that_is_set_is_refused(tmp_path: Path) -> None:
    told = refused(tmp_path, "", "split={folds: 3, folds: 5}")
    assert told.startswith("--set split={folds: 3, folds: 5}: not readable as YAML: line 1: key")


def test_a_key_that_is_merged_may_be_written_anew(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + "split: {<<: {folds: 3, seed: 7}, folds: 4}\n")
    assert load_protocol(file).split.model_dump(include={"folds", "seed"}) == {
        "folds": 4,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("text", "key", "read"),
    [
        ("classes: [yes, no]", "classes", "yes (line 4) as true, no (line 4) as false"),
        ("classes: [NA, null]", "classes", "null (line 4) as no value"),
        ("classes:\n- brain\n- \n", "classes", "nothing (line 6) as no value"),
        ("classes: [2020-01-01, b]", "classes", "2020-01-01 (line 4) as a date"),
        ("classes: [4, 12:30]", "classes", "4 (line 4) as a number, 12:30 (line 4) as a number"),
        ("classes: [brain, plane: 3]", "classes", "a value in line 4 as keys with values"),
        ("external: [{loader: x, name: no}]", "external.0.name", "no (line 4) as false"),
        ("description: 2024", "description", "2024 (line 4) as a number"),
    ],
)
def test_what_yaml_does_not_take_for_text_is_to_be_put_in_quotes(
    tmp_path: Path, text: str, key: str, read: str
) -> None:
    # A single line, whatever else follows from it.
    expected = f":\n  {key}: expected text, but YAML reads {read}; put it in quotes"
    assert refused(tmp_path, text) == expected


def test_an_encoder_or_a_value_that_is_set_is_to_be_put_in_quotes_as_well(tmp_path: Path) -> None:
    assert refused(tmp_path, "", "encoders=[usfm, 224]").endswith(
        "encoders: expected text, but YAML reads a value of --set as a number; put it in quotes"
    )


def test_a_day_that_there_is_not_is_told_with_its_line(tmp_path: Path) -> None:
    told = refused(tmp_path, "classes: [brain, 2020-13-01]")
    assert "line 4: 2020-13-01 looks like a date and is none; put it in quotes" in told


def test_quotes_make_a_name_of_everything(tmp_path: Path) -> None:
    names = ["yes", "null", "2020-01-01", "7", "NA"]
    file = write(tmp_path)
    file.write_text(file.read_text() + f"classes: {names}\n")
    assert load_protocol(file).classes == tuple(names)


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in refused(tmp_path, "classes: " + "[" * 3000)


@pytest.mark.parametrize("text", ["adaptations: {lora: null}\n", "adaptations: {lora: }\n", ""])
def test_a_setting_of_a_section_that_is_null_is_not_lost(tmp_path: Path, text: str) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + text)
    lora = load_protocol(file, ["adaptations.lora.rank=3"]).adaptations.lora
    assert lora is not None
    assert lora.rank == 3


def test_a_setting_of_a_cohort_that_is_null_is_not_lost(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + "external: [null]\n")
    (cohort,) = load_protocol(file, ["external.0.loader=african_planes"]).external
    assert cohort.loader == "african_planes"
