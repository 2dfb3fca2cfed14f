"""The command line, as a user calls it."""

import subprocess
import sys
from pathlib import Path

import pytest
from hospitals import WriteProtocol
from typer.testing import CliRunner

from sonobench.cli import app


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def test_a_run_ends_with_a_table_and_the_path_of_a_report(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, shown = call("run", write_protocol(), "--out", out, "--workers", 1)
    assert code == 0
    assert "pixel_stats" in shown
    assert f"report: {out / 'report.html'}" in shown


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["status", "nowhere"]])
def test_help_and_status_do_not_wait_for_torch(command: list[str]) -> None:
    program = (
        "import sys\n"
        "from sonobench.cli import app\n"
        f"try: app({command})\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "[]"


def test_a_report_is_written_again(write_protocol: WriteProtocol, tmp_path: Path) -> None:
    out = tmp_path / "run"
    call("run", write_protocol(), "--out", out, "--workers", 1)
    (out / "report.html").unlink()
    code, shown = call("report", out)
    assert code == 0
    assert "pixel_stats" in shown
    assert (out / "report.html").is_file()


def test_values_are_set_on_the_command_line(write_protocol: WriteProtocol, tmp_path: Path) -> None:
    arguments = ("--out", tmp_path / "run", "--workers", 1)
    code, _ = call("run", write_protocol(), *arguments, "--set", "split.folds=3")
    assert code == 0
    assert "folds: 3" in (tmp_path / "run" / "protocol.yaml").read_text()


def test_bad_input_is_one_clear_message_and_status_2(
    write_protocol: WriteProtocol, tmp_path: Path
) -> None:
    protocol = write_protocol(split={"folds": 8})
    code, shown = call("run", protocol, "--out", tmp_path / "run", "--workers", 1)
    assert code == 2
    assert "error: 'home' has 7 subjects to divide into 8 folds" in shown
    assert "Traceback" not in shown


def test_a_failed_job_is_named_and_gives_status_1(
    write_protocol: WriteProtocol, hospitals: Path, tmp_path: Path
) -> None:
    (hospitals / "mine.parquet").write_bytes(b"not parquet")
    protocol = write_protocol(encoders=[{"embeddings": "mine.parquet", "label": "mine"}])
    code, shown = call("run", protocol, "--out", tmp_path / "run", "--workers", 1)
    assert code == 1
    assert "failed: read mine:" in shown
    assert "pixel_stats" in shown


@pytest.mark.parametrize("decoded", [False, True])
def test_a_dry_run_tells_and_makes_nothing(
    write_protocol: WriteProtocol, tmp_path: Path, decoded: bool
) -> None:
    protocol, out = write_protocol(encoders=["random:timm:test_vit"]), tmp_path / "run"
    if decoded:
        call("run", protocol, "--out", out, "--workers", 1)
    before = sorted(out.rglob("*.npy"))
    code, shown = call("run", protocol, "--out", out, "--dry-run")
    assert code == 0
    assert "decode 42 images" in shown
    assert "embed random:timm:test_vit" in shown
    assert sorted(out.rglob("*.npy")) == before


def test_a_factory_is_found_in_the_working_directory(
    write_protocol: WriteProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "factory_of_cli_test.py").write_text(
        "from torch import nn\n"
        "from sonobench.encoders import EncoderCard, Preprocess\n"
        "from sonobench.images import Geometry\n"
        "def build():\n"
        "    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())\n"
        "    return network, EncoderCard('mine', Preprocess(Geometry('squash', 32)), 48)\n"
    )
    # What is installed stands before it.
    (tmp_path / "timm.py").write_text("raise ImportError('mine')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    protocol = write_protocol(encoders=[{"python": "factory_of_cli_test:build"}])
    code, shown = call("run", protocol, "--out", tmp_path / "run", "--workers", 1)
    assert code == 0, shown
    assert "factory_of_cli_test:build" in shown
    assert sys.path[-1] == str(tmp_path)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("modules are looked for in the working directory too") == 1


@pytest.mark.parametrize("option", ["--dry-run", "--no-images"])
def test_a_run_without_a_factory_does_not_look_for_modules_in_the_working_directory(
    write_protocol: WriteProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    path = [entry for entry in sys.path if entry]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*path])
    code, _ = call("run", write_protocol(), "--out", tmp_path / "run", "--workers", 1, option)
    assert code == 0
    assert sys.path == path


def test_a_dry_run_names_missing_weights(
    write_protocol: WriteProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOBENCH_WEIGHTS", str(tmp_path))
    code, shown = call("run", write_protocol(encoders=["resnet50"]), "--out", tmp_path, "--dry-run")
    assert code == 0
    assert "skipped: resnet50: weights are not here" in shown
