import json
from pathlib import Path

import pytest
import timm
import torch
from typer.testing import CliRunner, Result

from sonobench.cli.models import models_app
from sonobench.encoders.registry import catalogue


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SONOBENCH_WEIGHTS", str(tmp_path))
    return tmp_path


def models(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(models_app, list(arguments), input=answer)


def test_the_list_names_every_encoder_and_where_its_weights_are() -> None:
    lines = models("list").output.splitlines()
    for name in catalogue():
        line = next(line for line in lines if f" {name} " in line)
        if name == "usfm":
            assert "missing" in line


def test_an_encoder_is_shown_with_licence_and_pre_training_data() -> None:
    output = models("show", "fetalclip").output
    assert "CC BY-NC 4.0" in output
    assert "not listed" in output


def test_weights_with_terms_are_not_fetched_without_agreement(folder: Path) -> None:
    result = models("fetch", "usfm", answer="n\n")
    assert "non-commercial use only" in result.output
    assert result.exit_code == 1
    assert not list(folder.iterdir())


def test_weights_that_are_here_are_named_without_a_question(folder: Path) -> None:
    (folder / "USFM_latest.pth").touch()
    result = models("fetch", "usfm")
    assert result.exit_code == 0
    assert "Do you agree" not in result.output


def test_a_verified_encoder_gets_a_certificate(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), folder / "w.pth")
    result = models("verify", "timm:test_vit", "--checkpoint", str(folder / "w.pth"))
    assert result.exit_code == 0
    assert "they look random" in result.output
    (written,) = (folder / "certificates").iterdir()
    certificate = json.loads(written.read_text())
    assert certificate["random_looking"]
    assert certificate["images_a_second"] > 0
    assert set(certificate["tensors_dropped"].values()) == {"classifier"}


def test_a_file_that_does_not_fit_is_an_error(folder: Path) -> None:
    torch.save({"weight": torch.ones(2)}, folder / "w.pth")
    result = models("verify", "timm:test_vit", "--checkpoint", str(folder / "w.pth"))
    assert result.exit_code == 2
    assert "does not fit" in result.output
