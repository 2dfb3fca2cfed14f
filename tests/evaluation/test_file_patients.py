"""A patient in several spellings in a file: one if programs made them, or refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sonobench.cli import app
from sonobench.evaluation import evaluate, read_predictions_file
from sonobench.tables import TableError


def table(patients: int = 20) -> pd.DataFrame:
    """Three images a patient, of two classes, some predicted wrongly."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "image_id": f"i{3 * patient + number}",
            "subject_id": f"{patient}",
            "label": "femur" if (patient + number) % 2 else "brain",
            "predicted": str(rng.choice(["brain", "femur"])),
        }
        for patient in range(patients)
        for number in range(3)
    ]
    return pd.DataFrame(rows)


def written(rows: pd.DataFrame, folder: Path) -> Path:
    file = folder / "p.csv"
    rows.to_csv(file, index=False)
    return file


def respelled(rows: pd.DataFrame) -> pd.DataFrame:
    """The first image of every patient as a program that keeps leading zeros writes its id."""
    first = ~rows["subject_id"].duplicated()
    return rows.assign(subject_id=rows["subject_id"].where(~first, rows["subject_id"].str.zfill(3)))


def test_ids_with_and_without_leading_zeros_are_one_patient_each_and_told(tmp_path: Path) -> None:
    plain = read_predictions_file(written(table(), tmp_path), bootstrap_draws=200)
    given = read_predictions_file(written(respelled(table()), tmp_path), bootstrap_draws=200)
    assert given.samples["subject_id"].nunique() == 20
    assert plain.remarks == ()
    # An id of three digits would have the same spelling.
    assert given.remarks == (
        "20 patients are spelled in several ways (case, leading zeros, .0 or the form of "
        "characters): '0' = '000', '001' = '1', '010' = '10', …; each counts as one",
    )
    found = [evaluate(g.predictions, g.samples, g.settings).results for g in (given, plain)]
    rows = [frame[frame["metric"] == "accuracy"] for frame in found]
    assert rows[0]["n_patients"].tolist() == rows[1]["n_patients"].tolist() == [20] * len(rows[0])
    pd.testing.assert_frame_equal(*(frame[["estimate", "ci_low", "ci_high"]] for frame in rows))


def test_the_command_tells_them(tmp_path: Path) -> None:
    file = written(respelled(table()), tmp_path)
    made = CliRunner().invoke(app, ["evaluate", str(file), "--draws", "100"])
    assert made.exit_code == 0, made.output
    shown = " ".join(made.output.split())
    assert "20 patients are spelled in several ways" in shown
    assert "60 images of 20 patients" in shown


@pytest.mark.parametrize("spelling", ["P7", "\uff507", "p\uff17", "p007", "p7 ", "p\u0667"])
def test_a_spelling_of_a_program_is_the_same_patient(tmp_path: Path, spelling: str) -> None:
    rows = table().assign(subject_id=lambda frame: "p" + frame["subject_id"])
    rows.loc[22, "subject_id"] = spelling
    samples = read_predictions_file(written(rows, tmp_path)).samples
    assert samples["subject_id"].nunique() == 20
    # All three images of the patient.
    assert (samples["subject_id"] == samples["subject_id"][22]).sum() == 3


def test_one_image_with_its_patient_in_two_spellings_is_one(tmp_path: Path) -> None:
    both = [table().assign(encoder="a"), respelled(table()).assign(encoder="b")]
    samples = read_predictions_file(written(pd.concat(both), tmp_path)).samples
    assert (len(samples), samples["subject_id"].nunique()) == (60, 20)


@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_patient(
    tmp_path_factory: pytest.TempPathFactory,
    random,  # type: ignore[no-untyped-def]
) -> None:
    rows = respelled(table(4))
    order = list(range(len(rows)))
    random.shuffle(order)
    folder = tmp_path_factory.mktemp("order")
    of_image = [
        read_predictions_file(written(each, folder)).samples.set_index("image_id")["subject_id"]
        for each in (rows, rows.iloc[order])
    ]
    pd.testing.assert_series_equal(of_image[0].sort_index(), of_image[1].sort_index())


def test_ids_of_two_datasets_are_of_two_patients_however_they_are_spelled(tmp_path: Path) -> None:
    south = respelled(table()).assign(dataset="south", image_id="s" + table()["image_id"])
    given = read_predictions_file(
        written(pd.concat([table().assign(dataset="north"), south]), tmp_path)
    )
    assert "20 patients are spelled in several ways" in given.remarks[0]
    by_dataset = given.samples.groupby("dataset")["subject_id"].nunique()
    assert by_dataset.to_dict() == {"north": 20, "south": 20}


def test_ids_that_only_look_alike_are_refused_after_those_of_one_patient_are_taken_together(
    tmp_path: Path,
) -> None:
    rows = respelled(table()).assign(subject_id=lambda frame: "p" + frame["subject_id"])
    rows.loc[22, "subject_id"] = "p-7"
    with pytest.raises(TableError, match=r"'p007' \(line 23\), 'p-7' \(line 24\); spell a"):
        read_predictions_file(written(rows, tmp_path))


@pytest.mark.parametrize("spelling", ["7", "007"])
@pytest.mark.parametrize("tested", ["test", "external"])
def test_a_patient_who_is_validated_on_and_tested_by_one_model_is_refused(
    tmp_path: Path, spelling: str, tested: str
) -> None:
    rows = table().assign(role=tested)
    rows.loc[22, ["subject_id", "role"]] = [spelling, "validation"]
    with pytest.raises(
        TableError, match=rf"line 23: patient '0?0?7' has rows of role {tested} and"
    ):
        read_predictions_file(written(rows, tmp_path))
    # By another model it may be: folds share out the patients.
    other = rows.iloc[[22]].assign(fold=1)
    rows = pd.concat([rows.drop(index=22).assign(fold=0), other])
    assert len(read_predictions_file(written(rows, tmp_path)).predictions) == 60
