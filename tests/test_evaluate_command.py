"""`sonobench evaluate FILE`: predictions made elsewhere, and what is wrong with a file."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from typer.testing import CliRunner

from sonobench.cli import app

CLASSES = ("brain", "femur", "other")
runner = CliRunner()


def table() -> pd.DataFrame:
    """16 subjects, an image of each class, two encoders, two folds."""
    rows = [
        {"encoder": encoder, "fold": fold, "subject_id": f"p{subject:02d}", "label": label}
        | {"image_id": f"p{subject:02d}_{label}", "site": f"centre {subject % 2}"}
        for encoder in ("mine", "yours")
        for fold in range(2)
        for subject in range(16)
        for label in CLASSES
    ]
    return pd.DataFrame(rows)


def logits(rows: pd.DataFrame) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(len(rows), 3))
    values[np.arange(len(rows)), rows["label"].map(CLASSES.index)] += 1
    return values


def with_logits() -> pd.DataFrame:
    rows = table()
    columns = [f"logit[{name}]" for name in CLASSES]
    return rows.join(pd.DataFrame(logits(rows), columns=columns))


def with_probabilities() -> pd.DataFrame:
    rows = table()
    powers = np.exp(logits(rows))
    columns = [f"probability[{name}]" for name in CLASSES]
    return rows.join(pd.DataFrame(powers / powers.sum(1, keepdims=True), columns=columns))


def with_classes() -> pd.DataFrame:
    rows = table()
    return rows.assign(predicted=[CLASSES[index] for index in logits(rows).argmax(1)])


def evaluated(rows: pd.DataFrame, folder: Path, suffix: str = ".csv", *options: str) -> Path:
    file = folder / f"predictions{suffix}"
    if suffix == ".csv":
        rows.to_csv(file, index=False)
    else:
        rows.to_parquet(file)
    out = folder / "out"
    made = runner.invoke(
        app, ["evaluate", str(file), "--out", str(out), "--draws", "100", *options]
    )
    assert made.exit_code == 0, made.output
    return out


def refused(rows: pd.DataFrame, folder: Path, *words: str) -> None:
    file = folder / "predictions.csv"
    rows.to_csv(file, index=False)
    made = runner.invoke(app, ["evaluate", str(file), "--draws", "100"])
    assert made.exit_code == 2
    for word in ("predictions.csv", *words):
        assert word in made.output


def main(out: Path) -> pd.DataFrame:
    results = pd.read_csv(out / "results.csv")
    chosen = (results["aggregate"] == "mean_of_folds") & (results["subgroup"] == "all")
    chosen &= (results["images"] == "all") & (results["label_space"] == "open")
    return results[chosen].set_index(["encoder", "metric"])


def test_logits_give_the_same_tables_as_a_run(tmp_path: Path) -> None:
    rows = with_logits()
    out = evaluated(rows, tmp_path)
    results = main(out)
    assert {"macro_f1", "macro_auroc", "nll", "ece"} <= {metric for _, metric in results.index}
    mine = rows[rows["encoder"] == "mine"]
    said = [CLASSES[index] for index in logits(rows)[: len(mine)].argmax(1)]
    by_fold = [
        f1_score(mine["label"][own], np.array(said)[own], average="macro")
        for own in (mine["fold"] == 0, mine["fold"] == 1)
    ]
    assert results.loc[("mine", "macro_f1"), "estimate"] == pytest.approx(np.mean(by_fold))
    comparisons = pd.read_csv(out / "comparisons.csv")
    assert set(comparisons["kind"]) == {"pair", "rank"}


def test_probabilities_and_logits_of_the_same_models_agree(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = main(evaluated(with_logits(), tmp_path / "a"))
    two = main(evaluated(with_probabilities(), tmp_path / "b"))
    pd.testing.assert_series_equal(one["estimate"], two["estimate"], atol=1e-5)


def test_predicted_classes_have_no_metrics_of_probabilities(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    results = main(evaluated(with_classes(), tmp_path / "a"))
    metrics = {metric for _, metric in results.index}
    assert not {"nll", "brier", "ece", "macro_auroc", "aurc"} & metrics
    whole = main(evaluated(with_logits(), tmp_path / "b"))
    pd.testing.assert_frame_equal(results, whole.loc[results.index])


def test_predicted_classes_beside_the_values_they_are_the_highest_of_change_nothing(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    both = with_probabilities().assign(predicted=with_classes()["predicted"])
    beside = main(evaluated(both, tmp_path / "a"))
    pd.testing.assert_frame_equal(beside, main(evaluated(with_probabilities(), tmp_path / "b")))


def test_a_predicted_class_that_has_not_the_highest_value_is_refused(tmp_path: Path) -> None:
    rows = with_logits().assign(predicted=with_classes()["predicted"])
    others = {"brain": "femur", "femur": "other", "other": "brain"}
    rows.loc[5, "predicted"] = others[rows.loc[5, "predicted"]]
    refused(rows, tmp_path, "line 7", f"predicted is '{rows.loc[5, 'predicted']}'")


def test_the_absence_of_probabilities_is_said(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    with_classes().to_csv(file, index=False)
    made = runner.invoke(app, ["evaluate", str(file), "--draws", "100"])
    assert "no probabilities in the file" in made.output


def test_parquet_may_hold_a_list_an_image(tmp_path: Path) -> None:
    rows = table().assign(logits=list(logits(table())))
    out = evaluated(rows, tmp_path, ".parquet", "--classes", ",".join(CLASSES))
    assert ("mine", "macro_auroc") in main(out).index


def test_rows_of_role_test_are_in_domain_and_validation_rows_calibrate(tmp_path: Path) -> None:
    rows = with_logits()
    patient = rows["subject_id"].str[1:].astype(int)
    rows = rows.assign(role=np.where(patient < 5, "validation", "test"), dataset="home")
    results = pd.read_csv(evaluated(rows, tmp_path) / "results.csv")
    assert set(results["evaluation"]) == {"in_domain"}
    assert set(results["calibration"]) == {"none", "temperature"}
    assert (tmp_path / "out" / "temperatures.csv").is_file()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    refused(with_logits().drop(columns="subject_id"), tmp_path, "missing: subject_id")


def test_a_row_without_a_label_is_named_by_its_line(tmp_path: Path) -> None:
    rows = with_logits()
    rows.loc[4, "label"] = None
    refused(rows, tmp_path, "line 6", "no label")


def test_a_file_without_any_output_says_what_is_expected(tmp_path: Path) -> None:
    refused(table(), tmp_path, "logit[CLASS]", "none of them")


def test_probabilities_that_do_not_sum_to_1_are_refused(tmp_path: Path) -> None:
    rows = with_probabilities()
    rows.loc[2, "probability[femur]"] = 0.9999
    refused(rows, tmp_path, "line 4", "sum to 1")


def test_a_text_in_place_of_a_logit_is_refused(tmp_path: Path) -> None:
    rows = with_logits().astype({"logit[femur]": object})
    rows.loc[7, "logit[femur]"] = "high"
    refused(rows, tmp_path, "line 9", "finite number")


def test_a_label_that_no_logit_has_is_refused(tmp_path: Path) -> None:
    rows = with_logits()
    rows.loc[0, "label"] = "thorax"
    refused(rows, tmp_path, "line 2", "'thorax'")


def test_numbers_of_classes_in_place_of_their_names_are_refused(tmp_path: Path) -> None:
    rows = with_classes()
    rows["predicted"] = rows["predicted"].map(CLASSES.index)
    refused(rows, tmp_path, "no predicted class is among the labels")


def test_results_of_a_run_are_not_written_over(tmp_path: Path) -> None:
    file, run = tmp_path / "p.csv", tmp_path / "run"
    with_classes().to_csv(file, index=False)
    run.mkdir()
    (run / "protocol.yaml").touch()
    made = runner.invoke(app, ["evaluate", str(file), "--out", str(run), "--draws", "100"])
    assert made.exit_code == 2
    assert [each.name for each in run.iterdir()] == ["protocol.yaml"]


def test_an_image_twice_is_refused(tmp_path: Path) -> None:
    rows = with_logits()
    refused(pd.concat([rows, rows.iloc[[3]]]), tmp_path, "stands there twice", "fold 0")


def test_an_image_of_two_subjects_is_refused(tmp_path: Path) -> None:
    rows = with_logits()
    rows.loc[rows["encoder"] == "yours", "subject_id"] = "p99"
    refused(rows, tmp_path, "another dataset, subject, label or attribute")


def test_a_model_without_some_image_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    with_logits().iloc[1:].to_csv(file, index=False)
    made = runner.invoke(app, ["evaluate", str(file), "--draws", "100"])
    assert made.exit_code == 2
    assert "no prediction, though another model has one" in made.output


def test_a_number_written_as_a_site_is_its_name(tmp_path: Path) -> None:
    rows = with_classes().assign(site=lambda rows: rows["subject_id"].str[1:].astype(int) % 2)
    found = pd.read_csv(evaluated(rows, tmp_path, ".parquet") / "subgroups.csv", dtype=str)
    assert set(found["value"]) == {"0", "1"}


def test_test_images_in_one_fold_each_are_those_of_a_cross_validation(tmp_path: Path) -> None:
    rows = with_classes().assign(role="test")
    own_fold = rows["subject_id"].str[1:].astype(int) % 2 == rows["fold"]
    results = pd.read_csv(evaluated(rows[own_fold], tmp_path) / "results.csv")
    mine = rows[own_fold & (rows["encoder"] == "mine")]
    by_fold = [
        f1_score(fold["label"], fold["predicted"], average="macro")
        for _, fold in mine.groupby("fold")
    ]
    chosen = results[(results["encoder"] == "mine") & (results["metric"] == "macro_f1")]
    assert chosen["estimate"].iloc[0] == pytest.approx(np.mean(by_fold))


@pytest.mark.parametrize("fold", ["first", None, np.inf, 0.5])
def test_a_fold_that_is_no_whole_number_is_refused(tmp_path: Path, fold: object) -> None:
    rows = with_classes().assign(fold=[0, 0, 0, fold] + [0] * 188)
    refused(rows, tmp_path, "line 5", "expected a whole number as fold")


def test_a_file_of_a_single_class_is_refused(tmp_path: Path) -> None:
    rows = (
        table()
        .assign(label="brain", predicted="brain")
        .drop_duplicates(["encoder", "fold", "subject_id"])
    )
    refused(rows, tmp_path, "expected two or more different names")


def test_a_dataset_that_is_both_at_home_and_external_is_refused(tmp_path: Path) -> None:
    rows = with_classes().assign(role=["test", "external"] * 96)
    refused(rows, tmp_path, "'images' has rows of role test and rows of role external")


def test_classes_that_are_not_those_of_the_columns_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    with_logits().to_csv(file, index=False)
    made = runner.invoke(app, ["evaluate", str(file), "--classes", "brain,femur"])
    assert made.exit_code == 2
    assert "of the classes brain, femur; found those of brain, femur, other" in made.output


def test_a_class_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    with_classes().to_csv(file, index=False)
    made = runner.invoke(app, ["evaluate", str(file), "--classes", "brain,femur,other,brain"])
    assert made.exit_code == 2
    assert "expected different classes" in made.output


# ── texts as they come from spreadsheets and the web ─────────────────────────────────────────────


def test_blanks_and_accents_make_no_other_class_or_patient(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    names = {"brain": "Te\u0302te", "femur": "Fetal\u00a0femur ", "other": "other"}
    odd = with_classes().assign(predicted=lambda rows: rows["predicted"].map(names))
    odd.loc[::2, "subject_id"] += " "
    plain = with_classes().replace({"brain": "T\u00eate", "femur": "Fetal femur"})
    odd["label"] = plain["label"]
    one, two = main(evaluated(odd, tmp_path / "a")), main(evaluated(plain, tmp_path / "b"))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize(
    ("column", "text"),
    [("subject_id", "NaN"), ("subject_id", "unknown"), ("subject_id", "2.02E+11"),
     ("image_id", "#N/A"), ("predicted", "#REF!"), ("predicted", "None"), ("site", "nan"),
     ("subject_id", "p\u200b01")],
)  # fmt: skip
def test_a_value_that_is_none_is_refused_with_its_line(
    tmp_path: Path, column: str, text: str
) -> None:
    rows = with_classes()
    rows.loc[3, column] = text
    refused(rows, tmp_path, "line 5", f"{column} is ", ", which ")


def test_a_class_may_be_called_as_a_missing_value_where_classes_are_named(tmp_path: Path) -> None:
    rows = with_classes().replace({"other": "None"})
    evaluated(rows, tmp_path, ".csv", "--classes", "brain,femur,None")


@pytest.mark.parametrize("spelling", ["p-00", "p 00", "pO0", "p00.0", "\u042000"])
def test_two_patients_who_may_be_one_are_refused(tmp_path: Path, spelling: str) -> None:
    rows = with_classes()
    rows.loc[rows["image_id"] == "p00_femur", "subject_id"] = spelling
    refused(rows, tmp_path, "spelled in several ways: 'p00' (line 2)", f"'{spelling}' (line 3)")


def test_patients_of_two_hospitals_may_look_alike(tmp_path: Path) -> None:
    rows = with_classes().assign(dataset="north")
    south = rows.assign(
        dataset="south",
        image_id="s" + rows["image_id"],
        subject_id="P" + rows["subject_id"].str[1:],
    )
    evaluated(pd.concat([rows, south]), tmp_path)


def test_a_column_in_two_spellings_is_refused(tmp_path: Path) -> None:
    refused(with_classes().assign(**{"site\u00a0": "x"}), tmp_path, "columns appear twice: site")


def test_rows_longer_than_the_header_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("image_id,subject_id,label,predicted\n0,a,p1,x,x\n1,b,p2,y,y\n")
    made = runner.invoke(app, ["evaluate", str(file)])
    assert made.exit_code == 2
    assert "expected 4 fields in line 2, found 5" in made.output


# ── probabilities as they are given ──────────────────────────────────────────────────────────────


def given(rows: int, decimals: int | None = None, classes: int = 3, seed: int = 0) -> pd.DataFrame:
    """A patient an image, with probabilities rounded to so many decimals."""
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % classes
    power = np.exp(rng.normal(size=(rows, classes)) + np.eye(classes)[label])
    values = power / power.sum(1, keepdims=True)
    if decimals is not None:
        values = np.round(values, decimals)
    names = [chr(ord("A") + place) for place in range(classes)]
    frame = pd.DataFrame(values, columns=[f"probability[{name}]" for name in names])
    ids = pd.DataFrame({"image_id": [f"i{n}" for n in range(rows)]})
    ids = ids.assign(subject_id=[f"s{n}" for n in range(rows)], label=[names[k] for k in label])
    return ids.join(frame)


def judged(rows: pd.DataFrame, folder: Path) -> dict[str, float]:
    found = main(evaluated(rows, folder)).reset_index("encoder", drop=True)
    return {str(metric): float(value) for metric, value in found["estimate"].items()}


def by_scikit_learn(rows: pd.DataFrame) -> dict[str, float]:
    """Mean over classes of AUROC and average precision, of the values as they are written."""
    columns = [name for name in rows if name.startswith("probability[")]
    values = rows[columns].to_numpy()
    truth = np.stack([rows["label"] == name[12:-1] for name in columns], axis=1)
    pairs = list(zip(truth.T, values.T, strict=True))
    return {
        "macro_auroc": float(np.mean([roc_auc_score(*pair) for pair in pairs])),
        "macro_average_precision": float(np.mean([average_precision_score(*p) for p in pairs])),
        "brier": float(np.square(values - truth).sum(1).mean()),
    }


def neighbours(rows: int, k: int) -> pd.DataFrame:
    """What k nearest neighbours say: multiples of 1/k, with many ties and zeros."""
    rng = np.random.default_rng(k)
    frame = given(rows)
    shares = frame.filter(like="probability").to_numpy()
    frame[frame.filter(like="probability").columns] = [rng.multinomial(k, s) / k for s in shares]
    return frame


@pytest.mark.parametrize(
    "rows",
    [neighbours(90, 5), neighbours(90, 3), given(90, 1), given(90)],
    ids=["fifths", "thirds", "one decimal", "all digits"],
)  # fmt: skip
def test_ranks_and_scores_are_those_of_the_values_as_given(
    tmp_path: Path, rows: pd.DataFrame
) -> None:
    found, expected = judged(rows, tmp_path), by_scikit_learn(rows)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_difference_in_the_last_digit_is_no_tie(tmp_path: Path) -> None:
    rows = given(6, classes=2)
    low, high = 1e-300, np.nextafter(1e-300, 1)
    rows["probability[A]"] = [high, low, high, low, high, low]
    rows["probability[B]"] = 1.0
    found = judged(rows, tmp_path)
    # As B is 1 everywhere, its ranks are all tied.
    assert found["macro_auroc"] == (1 + 0.5) / 2


def test_likelihoods_are_of_the_values_as_given_however_small(tmp_path: Path) -> None:
    rows = given(30, classes=2)
    rows["probability[A]"] = np.where(rows["label"] == "A", 1e-28, 1 - 1e-12)
    rows["probability[B]"] = 1 - rows["probability[A]"]
    of_true = np.where(rows["label"] == "A", rows["probability[A]"], rows["probability[B]"])
    assert judged(rows, tmp_path)["nll"] == pytest.approx(-np.log(of_true).mean(), abs=1e-6)


@pytest.mark.parametrize(("least", "zero"), [(1e-3, 1e-12), (1e-20, 1e-20)])
def test_only_a_zero_is_lifted_and_never_above_the_least_that_is_given(
    tmp_path: Path, least: float, zero: float
) -> None:
    rows = given(20, classes=2)
    rows["probability[A]"] = [0.0, least] + [0.5] * 18
    rows["probability[B]"] = 1 - rows["probability[A]"]
    # Image 0 is A and said to be impossible; image 1 is B.
    expected = -(np.log(zero) + np.log(1 - least) + 18 * np.log(0.5)) / 20
    assert judged(rows, tmp_path)["nll"] == pytest.approx(expected, abs=1e-6)


def test_rounded_probabilities_are_not_stretched_to_sum_to_1(tmp_path: Path) -> None:
    rows = given(30)
    rows[["probability[A]", "probability[B]", "probability[C]"]] = 0.33
    assert judged(rows, tmp_path)["nll"] == pytest.approx(-np.log(0.33), abs=1e-6)


@pytest.mark.parametrize("form", ["%.2f", "%.3f", "%.3g", "%.4g", "%.8f"])
@pytest.mark.parametrize("classes", [2, 6, 20])
def test_sums_may_be_off_by_the_rounding_of_their_digits(
    tmp_path: Path, form: str, classes: int
) -> None:
    rows = given(4 * classes, classes=classes)
    columns = list(rows.filter(like="probability"))
    rows[columns] = rows[columns].map(lambda value: float(form % value))
    judged(rows, tmp_path)


@pytest.mark.parametrize(
    ("values", "total"),
    [([0.25, 0.70], "0.95"), ([1.0, 1.0], "2"), ([0.0, 0.0], "0"), ([0.501, 0.501], "1.002"),
     ([0.12345678, 0.87654], "0.999997"), ([0.5, 0.6], "1.1"), ([-0.2, 1.2], "1")],
)  # fmt: skip
def test_a_sum_that_rounding_does_not_explain_is_refused(
    tmp_path: Path, values: list[float], total: str
) -> None:
    rows = given(20, classes=2)
    rows["probability[A]"], rows["probability[B]"] = (1, 0) if values[0] in (0, 1) else (0.25, 0.75)
    rows.loc[3, ["probability[A]", "probability[B]"]] = values
    refused(rows, tmp_path, "line 5", "sum to 1", f"which sum to {total}")


def test_an_ensemble_of_given_probabilities_is_their_mean(tmp_path: Path) -> None:
    one, two = (neighbours(60, k).assign(fold=fold) for fold, k in enumerate((5, 3)))
    out = evaluated(pd.concat([one, two]), tmp_path)
    results = pd.read_csv(out / "results.csv")
    chosen = (results["aggregate"] == "ensemble") & (results["label_space"] == "open")
    chosen &= (results["images"] == "all") & (results["metric"] == "brier")
    columns = list(one.filter(like="probability"))
    both = one.assign(**{name: (one[name] + two[name]) / 2 for name in columns})
    assert results[chosen]["estimate"].item() == pytest.approx(by_scikit_learn(both)["brier"])


def test_given_probabilities_are_calibrated_as_the_logits_that_they_come_of(tmp_path: Path) -> None:
    found = []
    for name, rows in (("a", with_logits()), ("b", with_probabilities())):
        (tmp_path / name).mkdir()
        patient = rows["subject_id"].str[1:].astype(int)
        role = np.where(patient < 5, "validation", "test")
        out = evaluated(rows.assign(role=role, dataset="home"), tmp_path / name)
        results = pd.read_csv(out / "results.csv")
        calibrated = results[results["calibration"] == "temperature"]["estimate"]
        found.append((pd.read_csv(out / "temperatures.csv")["temperature"], calibrated))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_in_closed_classes_given_probabilities_are_shared_among_them(tmp_path: Path) -> None:
    # Nothing is left for A and B in the first image: they are equally probable.
    rows = given(40)
    rows = rows[rows["label"] != "C"].reset_index(drop=True)
    columns = ["probability[A]", "probability[B]", "probability[C]"]
    rows.loc[0, columns] = [0.0, 0.0, 1.0]
    results = pd.read_csv(evaluated(rows, tmp_path) / "results.csv")
    closed = results[(results["label_space"] == "closed") & (results["images"] == "all")]
    found = closed[(closed["metric"] == "nll") & (closed["aggregate"] == "mean_of_folds")]
    shares = rows[columns[:2]].to_numpy(copy=True)
    shares[0] = 0.5
    shares /= shares.sum(1, keepdims=True)
    true = shares[np.arange(len(rows)), (rows["label"] == "B").astype(int)]
    assert found["estimate"].item() == pytest.approx(-np.log(true).mean(), abs=1e-6)


def test_classes_that_no_label_has_are_told_with_what_may_be_meant(tmp_path: Path) -> None:
    rows = with_classes()
    rows.loc[rows["predicted"] == "femur", "predicted"] = "Femur"
    count = int((rows["predicted"] == "Femur").sum())
    file = tmp_path / "p.csv"
    rows.to_csv(file, index=False)
    made = runner.invoke(app, ["evaluate", str(file), "--draws", "100"])
    assert made.exit_code == 0
    shown = " ".join(made.output.split())
    assert (
        f"{count} of 192 predictions are of classes that no label has, and count as wrong" in shown
    )
    assert f"'Femur' {count} times (did you mean 'femur'?)" in shown


def test_a_cross_validation_without_roles_is_told_what_is_missing(tmp_path: Path) -> None:
    rows = with_classes()
    own_fold = rows["subject_id"].str[1:].astype(int) % 2 == rows["fold"]
    refused(rows[own_fold], tmp_path, "the column role is missing: give these rows the role test")


def test_no_name_of_the_file_is_a_formula_in_the_tables_that_are_written(tmp_path: Path) -> None:
    hostile = "=cmd|' /C calc'!A0"
    rows = with_logits().replace({"encoder": {"mine": hostile}}).assign(site="@SUM(1+1)")
    out = evaluated(rows, tmp_path)
    for file in out.glob("*.csv"):
        with file.open(newline="") as text:
            fields = {field for row in csv.reader(text) for field in row}
        unsafe = {field for field in fields if field[:1] in set("=+-@")}
        assert all(map(np.isfinite, map(float, unsafe))), file
        assert f"'{hostile}" in fields or file.name not in ("results.csv", "comparisons.csv")
    assert hostile in set(pd.read_parquet(out / "results.parquet")["encoder"])
    # What was defused is taken for what it was.
    defused = tmp_path / "again"
    defused.mkdir()
    again = evaluated(rows.replace({"encoder": {hostile: f"'{hostile}"}}), defused)
    assert (again / "results.csv").read_bytes() == (out / "results.csv").read_bytes()
