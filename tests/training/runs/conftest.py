"""What tests of runs share: stores, the shipped model, one finished run."""

from pathlib import Path

import pytest

from residual_lens.hooked.vit import HookedViT
from residual_lens.training.runs import RunResult, run
from tests.training.runs.places import digits, resources


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the stores of all runs."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def clip() -> HookedViT:
    """The shipped model."""
    return HookedViT.from_pretrained("attribute-clip")


@pytest.fixture(scope="session")
def residual(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """One finished run, and the folder of all."""
    out = tmp_path_factory.mktemp("runs")
    return out, run(digits("residual"), out, resources(stores))
