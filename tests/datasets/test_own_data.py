"""Own images: a proposed manifest, what is wrong with one, class mapping, loaders of others."""

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from sonobench.datasets import DatasetError, load_cohort
from sonobench.datasets.check import check_manifest
from sonobench.datasets.propose import from_folder, from_table
from sonobench.images import SUFFIXES, decode
from sonobench.images.decode import FORMATS
from sonobench.protocol import Dataset

RNG = np.random.default_rng(0)


def images(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / path)


# ── a manifest from a folder ─────────────────────────────────────────────────────────────────────


def test_the_first_folders_are_the_classes(tmp_path: Path) -> None:
    images(tmp_path, "brain/p1_1.png", "brain/p2_1.jpg", "femur/deep/p1_2.bmp", "femur/p3_1.tif")
    (tmp_path / "brain" / "notes.txt").write_text("no image")
    rows = from_folder(tmp_path).rows
    assert [(row["path"], row["label"]) for row in rows] == [
        ("brain/p1_1.png", "brain"),
        ("brain/p2_1.jpg", "brain"),
        ("femur/deep/p1_2.bmp", "femur"),
        ("femur/p3_1.tif", "femur"),
    ]


def test_train_and_test_above_the_classes_are_the_split(tmp_path: Path) -> None:
    images(tmp_path, "train/brain/p1_1.png", "Test/brain/p2_1.png")
    rows = from_folder(tmp_path).rows
    assert [(row["label"], row["split"]) for row in rows] == [("brain", "test"), ("brain", "train")]


def test_a_third_folder_beside_train_and_test_is_no_class(tmp_path: Path) -> None:
    images(tmp_path, "train/brain/p1_1.png", "test/brain/p2_1.png", "val/brain/p3_1.png")
    with pytest.raises(DatasetError, match=r"in test and train only, found also val\. Put them"):
        from_folder(tmp_path)


def test_dicom_files_are_found_by_their_content_and_others_are_listed(tmp_path: Path) -> None:
    for name in ("1.2.840.99", "case7", "case8.dicom"):
        file = tmp_path / "brain" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(128) + b"DICM")
    (tmp_path / "brain" / "notes.txt").write_text("no image")
    (tmp_path / "brain" / ".DS_Store").write_text("no image")
    proposal = from_folder(tmp_path)
    assert proposal.paths == ["brain/1.2.840.99", "brain/case7", "brain/case8.dicom"]
    assert proposal.passed_over == ("brain/notes.txt",)


@pytest.mark.parametrize(
    "path",
    [
        "brain/._p1_1.png",
        "__MACOSX/brain/p1_1.png",
        ".ipynb_checkpoints/p1_1.png",
        "brain/.ipynb_checkpoints/p1_1.png",
        "brain/@eaDir/p1_1.png",
        "#recycle/p1_1.png",
        "$RECYCLE.BIN/p1_1.png",
        ".Trash-1000/files/p1_1.png",
    ],
)
def test_what_is_hidden_or_a_systems_own_is_no_image_and_no_class(
    tmp_path: Path, path: str
) -> None:
    images(tmp_path, "brain/p1_1.png", "femur/p2_1.png", path)
    proposal = from_folder(tmp_path)
    assert proposal.paths == ["brain/p1_1.png", "femur/p2_1.png"]
    assert proposal.passed_over == ()


def test_a_folder_whose_own_path_is_hidden_is_read(tmp_path: Path) -> None:
    images(tmp_path / ".scans", "brain/p1_1.png")
    assert from_folder(tmp_path / ".scans").paths == ["brain/p1_1.png"]


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".jp2", ".jfif", ".JPG", ".pgm", ".Tiff"])
def test_every_suffix_that_is_decoded_is_taken(tmp_path: Path, suffix: str) -> None:
    images(tmp_path, f"brain/p1_1{suffix}")
    proposal = from_folder(tmp_path)
    assert proposal.paths == [f"brain/p1_1{suffix}"]
    decode(tmp_path / proposal.paths[0])


def test_suffixes_are_those_of_the_formats_that_are_decoded() -> None:
    Image.init()
    # Floating point has more than 8 bits.
    expected = {s for s, name in Image.EXTENSION.items() if name in FORMATS} - {".pfm"}
    assert set(SUFFIXES) == expected | {".dcm", ".dicom"}


def test_a_name_that_is_not_utf_8_is_named_and_no_manifest_begun(tmp_path: Path) -> None:
    images(tmp_path, "brain/p1.png")
    (tmp_path / "brain" / "p1.png").rename(tmp_path / "brain" / os.fsdecode(b"p\xe9.png"))
    with pytest.raises(DatasetError, match=r"'brain/p\\udce9\.png' is a name that is not UTF-8"):
        from_folder(tmp_path)


def test_images_outside_of_any_class_are_named(tmp_path: Path) -> None:
    images(tmp_path, "brain/p1_1.png", "stray.png")
    with pytest.raises(DatasetError, match=r"1 images lie in no folder .*stray\.png"):
        from_folder(tmp_path)


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_images_is_named(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "scans").mkdir()
    with pytest.raises(DatasetError, match=r"no images in it|no such folder"):
        from_folder(tmp_path / "scans")


@pytest.mark.parametrize(
    ("paths", "patients"),
    [
        (["brain/Patient00017_2.png", "femur/Patient00017_3.png", "femur/patient4_1.png"],
         ["17", "17", "4"]),
        (["brain/A7_1.png", "brain/A7_2.png", "femur/B9_1.png"], ["A7", "A7", "B9"]),
        (["brain/joan/1.png", "brain/joan/2.png", "femur/mary/1.png"], ["joan", "joan", "mary"]),
    ],
)  # fmt: skip
def test_a_pattern_for_the_patients_is_proposed(
    tmp_path: Path, paths: list[str], patients: list[str]
) -> None:
    images(tmp_path, *paths)
    proposal = from_folder(tmp_path)
    pattern = proposal.propose_pattern()
    assert pattern is not None
    found = {row["path"]: row["patient_id"] for row in proposal.with_patients(pattern).rows}
    assert found == dict(zip(paths, patients, strict=True))


@pytest.mark.parametrize(
    "paths",
    [
        ["brain/1.png", "brain/2.png"],
        ["brain/1.png", "brain/2.png", "femur/1.png"],
        ["brain/Brain_1.png", "brain/Brain_2.png", "femur/Femur_1.png"],
        ["train/brain/1.png", "train/femur/2.png", "test/brain/3.png"],
    ],
)
def test_where_no_pattern_tells_patients_apart_none_is_proposed(
    tmp_path: Path, paths: list[str]
) -> None:
    images(tmp_path, *paths)
    assert from_folder(tmp_path).propose_pattern() is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "no regular expression"),
        ("p[0-9]+", "must have one group"),
        ("q([0-9]+)", r"finds no patient in 2 of 2 paths; first: brain/p1\.png"),
    ],
)
def test_a_pattern_that_does_not_work_is_refused(
    tmp_path: Path, pattern: str, message: str
) -> None:
    images(tmp_path, "brain/p1.png", "brain/p2.png")
    with pytest.raises(DatasetError, match=message):
        from_folder(tmp_path).with_patients(pattern)


def test_a_proposal_is_a_manifest_that_is_read_alike(tmp_path: Path) -> None:
    images(tmp_path, 'bra,in/p1 "x"_1.png', "bra,in/p2_1.png")
    proposal = from_folder(tmp_path).with_patients(r"(p\d)")
    proposal.write(tmp_path / "manifest.csv")
    cohort = load_cohort(Dataset(loader="manifest", name="own", path="manifest.csv"), tmp_path)
    assert cohort.samples["path"].tolist() == proposal.paths
    assert cohort.samples["label"].unique().tolist() == ["bra,in"]
    assert cohort.samples["patient_id"].tolist() == ["own/p1", "own/p2"]
    with pytest.raises(DatasetError, match="is there already"):
        proposal.write(tmp_path / "manifest.csv")


def test_names_that_are_formulas_are_defused_in_the_manifest_and_read_as_they_are(
    tmp_path: Path,
) -> None:
    names = [
        "=cmd|' C'!A0/-1+1_1.png",
        "=cmd|' C'!A0/@p_1.png",
        "'=twice/+1_1.png",
        "brain/-7_1.png",
    ]
    images(tmp_path, *names)
    proposal = from_folder(tmp_path).with_patients("([^/]+)_1")
    proposal.write(tmp_path / "manifest.csv")
    with (tmp_path / "manifest.csv").open(newline="") as text:
        fields = [field for row in list(csv.reader(text))[1:] for field in row]
    # Numbers.
    assert [field for field in fields if field[:1] in set("=+-@")] == ["+1", "-7"]
    cohort = load_cohort(Dataset(loader="manifest", name="own", path="manifest.csv"), tmp_path)
    assert cohort.samples["path"].tolist() == proposal.paths == sorted(names)
    assert set(cohort.samples["label"]) == {"=cmd|' C'!A0", "'=twice", "brain"}
    assert set(cohort.samples["patient_id"]) == {"own/-1+1", "own/@p", "own/+1", "own/-7"}
    assert all(file.is_file() for file in cohort.files())


# ── a manifest from somebody's table ─────────────────────────────────────────────────────────────


def test_a_table_with_other_names_and_semicolons_is_understood(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text(
        "Image_name;Plane;Patient_num;US_Machine;weeks\na;brain;1;Aloka;20\nb.png;femur;2;;21\n"
    )
    proposal = from_table(tmp_path / "list.csv", {})
    assert proposal.patients_known
    assert proposal.rows[0] == {
        "path": "a.png",
        "label": "brain",
        "patient_id": "1",
        "device": "Aloka",
    }


def test_a_column_that_cannot_be_guessed_is_asked_for_and_given(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("image,what,patient\na.png,brain,1\n")
    with pytest.raises(DatasetError, match=r"which of its columns is the label\? Say --column"):
        from_table(tmp_path / "list.csv", {})
    assert from_table(tmp_path / "list.csv", {"label": "what"}).rows[0]["label"] == "brain"


def test_images_that_a_table_names_and_that_are_not_there_have_their_rows(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("image,label\na.png,x\nb.png,x\nc.png,x\n")
    with pytest.raises(DatasetError, match=r"2 problems:\n  row 3: no image 'b.png'.*\n  row 4: "):
        from_table(tmp_path / "list.csv", {})


def test_columns_that_the_manifest_does_not_take_are_kept_in_mind(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text(",Image_name,Plane,Patient_num,weeks \n0,a,brain,1,1\n")
    assert from_table(tmp_path / "list.csv", {}).left_out == ("", "weeks")


@pytest.mark.parametrize("name", ["A.PNG", "a.jfif", "a.webp"])
def test_images_that_a_table_names_without_their_suffix_are_found(
    tmp_path: Path, name: str
) -> None:
    images(tmp_path, name)
    (tmp_path / "list.csv").write_text(f"image,label\n{name[0]},x\n")
    assert from_table(tmp_path / "list.csv", {}).paths == [name]


def test_a_split_of_a_table_is_train_or_test_and_else_refused_with_its_row(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text("image,label,part\na,x,Train\nb,x,TEST\n")
    found = from_table(tmp_path / "list.csv", {})
    assert [row["split"] for row in found.rows] == ["train", "test"]
    assert found.translated == ""
    (tmp_path / "list.csv").write_text("image,label,part\na,x,train\nb,x,val\n")
    expected = r"part has 'train' \(1 row\) and 'val' \(1 row\): expected train or test, or 0 and 1"
    with pytest.raises(DatasetError, match=expected):
        from_table(tmp_path / "list.csv", {})


# ── everything that is wrong, at once ────────────────────────────────────────────────────────────


def checked(folder: Path, content: str) -> tuple[str, ...]:
    (folder / "manifest.csv").write_text(content)
    return check_manifest(folder / "manifest.csv", lambda _done, _total: None).problems


def test_a_manifest_without_faults_has_no_problems(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    assert checked(tmp_path, "path,label,patient_id\na.png,x,1\nb.png,y,2\n") == ()


def test_all_problems_are_said_at_once_with_their_rows(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "d.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes())
    problems = checked(
        tmp_path,
        "path,label,patient_id,split\n"
        "a.png,x,1,train\n"
        "b.png,,1,test\n"
        "c.png,x,nan,train\n"
        "nowhere.png,x,3,val\n"
        "../out.png,x,4\n"
        "../out.png,x,4,train\n"
        "e.png,y,5,train\n"
        "d.png,x,6,train\n"
        "d.png,x,6,train\n",
    )
    text = "\n".join(problems)
    for expected in (
        "row 3: label is empty",
        "row 4: patient_id is 'nan', which looks like a missing value",
        "row 4: c.png: not an image",
        "row 5: split: expected train or test, found 'val'",
        "row 5: nowhere.png: no such file",
        "row 6: expected 4 fields, found 3",
        "row 7: path '../out.png' points out of the folder",
        "row 10: path 'd.png' stands in row 9 already",
        "1 image occurs under two labels; first: manifest/a.png (row 2): x; manifest/e.png (row 8)",
        "1 patients are in both parts of the published split; first: manifest/1",
    ):
        assert expected in text


def test_a_manifest_of_another_place_is_told_in_a_few_lines(tmp_path: Path) -> None:
    rows = "".join(f"scan{number}.png,x,{number}\n" for number in range(5000))
    problems = checked(tmp_path, f"path,label,patient_id\n{rows}")
    assert problems[19] == "row 21: scan19.png: no such file"
    assert problems[20].startswith("rows 22 … 5001: 4,980 more files are not there")
    assert len(problems) == 21


def test_a_link_to_nowhere_and_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.png").mkdir()
    problems = checked(tmp_path, "path,label,patient_id\na.png,x,1\nb.png,x,2\n")
    assert problems[0] == "row 2: a.png: no such file"
    assert problems[1].startswith("row 3: b.png: cannot be read (Is a directory)")


def test_images_that_viewers_turn_are_a_doubt(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (4, 3)).save(tmp_path / "a.png", exif=exif)
    Image.new("L", (4, 3), 9).save(tmp_path / "b.tif", exif=exif)
    Image.new("L", (4, 3), 99).save(tmp_path / "c.jpg")
    table = "path,label,patient_id\na.png,x,1\nb.tif,x,2\nc.jpg,x,3\n"
    (tmp_path / "manifest.csv").write_text(table)
    checked = check_manifest(tmp_path / "manifest.csv", lambda _done, _total: None)
    assert checked.problems == ()
    (doubt,) = checked.doubts
    assert doubt.startswith("2 images have an EXIF orientation")
    assert "b.tif (row 3, orientation 6)" in doubt


def test_one_patient_in_several_spellings_is_told_with_the_rows(tmp_path: Path) -> None:
    images(tmp_path, *(f"{n}.png" for n in range(5)))
    problems = checked(
        tmp_path,
        "path,label,patient_id\n0.png,x,007\n1.png,x,7\n2.png,x,7.0\n3.png,x,P70\n4.png,x,70\n",
    )
    assert problems == (
        "patients that look like one, spelled in several ways: '007' (row 2), '7' (row 3), '7.0' "
        "(row 4); spell a patient in one way, or call two patients differently",
    )


@pytest.mark.parametrize("spelling", ["p-1", "\uff501", "PO1", "P\u00a0001", "\u04201"], ids=ascii)
def test_further_spellings_of_a_patient_are_told(tmp_path: Path, spelling: str) -> None:
    images(tmp_path, "a.png", "b.png")
    (problem,) = checked(tmp_path, f"path,label,patient_id\na.png,x,P1\nb.png,x,{spelling}\n")
    assert problem.startswith("patients that look like one, spelled in several ways: 'P1' (row 2)")


def test_missing_values_are_not_told_as_one_patient_in_several_spellings(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    problems = checked(tmp_path, "path,label,patient_id\na.png,x,NA\nb.png,x,N/A\n")
    assert [problem[:20] for problem in problems] == [
        "row 2: patient_id is",
        "row 3: patient_id is",
    ]


def test_labels_that_may_be_misspelled_or_missing_are_told(tmp_path: Path) -> None:
    labels = ("abdomen", "abdomen", "brain", "abdomne", "Brain", "brain", "null", "femur")
    images(tmp_path, *(f"{n}.png" for n in range(len(labels))))
    rows = "\n".join(f"{n}.png,{label},{n}" for n, label in enumerate(labels))
    (tmp_path / "manifest.csv").write_text(f"path,label,patient_id\n{rows}\n")
    found = check_manifest(tmp_path / "manifest.csv", lambda _done, _total: None)
    assert found.problems == ("row 8: label is 'null', which looks like a missing value",)
    assert found.doubts == (
        "label 'Brain' (first in row 6, 1 in all) is almost 'brain' (2 in all): is it misspelled?",
        "label 'abdomne' (first in row 5, 1 in all) is almost 'abdomen' (2 in all): is it "
        "misspelled?",
    )


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        (("train", "train", "", "test", "test"), "split is empty in 1 of 5 rows, first in row 4"),
        (("train",) * 5, "no row has the split test"),
        (("test",) * 5, "no row has the split train"),
        (("test", "train", "train", "train", "train"), "no row of the split test is of y"),
        (("train", "test", "train", "test", "test"), "no row of the split train is of y"),
        (("",) * 5, ""),
        (("train", "train", "test", "test", "train"), ""),
    ],
)
def test_a_split_that_a_run_by_the_published_test_refuses_is_doubted(
    tmp_path: Path, splits: tuple[str, ...], told: str
) -> None:
    images(tmp_path, *(f"{n}.png" for n in range(5)))
    rows = "\n".join(f"{n}.png,{'xyxyx'[n]},{n},{split}" for n, split in enumerate(splits))
    (tmp_path / "manifest.csv").write_text(f"path,label,patient_id,split\n{rows}\n")
    found = check_manifest(tmp_path / "manifest.csv", lambda _done, _total: None)
    assert found.problems == ()
    assert [doubt.partition(":")[0] for doubt in found.doubts] == ([told] if told else [])


def test_an_image_of_two_patients_in_both_parts_is_told(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    table = "path,label,patient_id,split\na.png,x,1,train\nb.png,x,2,test\n"
    (problem,) = checked(tmp_path, table)
    assert problem.startswith("1 image occurs in both parts of the published split")
    assert "manifest/a.png = manifest/b.png" in problem


def test_rows_without_a_patient_are_not_one_patient_in_both_parts(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    table = "path,label,patient_id,split\na.png,x,,train\nb.png,x,,test\n"
    assert checked(tmp_path, table) == ("row 2: patient_id is empty", "row 3: patient_id is empty")


def test_a_column_that_sonobench_makes_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="row 1: sonobench makes columns called image_id"):
        checked(tmp_path, "path,label,patient_id,image_id\na.png,x,1,7\n")


def test_a_row_is_named_by_the_line_where_it_starts(tmp_path: Path) -> None:
    problems = checked(tmp_path, 'path,label,patient_id\n\n"a\nb.png",x,1\n,x,2\n')
    assert any(problem.startswith("row 3: path 'a\\nb.png' has a control") for problem in problems)
    assert "row 5: path is empty" in problems


def test_a_path_that_is_the_folder_itself_is_refused(tmp_path: Path) -> None:
    assert "row 2: path '.' points out" in checked(tmp_path, "path,label,patient_id\n.,x,1\n")[0]


# ── a hospital's own labels ──────────────────────────────────────────────────────────────────────


def mapped(folder: Path, mapping: str) -> pd.DataFrame:
    images(folder, "a.png", "b.png", "c.png")
    (folder / "manifest.csv").write_text(
        "path,label,patient_id\na.png,BPD,1\nb.png,FL,2\nc.png,HC,3\n"
    )
    (folder / "classes.csv").write_text(mapping)
    dataset = Dataset(loader="manifest", name="own", path="manifest.csv", labels="classes.csv")
    return load_cohort(dataset, folder).samples


def test_own_labels_become_classes_and_are_kept(tmp_path: Path) -> None:
    samples = mapped(tmp_path, "label,class\nBPD,Fetal brain\nHC,Fetal brain\nFL,Fetal femur\n")
    assert samples["label"].tolist() == ["Fetal brain", "Fetal femur", "Fetal brain"]
    assert samples["source_label"].tolist() == ["BPD", "FL", "HC"]


def test_labels_without_a_class_are_one_error_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gives no class: 'BPD' \(row 2\); 'HC' \(row 4\)"):
        mapped(tmp_path, "label,class\nFL,Fetal femur\n")


def test_blanks_and_accents_of_a_label_file_make_no_other_label(tmp_path: Path) -> None:
    samples = mapped(
        tmp_path, "label,class\n BPD\u00a0,Te\u0302te\nHC,T\u00eate\nFL,Fetal\u00a0femur\n"
    )
    assert samples["label"].tolist() == ["T\u00eate", "Fetal femur", "T\u00eate"]


def test_an_error_of_a_spreadsheet_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"row 3: class is '#REF!', which is an error of a spr"):
        mapped(tmp_path, "label,class\nBPD,brain\nHC,#REF!\nFL,femur\n")


def test_a_label_with_two_classes_is_refused_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"classes\.csv, row 3: label 'FL' has a class already"):
        mapped(tmp_path, "label,class\nFL,Fetal femur\nFL,Other\n")


# ── partial copies and unknown loaders ───────────────────────────────────────────────────────────


def test_a_partial_manifest_uses_what_is_here(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "manifest.csv").write_text("path,label,patient_id\na.png,x,1\nb.png,y,2\n")
    dataset = Dataset(loader="manifest", name="own", path="manifest.csv", partial=True)
    cohort = load_cohort(dataset, tmp_path)
    assert (len(cohort.samples), cohort.published_images) == (1, 2)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DatasetError, match="none of its 2 images is there"):
        load_cohort(dataset, tmp_path)


def test_a_loader_that_nobody_brings_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="unknown loader 'manifset'; did you mean 'manifest'"):
        load_cohort(Dataset(loader="manifset", name="x"), tmp_path)
