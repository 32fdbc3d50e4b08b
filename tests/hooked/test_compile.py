"""`torch.compile`: no hook is dropped in any order of compiling, adding, replacing and removing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tolerances import FLOAT32_TOL, VISIBLE_CHANGE

ROOT = Path(__file__).parents[2]


def gaps_of(name: str) -> dict[str, float]:
    """What one part of `compiled_runs` found."""
    run = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-W", "ignore", "-m", "tests.hooked.compiled_runs", name],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def assert_small(gaps: dict[str, float], at_least: int) -> None:
    """Every comparison that was made agrees, and none is missing."""
    assert len(gaps) >= at_least
    assert {label: gap for label, gap in gaps.items() if not gap <= FLOAT32_TOL} == {}


@pytest.mark.slow
def test_hooks_that_come_change_and_go_after_compilation_act_as_without_it():
    gaps = gaps_of("plain")
    assert gaps.pop("graphs") == 1
    effects = {label: gaps.pop(label) for label in list(gaps) if label.startswith("effect")}
    assert len(effects) == 5
    assert all(effect > VISIBLE_CHANGE for effect in effects.values())
    assert_small(gaps, 9)


@pytest.mark.slow
def test_hooks_before_compilation_caches_and_single_blocks():
    gaps = gaps_of("hooked_first")
    assert gaps.pop("effect") > VISIBLE_CHANGE
    assert_small(gaps, 50)


@pytest.mark.slow
def test_compiled_gradients_with_hooks_of_both_directions_and_checkpointing():
    assert_small(gaps_of("gradients"), 80)
