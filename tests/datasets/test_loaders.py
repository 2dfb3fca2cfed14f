from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonobench.datasets import ARCHIVES, Cohort, DatasetError, african_planes, load_cohort
from sonobench.datasets import manifest as manifest_loader
from sonobench.protocol import Dataset

SPANISH_HEADER = "Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train "
SPANISH_ROWS = (
    "Patient00001_Plane1_1_of_15;1;Other;Not A Brain;Other;Aloka;1 ",
    "Patient00002_Plane3_1_of_2;2;Fetal brain;Trans-thalamic;Op. 1;Voluson E6;0 ",
)
AFRICAN = (
    "Patient_num,Plane,Train,Center,Filename\n"
    "1,Fetal abdomen,0,Algeria,patient001_DZA_plane0\n"
    "1,Fetal brain,1,Egypt,patient001_EGY_plane1\n"
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def spanish(root: Path, header: str = SPANISH_HEADER, rows: tuple[str, ...] = SPANISH_ROWS) -> None:
    folder = root / "FETAL_PLANES_DB"
    touch(folder, *(f"Images/{row.split(';')[0]}.png" for row in rows))
    (folder / "FETAL_PLANES_DB_data.csv").write_text("\n".join((header, *rows)) + "\n")


def african(root: Path, content: str = AFRICAN) -> None:
    touch(
        root / "Zenodo_dataset",
        "Algeria/patient001_DZA_plane0.png",
        "Egypt/patient001_EGY_plane1.png",
    )
    (root / "Zenodo_dataset" / "African_planes_database.csv").write_text(content)


def write_manifest(root: Path, content: str | bytes) -> Dataset:
    root.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    (root / "manifest.csv").write_bytes(data)
    return Dataset(loader="manifest", name="mine", path="manifest.csv")


# ── conformance: what every loader gives ─────────────────────────────────────────────────────────


def _spanish_cohort(root: Path) -> Cohort:
    spanish(root)
    return load_cohort(Dataset(loader="fetal_planes_db", partial=True), root)


def _african_cohort(root: Path) -> Cohort:
    african(root)
    return load_cohort(Dataset(loader="african_planes", partial=True), root)


def _manifest_cohort(root: Path) -> Cohort:
    rows = "path,label,patient_id,site\na.png,x,1,north\nb.png,y,2,\n"
    return load_cohort(write_manifest(root, rows), root)


LOADERS: dict[str, Callable[[Path], Cohort]] = {
    "fetal_planes_db": _spanish_cohort,
    "african_planes": _african_cohort,
    "manifest": _manifest_cohort,
}


@pytest.fixture(params=LOADERS)
def cohort(request: pytest.FixtureRequest, tmp_path: Path) -> Cohort:
    return LOADERS[request.param](tmp_path / "root")


def test_a_loader_gives_the_columns_of_the_sample_table(cohort: Cohort) -> None:
    expected = {
        "image_id",
        "dataset",
        "path",
        "label",
        "patient_id",
        "site",
        "device",
        "operator",
        "official_split",
        "row",
    }
    assert expected <= set(cohort.samples)


def test_image_ids_are_unique_and_carry_the_datasets_name(cohort: Cohort) -> None:
    assert cohort.samples["image_id"].is_unique
    assert cohort.samples["image_id"].str.startswith(f"{cohort.name}/").all()


def test_patient_ids_carry_the_datasets_name(cohort: Cohort) -> None:
    assert cohort.samples["patient_id"].str.startswith(f"{cohort.name}/").all()


def test_files_lie_in_the_cohorts_folder(cohort: Cohort) -> None:
    assert all(file.is_relative_to(cohort.folder) for file in cohort.files())


def test_rows_are_the_lines_of_the_metadata_file(cohort: Cohort) -> None:
    assert cohort.samples["row"].tolist() == [2, 3]


def test_a_label_that_the_protocol_does_not_have_is_named_with_its_row(cohort: Cohort) -> None:
    kept, refused = cohort.samples["label"]
    with pytest.raises(DatasetError, match=rf"'{refused}' \(row 3\)"):
        cohort.check_labels((kept,), "the protocol's")


# ── the archives ─────────────────────────────────────────────────────────────────────────────────


def test_the_spanish_file_is_read_with_its_trailing_spaces(tmp_path: Path) -> None:
    samples = _spanish_cohort(tmp_path).samples
    assert samples["path"][0] == "Images/Patient00001_Plane1_1_of_15.png"
    assert samples["official_split"].tolist() == ["train", "test"]
    assert samples["patient_id"].tolist() == [
        "fetal_planes_db/Barcelona/1",
        "fetal_planes_db/Barcelona/2",
    ]
    assert samples["device"].tolist() == ["Aloka", "Voluson E6"]
    assert samples["brain_plane"].isna().tolist() == [True, False]
    assert samples["brain_plane"].iloc[1] == "Trans-thalamic"


def test_a_copy_of_the_spanish_file_without_trailing_spaces_is_read_alike(tmp_path: Path) -> None:
    spanish(tmp_path / "bare", SPANISH_HEADER.strip(), tuple(r.strip() for r in SPANISH_ROWS))
    bare = load_cohort(Dataset(loader="fetal_planes_db", partial=True), tmp_path / "bare")
    pd.testing.assert_frame_equal(bare.samples, _spanish_cohort(tmp_path).samples)


def test_african_patients_of_different_centres_are_different(tmp_path: Path) -> None:
    samples = _african_cohort(tmp_path).samples
    assert samples["patient_id"].tolist() == ["african_planes/Algeria/1", "african_planes/Egypt/1"]
    assert samples["path"][0] == "Algeria/patient001_DZA_plane0.png"
    assert samples["official_split"].tolist() == ["test", "train"]


@pytest.mark.parametrize("loader", ["fetal_planes_db", "african_planes"])
def test_an_archive_that_is_not_there_says_where_it_belongs(loader: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"not there\. .*data fetch .*10\.5281/zenodo.*import"):
        load_cohort(Dataset(loader=loader), tmp_path)


@pytest.mark.parametrize(
    ("loader", "file", "empty"),
    [
        ("fetal_planes_db", SPANISH_ROWS[0], "Patient00001_Plane1_1_of_15;;;Not A Brain;O;A;1 "),
        ("african_planes", "1,Fetal abdomen,0", ",,0"),
    ],
)
def test_a_published_row_without_patient_or_plane_is_refused(
    loader: str, file: str, empty: str, tmp_path: Path
) -> None:
    spanish(tmp_path, rows=tuple(row.replace(file, empty) for row in SPANISH_ROWS))
    african(tmp_path, AFRICAN.replace(file, empty))
    with pytest.raises(DatasetError, match=r"(?s)row 2: Patient_num is empty.*row 2: Plane is em"):
        load_cohort(Dataset(loader=loader, partial=True), tmp_path)


def test_other_patients_than_published_are_not_the_published_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    african(tmp_path)
    archive = replace(ARCHIVES["african_planes"], images=2, patients=3)
    monkeypatch.setattr(african_planes, "ARCHIVE", archive)
    monkeypatch.setitem(ARCHIVES, "african_planes", archive)
    with pytest.raises(DatasetError, match="2 patients, 3 are published"):
        load_cohort(Dataset(loader="african_planes"), tmp_path)


def test_a_folder_without_its_metadata_is_to_be_moved_away_before_fetching(tmp_path: Path) -> None:
    (tmp_path / "Zenodo_dataset").mkdir()
    with pytest.raises(DatasetError, match=r"Move .*Zenodo_dataset away; then `sonobench data fet"):
        load_cohort(Dataset(loader="african_planes"), tmp_path)


def test_a_split_code_that_is_not_published_is_refused_with_its_row(tmp_path: Path) -> None:
    spanish(tmp_path, rows=("Patient00001_Plane1_1_of_15;1;Other;Not A Brain;Other;Aloka;2 ",))
    with pytest.raises(DatasetError, match=r"row 2: Train: expected 1 or 0, found '2'"):
        load_cohort(Dataset(loader="fetal_planes_db"), tmp_path)


# ── manifests ────────────────────────────────────────────────────────────────────────────────────


def test_optional_columns_are_used_and_further_ones_kept(tmp_path: Path) -> None:
    dataset = write_manifest(
        tmp_path,
        "path,label,patient_id,site,device,operator,split,weeks\n"
        "a.png,x,1,north,Aloka,Op. 1,train,22\n",
    )
    row = load_cohort(dataset, tmp_path).samples.iloc[0]
    assert (row.site, row.device, row.operator) == ("north", "Aloka", "Op. 1")
    assert (row.official_split, row.weeks) == ("train", "22")


def test_a_byte_order_mark_blank_lines_and_spaces_change_nothing(tmp_path: Path) -> None:
    plain = load_cohort(
        write_manifest(tmp_path / "a", "path,label,patient_id\nx.png,l,1\n"), tmp_path / "a"
    )
    odd = load_cohort(
        write_manifest(
            tmp_path / "b", b"\xef\xbb\xbfpath , label,patient_id\r\n\r\n x.png ,l, 1\r\n"
        ),
        tmp_path / "b",
    )
    columns = ["image_id", "label", "patient_id"]
    pd.testing.assert_frame_equal(plain.samples[columns], odd.samples[columns])


def patients(root: Path, *ids: str) -> list[str]:
    lines = [f"{number}.png,x,{name}" for number, name in enumerate(ids)]
    dataset = write_manifest(root, "\n".join(["path,label,patient_id", *lines]))
    return [str(name) for name in load_cohort(dataset, root).samples["patient_id"]]


def test_an_accent_in_two_spellings_is_one_patient(tmp_path: Path) -> None:
    # é as one character, and as e with a combining accent.
    assert patients(tmp_path, "Ren\u00e9", "Rene\u0301") == ["mine/Ren\u00e9"] * 2


def test_blanks_of_any_kind_are_one_space_in_labels_patients_and_sites(tmp_path: Path) -> None:
    rows = "path,label,patient_id,site\na.png,Fetal\u00a0femur,pat\u2003 1,North \u202f Wing\n"
    row = load_cohort(write_manifest(tmp_path, rows), tmp_path).samples.iloc[0]
    assert (row.label, row.patient_id, row.site) == ("Fetal femur", "mine/pat 1", "North Wing")


def test_a_path_keeps_the_spelling_of_its_file(tmp_path: Path) -> None:
    name = "Re\u0301ne\u00a0 1.png"
    rows = f"path,label,patient_id\n{name},x,1\n"
    assert load_cohort(write_manifest(tmp_path, rows), tmp_path).samples.loc[0, "path"] == name


@pytest.mark.parametrize(
    ("column", "text"),
    [("label", "#REF!"), ("label", "fe\u200bmur"), ("site", "#N/A"), ("device", "NaN"),
     ("patient_id", "2.02E+11"), ("patient_id", "#VALUE!")],
)  # fmt: skip
def test_what_a_spreadsheet_has_spoilt_is_refused_in_every_column(
    column: str, text: str, tmp_path: Path
) -> None:
    value = {"path": "a.png", "label": "x", "patient_id": "1", "site": "s", "device": "d"}
    value[column] = text
    rows = ",".join(value) + "\n" + ",".join(value.values())
    with pytest.raises(DatasetError, match=rf"row 2: {column} is '.*', which "):
        load_cohort(write_manifest(tmp_path, rows), tmp_path)


def test_a_published_patient_that_a_spreadsheet_has_spoilt_is_refused(tmp_path: Path) -> None:
    spanish(tmp_path, rows=("a;#N/A;Other;Not A Brain;Other;Aloka;1 ",))
    african(tmp_path, AFRICAN.replace("\n1,", "\n2.02E+11,", 1))
    for loader in ("fetal_planes_db", "african_planes"):
        with pytest.raises(DatasetError, match=r"row 2: Patient_num is '.*', which "):
            load_cohort(Dataset(loader=loader, partial=True), tmp_path)


def test_a_label_that_is_nearly_a_class_is_asked_about(tmp_path: Path) -> None:
    cohort = load_cohort(
        write_manifest(tmp_path, "path,label,patient_id\na.png,abdomne,1\nb.png,null,2\n"), tmp_path
    )
    cohort.check_labels(("abdomne", "null"), "the protocol's")
    with pytest.raises(
        DatasetError, match=r"'abdomne' \(row 2; did you mean 'abdomen'\?\); 'null' \(r"
    ):
        cohort.check_labels(("abdomen", "other"), "the protocol's")


@pytest.mark.parametrize("hidden", ["\u200b", "\u00ad", "\x07"])
def test_a_patient_with_an_unseen_character_is_refused(hidden: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"row 3: .* not seen \(U\+{ord(hidden):04X}\)"):
        patients(tmp_path, "p1", f"p{hidden}1")


@pytest.mark.parametrize("text", ["NA", "N/A", "n/a", "Unknown", "-", "NAN"])
def test_what_stands_for_a_missing_patient_is_no_patient(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"row 2: patient_id is '.*', which looks like a missing"
    ):
        patients(tmp_path, text)


def test_a_class_or_a_site_may_be_called_na(tmp_path: Path) -> None:
    dataset = write_manifest(tmp_path, "path,label,patient_id,site\na.png,NA,1,N/A\n")
    assert load_cohort(dataset, tmp_path).samples.loc[0, "label"] == "NA"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.png,x\n", r"row 1: expected the columns .*; missing: patient_id; found"),
        ("", "missing: path, label, patient_id; found: an empty file"),
        ("path,label,patient_id\n", "found only the header"),
        ("path,label,label,patient_id\n", "row 1: columns appear twice: label"),
        ("path,label,patient_id\na.png,x\n", "row 2: expected 3 fields, found 2"),
        ("path,label,patient_id\na.png,,1\n", "row 2: label is empty"),
        ("path,label,patient_id\na.png,x,\n", "row 2: patient_id is empty"),
        ("path,label,patient_id\na.png,x,1\n./a.png,x,2\n", "row 3: path 'a.png' .* row 2 already"),
        ("path,label,patient_id\n../a.png,x,1\n", "row 2: path .* points out of the folder of"),
        ("path,label,patient_id\nb/../../a.png,x,1\n", "points out of the folder of manifest"),
        ("path,label,patient_id\n/etc/a.png,x,1\n", "points out of the folder of manifest"),
        ("path,label,patient_id\n..\\a.png,x,1\n", "points out of the folder of manifest"),
        ("path,label,patient_id\nC:\\a.png,x,1\n", "points out of the folder of manifest"),
        ("path,label,patient_id,split\na.png,x,1,val\n", "row 2: split: expected train or test"),
        (b"path,label,patient_id\na.png,\xe9,1\n", "expected UTF-8 text"),
        ('path,label,patient_id\n"a.png,x,1\n', "row 2: unexpected end of data"),
    ],
)
def test_a_bad_manifest_is_refused_with_row_and_remedy(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        load_cohort(write_manifest(tmp_path, content), tmp_path)


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"manifest\.csv: cannot be read \(No such file"):
        load_cohort(Dataset(loader="manifest", name="a", path="manifest.csv"), tmp_path)


@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_cohort_or_a_clear_error(content: bytes, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path_factory.mktemp("fuzz") / "manifest.csv"
    file.write_bytes(b"path,label,patient_id\n" + content)
    try:
        samples = manifest_loader.load("mine", file).samples
    except DatasetError:
        return
    assert samples["image_id"].is_unique
    assert (samples[["label", "patient_id"]] != "").all(axis=None)


# ── the real files ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.realdata
def test_the_spanish_metadata_has_the_published_counts(real_data: Path) -> None:
    samples = load_cohort(Dataset(loader="fetal_planes_db"), real_data).samples
    # Burgos-Artizzu et al. 2020: 12,400 images, 1,792 patients, 7,129 / 5,271 images.
    assert len(samples) == 12400
    assert samples["official_split"].value_counts().to_dict() == {"train": 7129, "test": 5271}
    patients = samples.groupby("official_split")["patient_id"].agg(set)
    assert (len(patients["train"]), len(patients["test"])) == (896, 896)
    assert not patients["train"] & patients["test"]


@pytest.mark.realdata
def test_the_african_metadata_has_the_published_counts(real_data: Path) -> None:
    cohort = load_cohort(Dataset(loader="african_planes"), real_data)
    assert len(cohort.samples) == 450
    assert cohort.samples["patient_id"].nunique() == 127
    assert all(file.is_file() for file in cohort.files())
