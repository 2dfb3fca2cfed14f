"""The audit of whole protocols: the phantom clean and with planted faults, and the real sets."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sonobench.data_audit import audit_protocol
from sonobench.engine import Store
from sonobench.protocol import Dataset, Protocol, Split, Subjects

# What the phantom is made to have: machines with a picture size each, calipers that depend on the
# operator, and a brighter second hospital.
BY_DESIGN = {"confounding", "burned_in", "size_or_intensity", "imbalance"}


def kinds(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["kind"]: finding for finding in result["findings"]}


def protocol(**sections: Any) -> Protocol:
    home = Dataset(loader="manifest", name="home", path="home/manifest.csv")
    abroad = Dataset(loader="manifest", name="external", path="external/manifest.csv")
    content = {
        "name": "audited",
        "source": home,
        "external": (abroad,),
        "encoders": ("pixel_stats",),
    }
    return Protocol.model_validate(content | sections)


def test_nothing_is_invented_on_the_clean_phantom(phantom_folder: Path, tmp_path: Path) -> None:
    result = audit_protocol(protocol(), phantom_folder, Store(tmp_path))
    assert set(kinds(result)) <= BY_DESIGN
    assert all(finding["severity"] != "error" for finding in result["findings"])
    assert result["cohorts"]["home"]["duplicate_sets"] == 0


def test_every_planted_fault_is_found(phantom_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(phantom_folder / "external", root / "external")
    home = pd.read_csv(phantom_folder / "home" / "manifest.csv", keep_default_na=False)
    train, test = (home[home["split"] == part] for part in ("train", "test"))
    few = train["patient_id"].unique()[:12], test["patient_id"].unique()[:8]
    home = home[home["patient_id"].isin(np.concatenate(few))].reset_index(drop=True)
    (root / "home" / "images").mkdir(parents=True)
    for path in home["path"]:
        shutil.copy(phantom_folder / "home" / path, root / "home" / path)
    first, second = home[home["split"] == "train"], home[home["split"] == "test"]

    # A duplicate under another name and patient, across the split.
    one, other = first.iloc[0], second.iloc[0]
    shutil.copy(root / "home" / one["path"], root / "home" / "images" / "copy.png")
    copy = {**other, "path": "images/copy.png", "label": one["label"]}
    # The same image with another label.
    shutil.copy(root / "home" / first.iloc[1]["path"], root / "home" / "images" / "conflict.png")
    label = next(name for name in home["label"].unique() if name != first.iloc[1]["label"])
    conflict = {**first.iloc[1], "path": "images/conflict.png", "label": label}
    # A second scan that is stored anew, smaller, for a patient of the test.
    near = Image.open(root / "home" / first.iloc[2]["path"])
    near.resize((400, 300)).save(root / "home" / "images" / "near.png")
    again = {**second.iloc[1], "path": "images/near.png", "label": first.iloc[2]["label"]}
    home = pd.concat([home, pd.DataFrame([copy, conflict, again])], ignore_index=True)
    # A patient in both parts, and a file that breaks off.
    leaking = str(first.iloc[5]["patient_id"])
    home.loc[home.index[home["patient_id"] == leaking][0], "split"] = "test"
    broken = root / "home" / first.iloc[8]["path"]
    broken.write_bytes(broken.read_bytes()[:500])
    home.to_csv(root / "home" / "manifest.csv", index=False)

    result = audit_protocol(protocol(split=Split(folds=2)), root, Store(tmp_path / "store"))
    found = kinds(result)
    # The first image of the conflict and of the duplicate: two sets.
    assert found["exact_duplicates"]["count"] == 2
    assert set(found["duplicates_across_split"]["image_ids"]) == {
        f"home/{one['path']}",
        "home/images/copy.png",
    }
    assert found["label_conflict"]["count"] == 1
    assert set(found["label_conflict"]["image_ids"]) == {
        f"home/{first.iloc[1]['path']}",
        "home/images/conflict.png",
    }
    assert "home/images/near.png" in found["near_duplicates"]["image_ids"]
    assert leaking in found["leak"]["message"]
    assert found["unreadable"]["count"] == 1
    assert broken.name in found["unreadable"]["message"]
    assert set(found) - BY_DESIGN == {
        "exact_duplicates",
        "duplicates_across_split",
        "label_conflict",
        "near_duplicates",
        "leak",
        "unreadable",
    }


@pytest.mark.realdata
def test_the_african_set_has_what_is_known_of_it(real_data: Path, tmp_path: Path) -> None:
    spain = Dataset(loader="fetal_planes_db")
    shipped = protocol(source=spain, external=(Dataset(loader="african_planes"),))
    result = audit_protocol(shipped, real_data, Store(tmp_path))
    africa = result["cohorts"]["african_planes"]
    # Counted from the published files: 47 byte-identical pairs, 22 of them across the published
    # split, always between two patient ids of one country with the same label.
    assert (africa["images"], africa["distinct_images"]) == (450, 403)
    assert africa["duplicate_sets"] == africa["duplicate_sets_across_patients"] == 47
    assert africa["duplicate_sets_across_published_split"] == 22
    assert (africa["patients"], africa["subjects"]) == (127, 112)
    assert africa["subjects_across_published_split"] == 7
    assert africa["test_images_of_those_subjects"] == 31
    assert africa["images_of_each_class"] == {
        "Fetal abdomen": 125,
        "Fetal brain": 125,
        "Fetal femur": 125,
        "Fetal thorax": 75,
    }
    centres = africa["sites"]
    assert {name: site["subjects"] for name, site in centres.items()} == {
        "Algeria": 19,
        "Egypt": 23,
        "Ghana": 25,
        "Malawi": 20,
        "Uganda": 25,
    }
    assert {
        name: (site["images"], site["distinct_images"], site["sizes"])
        for name, site in centres.items()
    } == {
        "Algeria": (100, 76, {"500×430": 100}),
        "Egypt": (100, 97, {"400×450": 100}),
        "Malawi": (100, 80, {"500×400": 100}),
        "Ghana": (75, 75, {"500×500": 75}),
        "Uganda": (75, 75, {"600×500": 75}),
    }
    parts = africa["attributes"]["site"]
    assert {name: (site["test"], site["train"]) for name, site in parts.items()} == {
        "Algeria": (52, 48),
        "Egypt": (52, 48),
        "Malawi": (51, 49),
        "Ghana": (39, 36),
        "Uganda": (39, 36),
    }
    confounded = " ".join(f["message"] for f in result["findings"] if f["kind"] == "confounding")
    assert "site Ghana has no Fetal thorax; site Uganda has no Fetal thorax" in confounded
    assert "site and size go together (Cramér's V 1.00)" in confounded
    assert not [f for f in result["findings"] if f["kind"] == "label_conflict"]
    # Seen by eye: the same scans, of the Egyptian patients 1 and 3 and of 1 and 6.
    near = result["near_duplicates"]["nearest"]
    assert [(egyptians(pair), pair["distance"]) for pair in near] == [
        (("001", "003"), 2),
        (("001", "003"), 4),
        (("001", "006"), 18),
    ]
    likely = [f["message"] for f in result["findings"] if f["kind"] == "likely_same_patient"]
    assert len(likely) == 1
    assert "patients african_planes/Egypt/1 and african_planes/Egypt/3 share 2" in likely[0]
    assert result["near_duplicates"]["joined_subjects"] == []
    # The Spanish metadata were audited although no image of theirs is here.
    assert result["known_counts"]["fetal_planes_db"]["published_images"] == 12_400
    assert any(f["kind"] == "unreadable" and f["count"] == 12_400 for f in result["findings"])


def egyptians(pair: dict[str, Any]) -> tuple[str, ...]:
    ids = (pair["image_id_a"], pair["image_id_b"])
    return tuple(sorted(image_id.split("/Egypt/patient")[1][:3] for image_id in ids))


@pytest.mark.realdata
def test_egyptians_who_share_nearly_identical_scans_are_one_subject_where_it_is_asked_for(
    real_data: Path, tmp_path: Path
) -> None:
    sections = {
        "source": Dataset(loader="fetal_planes_db"),
        "external": (Dataset(loader="african_planes"),),
        "subjects": Subjects(join_near_duplicates=True),
    }
    result = audit_protocol(protocol(**sections), real_data, Store(tmp_path))
    egypt = [f"african_planes/Egypt/{number}" for number in (1, 3, 6)]
    assert result["near_duplicates"]["joined_subjects"] == [egypt]
    africa = result["cohorts"]["african_planes"]
    # Three of the 112 subjects are one.
    assert (africa["patients"], africa["subjects"]) == (127, 110)
    assert africa["sites"]["Egypt"]["subjects"] == 21
    found = kinds(result)
    assert "likely_same_patient" not in found
    assert " = ".join(egypt) in found["joined_subjects"]["message"]


@pytest.mark.realdata
@pytest.mark.slow
def test_the_near_identical_spanish_images_are_found(real_data: Path, tmp_path: Path) -> None:
    spain = Dataset(loader="manifest", name="spain_640", path="spain_640/manifest.csv")
    classes = ("Fetal abdomen", "Fetal brain", "Fetal femur", "Fetal thorax")
    asked = protocol(source=spain, external=(), classes=classes)
    result = audit_protocol(asked, real_data, Store(tmp_path))
    pairs = {
        (pair["image_id_a"].split("Patient")[1][:5], pair["image_id_b"].split("Patient")[1][:5])
        for pair in result["near_duplicates"]["nearest"]
    }
    # Seen by eye: nearly the same images of patients 786 and 799, and of 820 and 830.
    assert {tuple(sorted(pair)) for pair in pairs} == {("00786", "00799"), ("00820", "00830")}
    # Stored anew by somebody: no byte-identical groups.
    assert result["cohorts"]["spain_640"]["duplicate_sets"] == 0
