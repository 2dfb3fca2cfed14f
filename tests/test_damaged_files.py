"""Damaged files of the store and of a run's folder: made anew, or one sentence, and never more."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hospitals import CLASSES, PROBED_AND_FINETUNED, run_tiny, write_hospital
from typer.testing import CliRunner

from sonobench import preparation
from sonobench.benchmark import report
from sonobench.cli.main import app
from sonobench.datasets import DatasetError
from sonobench.engine import ArtefactMissing, LocalEngine, Store, TaskName
from sonobench.protocol import ProtocolError, load_protocol
from sonobench.tables import TableError

Damage = Callable[[Path], None]


def zeroed(file: Path) -> None:
    """As a file system leaves what it lost: of the same size, all bytes 0."""
    file.write_bytes(bytes(file.stat().st_size))


def half_zeroed(file: Path) -> None:
    """The beginning is as it was, so that most readers do not see it."""
    content = file.read_bytes()
    half = (len(content) + 1) // 2
    file.write_bytes(content[:half] + bytes(len(content) - half))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of artefact that was left in peace, in `run`, its protocol beside it.

    Its figures cannot be drawn: they are slow, and outputs without them are made again each time.
    """
    root = tmp_path_factory.mktemp("calm")
    write_hospital(root / "home")
    content = {
        "name": "tiny",
        "source": {"loader": "manifest", "name": "home", "path": "home/manifest.csv"},
        "classes": list(CLASSES),
        "split": {"folds": 2},
        "numerics": {"backend": "cpu"},
        "evaluation": {"bootstrap_draws": 100},
        "label_efficiency": {"patients": [3], "draws": 1},
        **PROBED_AND_FINETUNED,
    }
    (root / "protocol.yaml").write_text(yaml.safe_dump(content))
    (root / "stand-in").mkdir()
    (root / "stand-in" / "vl_convert.py").write_text("raise ImportError('not to be had')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root / "stand-in"), prepend=":")
        run_tiny(root / "protocol.yaml", root / "run")
    return root


@pytest.fixture
def run(calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the calm run's folder."""
    monkeypatch.setenv("PYTHONPATH", str(calm / "stand-in"), prepend=":")
    return Path(shutil.copytree(calm / "run", tmp_path / "run"))


def damage_store(run: Path, damage: Damage, *patterns: str) -> list[Path]:
    """Damage every file of the artefacts that fits, but for those without content."""
    files = [file for pattern in patterns for file in sorted((run / "store").glob(pattern))]
    files = [file for file in files if file.stat().st_size]
    assert files
    for file in files:
        damage(file)
    return files


def tables_of(run: Path) -> dict[str, bytes]:
    """Content of all results and predictions."""
    files = [*run.glob("*.csv"), *run.rglob("predictions/**/*.parquet")]
    files = [file for file in files if "store" not in file.parts]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def again(calm: Path, run: Path) -> list[str]:
    """The same run until it ends well; what it said each time that it did not."""
    said = []
    for _ in range(3):
        try:
            finished = run_tiny(calm / "protocol.yaml", run)
        except (ArtefactMissing, DatasetError) as error:
            said.append(str(error))
            continue
        assert not finished.failures
        return said
    raise AssertionError(said)


# ── the store ────────────────────────────────────────────────────────────────────────────────────

# What is read whole whenever results are made of it.
READ = [
    "certificate/*/*/certificate.json",
    "index/*/*/index.parquet",
    "embed/*/*/features.npy",
    "*/*/*/predictions.parquet",
    "*/*/*/diagnostics.parquet",
]


@pytest.mark.parametrize("damage", [zeroed, half_zeroed, cut])
def test_what_results_are_made_of_is_made_anew_by_the_same_run(
    calm: Path, run: Path, damage: Damage
) -> None:
    kinds = {file.name for file in damage_store(run, damage, *READ)}
    assert kinds == {Path(pattern).name for pattern in READ}
    assert again(calm, run) == []
    assert tables_of(run) == tables_of(calm / "run")
    assert not list(Store(run / "store").damaged())


@pytest.mark.parametrize("name", ["rows.npy", "grey.u8"])
@pytest.mark.parametrize("damage", [zeroed, half_zeroed, cut])
def test_images_that_are_computed_from_are_read_again_first(
    calm: Path, run: Path, name: str, damage: Damage
) -> None:
    # Black images are images: nothing but the checksum tells that these are none.
    damage_store(run, damage, f"pack/*/*/{name}")
    for kind in ("embed", "linear_probe", "full_finetune", "label_efficiency"):
        shutil.rmtree(run / "store" / kind)
    for said in again(calm, run):
        assert "damaged, and set aside; start the run again, which makes it anew" in said
    assert tables_of(run) == tables_of(calm / "run")


def test_images_that_nothing_is_computed_from_are_left_unread(calm: Path, run: Path) -> None:
    packs = damage_store(run, zeroed, "pack/*/*/grey.u8")
    assert again(calm, run) == []
    assert tables_of(run) == tables_of(calm / "run")
    # But for the thumbnails', which the report shows.
    anew = [pack for pack in packs if any(pack.read_bytes())]
    assert len(anew) == 1
    assert list((run / "diagnostics" / "thumbnails").glob("*.webp"))
    run_tiny(calm / "protocol.yaml", run, verify_store=True)
    assert all(any(pack.read_bytes()) for pack in packs)


def test_damage_while_a_run_goes_on_ends_it_with_a_sentence(
    calm: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonobench.benchmark.set_aside_damaged", lambda *_: None)
    damage_store(run, zeroed, "linear_probe/*/*/predictions.parquet")
    (said,) = again(calm, run)
    assert said.startswith("what it needs was damaged, and is made anew by the next run: linear_")
    assert tables_of(run) == tables_of(calm / "run")


def test_synthetic_images_that_are_damaged_are_drawn_anew(
    calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer than are drawn for the demo, and sooner there.
    draw = "sonobench.steps.cohorts.write_phantom"
    monkeypatch.setattr(draw, lambda folder, **_: write_hospital(folder / "home"))
    source = {"loader": "phantom", "name": "drawn", "cohort": "home"}
    protocol = load_protocol(calm / "protocol.yaml", [f"source={source}"])
    store = Store(tmp_path)

    def found() -> pd.DataFrame:
        (cohort,) = preparation.find_cohorts(protocol, tmp_path, LocalEngine(store, 1), store)
        assert all(file.read_bytes().startswith(b"\x89PNG") for file in cohort.files())
        return cohort.samples

    whole = found()
    for name in ("manifest.csv", "images/000_*.png"):
        (file, *_) = tmp_path.glob(f"phantom/*/*/home/{name}")
        zeroed(file)
        pd.testing.assert_frame_equal(found(), whole)


def test_a_training_goes_on_without_the_epochs_that_were_damaged(calm: Path, run: Path) -> None:
    (trained, *_) = (run / "store" / "full_finetune").glob("*/*")
    task = TaskName("full_finetune", trained.name)
    scratch = run / "store" / "scratch" / f"{task.kind}~{task.key}"
    scratch.mkdir(parents=True)
    (scratch / "epochs.pt").write_bytes(bytes(1000))
    shutil.rmtree(trained)
    assert again(calm, run) == []
    assert tables_of(run) == tables_of(calm / "run")
    assert "epochs.pt is damaged" in (run / "log.txt").read_text()


# ── the run's folder ─────────────────────────────────────────────────────────────────────────────

PARTS = [
    "protocol.yaml",
    "manifest.json",
    "audit.json",
    "samples.parquet",
    "splits.parquet",
    "predictions/pixel_stats__linear_probe.parquet",
    "predictions/label_efficiency/3/pixel_stats.parquet",
    "diagnostics/probe.parquet",
    "diagnostics/finetune.parquet",
    "diagnostics/projection.parquet",
    "diagnostics/neighbours.parquet",
    "diagnostics/certificates/pixel_stats.json",
    "diagnostics/thumbnails/index.csv",
]


@pytest.mark.parametrize("part", PARTS)
def test_a_report_names_what_is_damaged_and_the_run_makes_it_anew(
    calm: Path, run: Path, part: str
) -> None:
    zeroed(run / part)
    with pytest.raises((TableError, ProtocolError), match=Path(part).name):
        report(run)
    assert again(calm, run) == []
    assert tables_of(run) == tables_of(calm / "run")
    assert any((run / part).read_bytes())


def test_a_picture_that_is_gone_is_named(run: Path) -> None:
    (first, *_) = (run / "diagnostics" / "thumbnails").glob("*.webp")
    first.unlink()
    with pytest.raises(TableError, match=f"1 of its pictures are not there, first {first.name}"):
        report(run)


def test_a_manifest_that_lacks_what_the_report_shows_is_refused(run: Path) -> None:
    (run / "manifest.json").write_text('{"encoders": []}')
    with pytest.raises(TableError, match=r"manifest\.json: expected a JSON object with skipped, f"):
        report(run)


def test_nothing_is_written_over_a_run_of_which_is_not_known_whose_it_is(
    calm: Path, run: Path
) -> None:
    for name in ("protocol.yaml", "manifest.json"):
        zeroed(run / name)
    with pytest.raises(ProtocolError, match="if of this one, delete it and start again"):
        run_tiny(calm / "protocol.yaml", run)
    (run / "protocol.yaml").unlink()
    assert again(calm, run) == []


def test_pseudonyms_are_not_given_up_because_an_audit_is_damaged(calm: Path, run: Path) -> None:
    for name in ("audit.json", "manifest.json"):
        zeroed(run / name)
    for pseudonymise in (False, True):
        with pytest.raises(DatasetError, match=r"audit\.json: .*whether the run .*has pseudonyms"):
            run_tiny(calm / "protocol.yaml", run, pseudonymise=pseudonymise)
    (run / "audit.json").unlink()
    assert again(calm, run) == []


# ── what a user reads with other commands ────────────────────────────────────────────────────────


def told(*arguments: object) -> str:
    """What a command that refuses says, on one line."""
    ended = CliRunner().invoke(app, [str(each) for each in arguments])
    assert ended.exit_code == 2, ended.output
    assert ended.output.startswith("error: ")
    return " ".join(ended.output.split())


def test_commands_name_the_damaged_file(calm: Path, run: Path) -> None:
    file = run / "predictions" / "pixel_stats__linear_probe.parquet"
    for damage in (zeroed, cut):
        damage(file)
        for command in (
            ("report", run),
            ("compare", run, calm / "run"),
            ("evaluate", file, "--out", run / "evaluated"),
        ):
            assert f"{file}: cannot be read as Parquet" in told(*command)
    zeroed(run / "tasks.json")
    assert "tasks.json: not a list of a run's tasks" in told("status", run)


def test_curves_name_the_damaged_table(run: Path) -> None:
    pytest.importorskip("tensorboard")
    from sonobench.cli.tensorboard import write_tensorboard  # noqa: PLC0415

    zeroed(run / "diagnostics" / "finetune.parquet")
    with pytest.raises(TableError, match=r"finetune\.parquet: cannot be read as Parquet"):
        write_tensorboard(run)


def test_a_zeroed_csv_of_predictions_is_told_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    for content in (bytes(3000), b"image_id,subject_id,label,predicted\n" + bytes(3000)):
        file.write_bytes(content)
        assert len(told("evaluate", file)) < 300


# ── what a run is made of ────────────────────────────────────────────────────────────────────────


def test_metadata_that_change_while_their_images_are_read_are_refused(
    calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(calm / "home", tmp_path / "home")
    shutil.copy(calm / "protocol.yaml", tmp_path)
    file = tmp_path / "home" / "manifest.csv"

    def hash_files(*arguments: Any) -> Any:
        file.write_text(file.read_text().replace("p000", "p999"))
        return preparation.hash_files(*arguments)

    monkeypatch.setattr("sonobench.benchmark.hash_files", hash_files)
    with pytest.raises(DatasetError, match=r"manifest\.csv has changed since the run began"):
        run_tiny(tmp_path / "protocol.yaml", tmp_path / "run")
