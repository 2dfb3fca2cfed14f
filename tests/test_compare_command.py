"""`sonobench compare DIR DIR`: runs on the same images, and curves over training patients."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hospitals import WriteProtocol
from typer.testing import CliRunner

import sonobench
from sonobench.benchmark import report
from sonobench.cli import app
from sonobench.engine import Store, Task
from sonobench.evaluation.runs import kendall_tau
from sonobench.protocol import LabelEfficiency, ProtocolError, load_protocol
from sonobench.run_tables import read_fewer_patients, write_fewer_patients
from sonobench.steps import splits_of_fewer

run_tiny = partial(sonobench.run, workers=1)
runner = CliRunner()


def compared(out: Path, *folders: Path) -> str:
    made = runner.invoke(app, ["compare", *map(str, folders), "--out", str(out)])
    assert made.exit_code == 0, made.output
    return made.output


def test_runs_are_compared_model_by_model_on_their_common_images(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    store, two_runs = tmp_path / "store", (tmp_path / "one", tmp_path / "two")
    weak, strong = ({"linear_probe": {"penalties": [value]}} for value in (1e-3, 10.0))
    for adaptations, folder in zip((weak, strong), two_runs, strict=True):
        protocol = write_protocol(encoders=["random:timm:test_vit"], adaptations=adaptations)
        run_tiny(protocol, folder, store=store, images=False)
    output = compared(tmp_path / "out", *two_runs)
    assert "same draws of patients" in output
    differences = pd.read_csv(tmp_path / "out" / "differences.csv")
    scores = pd.read_csv(tmp_path / "out" / "scores.csv").set_index(
        ["run", "encoder", "evaluation", "metric"]
    )["estimate"]
    assert set(differences["evaluation"]) == {"in_domain", "abroad"}
    for row in differences.to_dict("records"):
        key = (row["encoder"], row["evaluation"], row["metric"])
        assert row["estimate"] == pytest.approx(scores["one", *key] - scores["two", *key])
    for name, folder in zip(("one", "two"), two_runs, strict=True):
        results = pd.read_csv(folder / "results.csv")
        own = results.query(
            "encoder == 'pixel_stats' and evaluation == 'abroad' and metric == 'macro_f1' "
            "and label_space == 'open' and images == 'all' and aggregate == 'mean_of_folds' "
            "and subgroup == 'all'"
        )
        expected = own["estimate"].iloc[0]
        assert scores[name, "pixel_stats", "abroad", "macro_f1"] == pytest.approx(expected)
    agreement = pd.read_csv(tmp_path / "out" / "agreement.csv")
    assert set(agreement["n_encoders"]) == {2}


def test_a_run_and_its_copy_do_not_differ(write_protocol: WriteProtocol, tmp_path: Path) -> None:
    run_tiny(write_protocol(), tmp_path / "one", images=False)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    compared(tmp_path / "out", tmp_path / "one", tmp_path / "copy")
    differences = pd.read_csv(tmp_path / "out" / "differences.csv")
    assert (differences[["estimate", "ci_low", "ci_high"]] == 0).all(axis=None)
    assert (differences["p"] == 1).all()


def test_one_folder_is_not_enough(tmp_path: Path) -> None:
    made = runner.invoke(app, ["compare", str(tmp_path)])
    assert made.exit_code == 2
    assert "two runs or more" in made.output


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    made = runner.invoke(app, ["compare", str(tmp_path / "one"), str(tmp_path / "two")])
    assert made.exit_code == 2
    assert "is no run's folder" in " ".join(made.output.split())


def test_runs_without_a_common_image_are_refused(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    run_tiny(write_protocol(external=[]), tmp_path / "one", images=False)
    renamed = {"loader": "manifest", "name": "elsewhere", "path": "home/manifest.csv"}
    run_tiny(write_protocol(source=renamed, external=[]), tmp_path / "two", images=False)
    made = runner.invoke(app, ["compare", str(tmp_path / "one"), str(tmp_path / "two")])
    assert made.exit_code == 2
    assert "no image is in all of one, two" in made.output


def test_kendalls_tau_is_scipys() -> None:
    from scipy.stats import kendalltau  # noqa: PLC0415

    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 5, (2, 20, 6)).astype(float)
    for row, tau in enumerate(kendall_tau(a, b)):
        assert tau == pytest.approx(kendalltau(a[row], b[row]).statistic)


# ── curves over training patients ────────────────────────────────────────────────────────────────


def test_a_curve_over_training_patients_comes_from_the_folder_alone(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    curve = {"patients": [1, 3], "draws": 2}
    run = run_tiny(write_protocol(label_efficiency=curve), tmp_path / "run", images=False)
    table = run.evaluation.label_efficiency
    assert set(table["encoder"]) == {"pixel_stats"}
    assert set(table["n_train_patients"]) == {1, 3}
    assert set(table["evaluation"]) == {"in_domain", "abroad"}
    assert set(table["n_draws"]) == {2}
    before = (tmp_path / "run" / "label_efficiency.csv").read_bytes()
    (tmp_path / "run").rename(tmp_path / "copy")
    (tmp_path / "copy" / "label_efficiency.csv").unlink()
    report(tmp_path / "copy")
    assert (tmp_path / "copy" / "label_efficiency.csv").read_bytes() == before


def _splits(subjects: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    samples = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(2 * subjects)],
            "subject_id": [f"s{n // 2:02d}" for n in range(2 * subjects)],
            "label": ["a", "b"] * (subjects - 2) + ["c"] * 4,
        }
    )
    splits = pd.concat(
        [samples[["image_id"]].assign(fold=fold, role="train") for fold in range(2)],
        ignore_index=True,
    )
    return samples, splits


def _trained(samples: pd.DataFrame, splits: pd.DataFrame, patients: int) -> dict[int, set[str]]:
    curve = LabelEfficiency(patients=(patients,), draws=3)
    fewer = splits_of_fewer(samples, splits, ("a", "b", "c"), patients, curve)
    rows = fewer[fewer["role"] == "train"].merge(samples, on="image_id")
    return {fold: set(own["subject_id"]) for fold, own in rows.groupby("fold")}


def test_smaller_numbers_of_patients_are_among_larger_ones_and_have_every_class() -> None:
    samples, splits = _splits()
    few, many = _trained(samples, splits, 3), _trained(samples, splits, 7)
    assert set(few) == set(many) == set(range(6))  # two folds, three draws
    labels = samples.groupby("subject_id")["label"].agg(set)
    for fold, subjects in few.items():
        assert len(subjects) == 3
        assert len(many[fold]) == 7
        assert subjects < many[fold]
        assert set().union(*labels[list(subjects)]) == {"a", "b", "c"}
    assert len({frozenset(subjects) for subjects in many.values()}) > 1


def test_an_encoder_that_failed_takes_no_other_encoder_from_the_curve(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    done, failed = (Task("label_efficiency", 1, {"encoder": name}) for name in ("done", "failed"))
    rows = pd.DataFrame(
        {
            "image_id": ["i0"],
            "dataset": ["home"],
            "subject_id": ["s0"],
            "label": ["Other"],
            "role": ["test"],
            "fold": [0],
            "seed": [0],
        }
    )
    protocol = load_protocol("demo")
    with store.write(done) as folder:
        rows.assign(logits=pd.Series([[0.0] * len(protocol.classes)])).to_parquet(
            folder / "predictions.parquet"
        )
    write_fewer_patients(tmp_path, store, {("net", 5): done, ("broken", 5): failed}, protocol)
    ((patients, predictions),) = read_fewer_patients(tmp_path, protocol)
    assert patients == 5
    assert predictions["encoder"].tolist() == ["net"]


@pytest.mark.parametrize(("patients", "reason"), [(13, "more than fold 0"), (1, "too few")])
def test_a_number_that_a_fold_cannot_give_is_refused(patients: int, reason: str) -> None:
    samples, splits = _splits()
    curve = LabelEfficiency(patients=(patients,))
    with pytest.raises(ProtocolError, match=reason):
        splits_of_fewer(samples, splits, ("a", "b", "c"), patients, curve)
