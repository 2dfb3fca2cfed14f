"""What evaluation cannot judge is told by audit, dry run and run before anything is trained."""

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hospitals import CLASSES, WriteProtocol, edit, run_tiny
from rich.console import Console
from typer.testing import CliRunner

from sonobench import benchmark
from sonobench.cli import app
from sonobench.data_audit import audit_protocol
from sonobench.datasets import DatasetError
from sonobench.dry_run import dry_run
from sonobench.engine import Store
from sonobench.protocol import load_protocol
from sonobench.tables import RESULTS, read_table

FIRST, LAST = CLASSES[0], CLASSES[-1]
BY_FOLD = {"scheme": "cross_validation", "folds": 4}
ABROAD = {"loader": "manifest", "name": "abroad", "path": "abroad/manifest.csv"}


def save(hospitals: Path, cohort: str, manifest: pd.DataFrame) -> None:
    manifest.to_csv(hospitals / cohort / "manifest.csv", index=False)


def keep_last_class_of(hospitals: Path, patients: list[str]) -> None:
    home = edit(hospitals)
    save(hospitals, "home", home[(home["label"] != LAST) | home["patient_id"].isin(patients)])


def rare_class(hospitals: Path) -> None:
    keep_last_class_of(hospitals, ["p000", "p001", "p002"])


def official_test_lacks_class(hospitals: Path) -> None:
    home = edit(hospitals)
    save(hospitals, "home", home[(home["label"] != LAST) | (home["split"] == "train")])


def copies_of_test_images(hospitals: Path) -> None:
    """Every image abroad is one of the source's published test."""
    home, abroad = edit(hospitals), edit(hospitals, "abroad")
    for label, own in abroad.groupby("label"):
        tested = home[(home["split"] == "test") & (home["label"] == label)]["path"]
        for path, original in zip(own["path"], list(tested) * 2, strict=False):
            shutil.copy(hospitals / "home" / original, hospitals / "abroad" / path)


def copies_of_one_class(hospitals: Path) -> None:
    home, abroad = edit(hospitals), edit(hospitals, "abroad")
    original = home[(home["split"] == "test") & (home["label"] == FIRST)]["path"].iloc[0]
    for path in abroad[abroad["label"] == FIRST]["path"]:
        shutil.copy(hospitals / "home" / original, hospitals / "abroad" / path)


def unreadable_class(hospitals: Path) -> None:
    abroad = edit(hospitals, "abroad")
    for path in abroad[abroad["label"] == FIRST]["path"]:
        (hospitals / "abroad" / path).write_bytes(b"no picture")


@dataclass(frozen=True)
class Case:
    """What is done to the hospitals, the protocol's sections, and the evaluation left out."""

    sections: dict[str, object]
    left_out: str
    reason: str
    change: Callable[[Path], None] = lambda _: None
    in_metadata: bool = True


WITH_FIRST = {**ABROAD, "classes": list(CLASSES[:2])}
LEFT_OUT = {
    "declared class that is absent": Case(
        {"external": [{**ABROAD, "classes": list(CLASSES)}]}, "abroad", repr(LAST)
    ),
    "all images are copies that are dropped": Case(
        {"duplicates": "drop"}, "abroad", "no image left", copies_of_test_images, False
    ),
    "all images of a class are copies that are dropped": Case(
        {"duplicates": "drop", "external": [WITH_FIRST]},
        "abroad",
        repr(FIRST),
        copies_of_one_class,
        False,
    ),
    "all images of a class are unreadable": Case(
        {"unreadable": "leave_out", "external": [WITH_FIRST]},
        "abroad",
        repr(FIRST),
        unreadable_class,
        False,
    ),
    "rare class in cross-validation": Case({"split": BY_FOLD}, "in_domain", "of 4", rare_class),
    "class that the official test lacks": Case(
        {}, "in_domain", repr(LAST), official_test_lacks_class
    ),
}
NOTHING_LEFT = {
    "rare class in cross-validation": Case(
        {"split": BY_FOLD, "external": []}, "in_domain", "of 4", rare_class
    ),
    "class that the official test lacks": Case(
        {"external": []}, "in_domain", repr(LAST), official_test_lacks_class
    ),
    "two cohorts": Case(
        {"external": [{**ABROAD, "classes": list(CLASSES)}]},
        "abroad",
        repr(LAST),
        official_test_lacks_class,
    ),
}


def told_by_dry_run(protocol: Path, out: Path) -> str:
    text = io.StringIO()
    plan = benchmark.Plan.make(protocol, out, None, None, "cpu", ())
    dry_run(plan, Console(file=text, width=400))
    return text.getvalue()


def findings(protocol: Path, hospitals: Path, store: Path) -> dict[tuple[str, str], str]:
    found = audit_protocol(load_protocol(protocol), hospitals, Store(store))["findings"]
    return {
        (f["severity"], f["message"].split()[0]): f["message"]
        for f in found
        if f["kind"] == "not_judged"
    }


@pytest.mark.parametrize("case", LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_cohort_that_cannot_be_judged_is_left_out_and_the_others_are_judged(
    case: Case,
    write_protocol: WriteProtocol,
    hospitals: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case.change(hospitals)
    protocol, out = write_protocol(**case.sections), tmp_path / "run"
    if case.in_metadata:
        assert f"{case.left_out} cannot be judged and is left out" in told_by_dry_run(protocol, out)
    audited = findings(protocol, hospitals, tmp_path / "store")
    assert case.reason in audited["warning", case.left_out]

    done = run_tiny(protocol, out)
    told = [record.message for record in caplog.records if "cannot be judged" in record.message]
    assert [case.left_out] == [message.split()[0] for message in told]
    assert done.evaluation.left_out["evaluation"].tolist() == [case.left_out]
    assert case.reason in pd.read_csv(out / "left_out.csv")["reason"][0]
    judged = {"in_domain", "abroad"} - {case.left_out}
    assert set(read_table(out / "results.parquet", RESULTS)["evaluation"]) == judged
    assert f"{case.left_out} cannot be judged" in (out / "report.html").read_text()
    assert f"{case.left_out} cannot be judged" in told_by_dry_run(protocol, out)
    # From the folder alone.
    again = benchmark.report(out)
    assert again.left_out["evaluation"].tolist() == [case.left_out]


@pytest.mark.parametrize("case", NOTHING_LEFT.values(), ids=NOTHING_LEFT)
def test_where_no_cohort_can_be_judged_audit_dry_run_and_run_refuse_before_training(
    case: Case, write_protocol: WriteProtocol, hospitals: Path, tmp_path: Path
) -> None:
    case.change(hospitals)
    protocol, out = write_protocol(**case.sections), tmp_path / "run"
    assert case.reason in findings(protocol, hospitals, tmp_path / "audit")["error", case.left_out]
    with pytest.raises(DatasetError, match="cannot be judged"):
        told_by_dry_run(protocol, out)
    with pytest.raises(DatasetError, match="cannot be judged") as caught:
        run_tiny(protocol, out)
    assert case.reason in str(caught.value)
    assert not (out / "predictions").exists()
    assert not list((out / "store").rglob("predictions.parquet"))


def one_class(hospitals: Path) -> None:
    abroad = edit(hospitals, "abroad")
    save(hospitals, "abroad", abroad[abroad["label"] == FIRST])


def one_patient(hospitals: Path) -> None:
    abroad = edit(hospitals, "abroad")
    save(hospitals, "abroad", abroad[abroad["patient_id"] == "p000"])


def one_image(hospitals: Path) -> None:
    save(hospitals, "abroad", edit(hospitals, "abroad")[:1])


@pytest.mark.parametrize("change", [one_class, one_patient, one_image])
def test_what_a_cohort_cannot_tell_is_a_dash_in_the_report(
    change: Callable[[Path], None], write_protocol: WriteProtocol, hospitals: Path, tmp_path: Path
) -> None:
    change(hospitals)
    done = run_tiny(write_protocol(), tmp_path / "run")
    assert set(done.results["evaluation"]) == {"in_domain", "abroad"}
    tables = [file.read_text() for file in (done.folder / "tables").glob("*.md")]
    assert not [table for table in tables if "nan" in table.lower()]
    abroad = done.results.query("evaluation == 'abroad' and metric == 'macro_auroc'")
    if change is not one_patient:
        assert not np.isfinite(abroad["estimate"].astype(float)).any()
        assert ">–<" in (done.folder / "report.html").read_text()


def shared_between_sites(hospitals: Path) -> None:
    """Two patients of two sites share an image, and become one subject of both."""
    abroad = edit(hospitals, "abroad")
    one, other = (
        abroad[(abroad["patient_id"] == p) & (abroad["label"] == FIRST)]["path"].iloc[0]
        for p in ("p000", "p001")
    )
    shutil.copy(hospitals / "abroad" / one, hospitals / "abroad" / other)


def second_site(hospitals: Path) -> None:
    abroad = edit(hospitals, "abroad")
    abroad.loc[0, "site"] = "west"
    save(hospitals, "abroad", abroad)


@pytest.mark.parametrize("change", [second_site, shared_between_sites])
def test_a_patient_of_two_sites_is_judged(
    change: Callable[[Path], None], write_protocol: WriteProtocol, hospitals: Path, tmp_path: Path
) -> None:
    change(hospitals)
    done = run_tiny(write_protocol(), tmp_path / "run")
    abroad = done.results[(done.results["evaluation"] == "abroad")]
    whole = abroad[(abroad["subgroup"] == "all") & (abroad["metric"] == "macro_f1")]
    assert len(whole)
    assert not whole["reliable"].any()


@pytest.mark.parametrize("encoders", [["usfm"], ["fetalclip", "mofo"], ["usfm", "pixel_stats"]])
def test_a_run_of_which_every_encoder_is_skipped_ends_with_status_1_and_the_commands_to_fetch(
    encoders: list[str],
    write_protocol: WriteProtocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SONOBENCH_WEIGHTS", str(tmp_path / "none"))
    # Given by hand, as a twin of a network of this size takes long.
    asked = [*encoders, "random:timm:test_efficientnet"]
    protocol = write_protocol(encoders=asked)
    result = CliRunner().invoke(app, ["run", str(protocol), "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    for name in set(encoders) - {"pixel_stats"}:
        assert f"sonobench models fetch {name}" in result.output
    assert "only controls took part" in result.output


def test_a_run_of_which_one_encoder_is_skipped_ends_well(
    write_protocol: WriteProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOBENCH_WEIGHTS", str(tmp_path / "none"))
    asked = ["usfm", "efficientnet_lite0", "random:timm:test_efficientnet"]
    done = run_tiny(write_protocol(encoders=asked), tmp_path / "run")
    assert done.only_controls == ()
