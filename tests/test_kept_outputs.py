"""A run with nothing to compute keeps its outputs; anything that changed makes them anew."""

from pathlib import Path

import pandas as pd
import pytest
from hospitals import WriteProtocol, run_tiny
from rich.console import Console

from sonobench.benchmark import Run
from sonobench.report import summary

OUTPUTS = ("results.csv", "report.html", "tables/main.md", "manifest.json")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def written(out: Path) -> dict[str, int]:
    """When the outputs were written, in nanoseconds."""
    files = [out / name for name in OUTPUTS]
    files += [*(out / "predictions").iterdir(), *(out / "figures").iterdir()]
    files += (out / "diagnostics" / "thumbnails").glob("*")
    return {str(file): file.stat().st_mtime_ns for file in files}


def shown(run: Run) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary(run.folder, run.evaluation))
    return capture.get()


def test_a_second_run_leaves_every_output_as_it_is_and_shows_the_same(
    write_protocol: WriteProtocol, out: Path
) -> None:
    first = run_tiny(write_protocol(), out)
    before = written(out)
    second = run_tiny(write_protocol(), out)
    assert written(out) == before
    assert shown(second) == shown(first)
    pd.testing.assert_frame_equal(second.results, first.results)
    pd.testing.assert_frame_equal(second.evaluation.confusions, first.evaluation.confusions)
    assert "nothing has changed" in (out / "log.txt").read_text()


def test_outputs_that_were_deleted_or_edited_are_made_anew(
    write_protocol: WriteProtocol, out: Path
) -> None:
    run_tiny(write_protocol(), out)
    results = (out / "results.csv").read_bytes()
    (out / "results.csv").write_bytes(results.replace(b"macro_f1", b"micro_f1"))
    run_tiny(write_protocol(), out)
    assert (out / "results.csv").read_bytes() == results
    (out / "report.html").unlink()
    run_tiny(write_protocol(), out)
    assert (out / "report.html").is_file()


def test_other_settings_make_outputs_anew(write_protocol: WriteProtocol, out: Path) -> None:
    run_tiny(write_protocol(), out)
    assert list((out / "diagnostics" / "thumbnails").glob("*.webp"))
    run_tiny(write_protocol(), out, images=False)
    assert not (out / "diagnostics" / "thumbnails").exists()


def test_a_report_whose_figures_could_not_be_drawn_is_tried_again(
    write_protocol: WriteProtocol, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "stand-in"
    stand_in.mkdir()
    (stand_in / "vl_convert.py").write_text("raise ImportError('not to be had')")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(stand_in), prepend=":")
        run_tiny(write_protocol(), out)
    assert not list((out / "figures").glob("*"))
    run_tiny(write_protocol(), out)
    assert (out / "figures" / "forest.svg").is_file()


def test_a_store_is_verified_before_it_is_used_where_that_is_asked_for(
    write_protocol: WriteProtocol, out: Path
) -> None:
    first = run_tiny(write_protocol(), out)
    (features, *_) = (out / "store" / "embed").glob("*/*/features.npy")
    features.write_bytes(features.read_bytes()[:-4] + bytes(4))
    again = run_tiny(write_protocol(), out, verify_store=True)
    assert again.results.equals(first.results)
    assert features.read_bytes()[-4:] != bytes(4)
    assert len(list((out / "store" / "damaged").iterdir())) == 1
