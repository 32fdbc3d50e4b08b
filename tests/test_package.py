"""Importing the package is cheap and every public name is where it says."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import residual_lens

ROOT = Path(__file__).parent.parent


def run_python(code: str) -> str:
    """What a fresh interpreter prints; no import hook of the test run is active there."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)  # noqa: S603 - our own command
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, residual_lens, residual_lens.cli; print(*sys.modules)"
    loaded = run_python(code).split()
    assert "residual_lens.cli" in loaded
    assert not {"torch", "transformer_lens", "open_clip", "sklearn", "matplotlib", "jaxtyping"} & set(loaded)


@pytest.mark.parametrize("name", residual_lens.__all__)
def test_every_public_name_resolves(name):
    assert getattr(residual_lens, name).__name__ == name
    assert name in dir(residual_lens)


def test_public_names_are_sorted_and_each_has_one_home():
    assert residual_lens.__all__ == sorted(residual_lens.__all__)
    assert set(residual_lens._HOME_OF) == set(residual_lens.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'residual_lens' has no attribute 'Residual'"):
        _ = residual_lens.Residual


def test_the_version_is_that_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert residual_lens.__version__ == project["version"] == version("residual_lens")
