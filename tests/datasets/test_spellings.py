"""One patient under several spellings: told by audit and run, refused where it leaks."""

from pathlib import Path

import pandas as pd
import pytest
from audited import cohort as table
from hospitals import WriteProtocol, edit, refused

from sonobench.data_audit import audit_protocol
from sonobench.datasets import Cohort, DatasetError, load_cohort, pseudonymised, spellings
from sonobench.engine import Store
from sonobench.protocol import Dataset, load_protocol


def found(samples: pd.DataFrame, roles: dict[str, str] | None, *group: str) -> list[str]:
    """Severities of the findings where patients have roles in one fold, or the published ones."""
    samples = samples.assign(subject_id=samples["patient_id"])
    splits = None
    if roles is not None:
        splits = samples[["image_id"]].assign(fold=0, role=samples["patient_id"].map(roles))
    alike = Cohort("home", Path(), Path(), samples, look_alike=(group,))
    return [finding.severity for finding in spellings(samples, splits, [alike])]


@pytest.mark.parametrize(
    ("one", "other", "severity"),
    [("train", "test", "error"), ("test", "validation", "error"), ("test", "test", "warning"),
     ("train", "validation", "warning"), ("excluded", "test", "warning")],
)  # fmt: skip
def test_two_spellings_leak_where_one_is_developed_on_and_the_other_tested(
    one: str, other: str, severity: str
) -> None:
    roles = {"home/000": one, "home/001": other}
    assert found(table(2), roles, "home/000", "home/001") == [severity]


def test_without_splits_the_published_split_says_who_is_tested() -> None:
    samples = table(3)
    assert found(samples, None, "home/000", "home/001") == ["warning"]
    assert found(samples, None, "home/001", "home/002") == ["error"]


def test_spellings_that_share_an_image_are_one_subject_already() -> None:
    samples = table(2).assign(subject_id="home/000")
    alike = Cohort("home", Path(), Path(), samples, look_alike=(("home/000", "home/001"),))
    assert spellings(samples, None, [alike]) == []


def test_spellings_whose_images_were_left_out_are_not_told() -> None:
    assert found(table(1), {"home/000": "train"}, "home/000", "home/0") == []


def test_a_finding_names_the_first_with_its_rows_and_counts_the_others() -> None:
    samples = table(4, official_split="train").assign(subject_id=lambda rows: rows["patient_id"])
    groups = (("home/002", "home/000"), ("home/001", "home/003"))
    alike = Cohort("home", Path(), Path(), samples, look_alike=groups)
    (finding,) = spellings(samples, None, [alike])
    assert (finding.count, len(finding.image_ids)) == (2, 12)
    assert finding.message.startswith(
        "2 patients seem to be spelled in several ways; first: 'home/002' (row 8), 'home/000' "
        "(row 2); they count as different patients"
    )


@pytest.mark.parametrize(("spelling", "test"), [("P-001", True), ("p1", True), ("p007", False)])
def test_a_run_stops_at_a_patient_in_two_spellings_and_the_audit_tells_it(
    hospitals: Path, write_protocol: WriteProtocol, tmp_path: Path, spelling: str, test: bool
) -> None:
    rows = edit(hospitals)
    # Of patient p001, who is trained on, one image is a test image under another spelling.
    rows.loc[4, ["patient_id", "split"]] = [spelling, "test" if test else "train"]
    if not test:
        rows.loc[4, ["patient_id"]] = "P001"
    rows.to_csv(hospitals / "home" / "manifest.csv", index=False)
    protocol = write_protocol()
    audit = audit_protocol(load_protocol(protocol), hospitals, Store(tmp_path / "store"))
    (finding,) = [f for f in audit["findings"] if f["kind"] == "spelled_in_several_ways"]
    assert "'home/p001' (row 5), 'home/" in finding["message"]
    assert finding["severity"] == ("error" if test else "warning")
    if test:
        refused(
            protocol, tmp_path / "run", DatasetError, "'home': 1 patient seems to be spelled in"
        )


def test_pseudonyms_keep_which_patients_look_alike_and_not_their_names(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label,patient_id\na.png,x,P1\nb.png,x,p1\nc.png,x,p2\n")
    named = load_cohort(Dataset(loader="manifest", name="home", path="m.csv"), tmp_path)
    assert named.look_alike == (("home/P1", "home/p1"),)
    hidden = pseudonymised(named, bytes(32))
    assert hidden.look_alike == (tuple(hidden.samples["patient_id"][:2]),)
