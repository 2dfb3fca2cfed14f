"""The phantom, drawn once for all tests of this room."""

from pathlib import Path

import pytest

from sonobench.datasets import write_phantom


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, seed=0)
    return folder
