"""λ seen from any basis is what the run multiplies its components with, and its energy is what `explain` says."""

from dataclasses import replace

import pytest
import torch

from residual_lens.atlas.learned import LearnedRun
from residual_lens.errors import InputError, MismatchError
from residual_lens.explain import explain
from residual_lens.interventions import ResiDual
from residual_lens.interventions.adapter import Origin
from residual_lens.training import cache_samples
from residual_lens.training.runs import RunConfig
from tests.atlas.runs import edited, finished, trained
from tests.interventions.tiny_bases import bases_for, wrapped
from tests.tiny_models import tiny_images
from tests.tolerances import FLOAT32_TOL, assert_close
from tests.training.toy import toy_classifier

CONFIG = RunConfig("tiny", "digits", "residual", seed=3)


@pytest.fixture(scope="module")
def hvit():
    return wrapped()


@pytest.fixture(scope="module")
def bases(hvit):
    return bases_for(hvit)


def run_of(bases, hvit, folder, *, variant: str = "residual", scales: str = "randn", **settings) -> LearnedRun:
    residual = trained(ResiDual.from_bases(bases, variant=variant, scales=scales, seed=CONFIG.seed, **settings))
    config = replace(CONFIG, method=variant, scales=scales)
    return LearnedRun.load(finished(residual, folder / "run", config), Origin.of_model(hvit))


@pytest.mark.parametrize("scales", ["randn", "ones"])
def test_from_its_own_bases_lambda_is_lambda(hvit, bases, tmp_path, scales):
    run = run_of(bases, hvit, tmp_path, scales=scales)
    found = run.seen_from(bases)
    start = ResiDual.from_bases(bases, scales=scales, seed=CONFIG.seed)
    assert list(found.after) == list(found.before) == list(bases)
    for unit in bases:
        n = len(run.residual.scales_of(unit))
        assert_close(found.after[unit][:n], run.residual.scales_of(unit).double(), FLOAT32_TOL)
        assert_close(found.before[unit][:n], start.scales_of(unit).double(), FLOAT32_TOL)
        # What lies beyond passes.
        assert found.after[unit][n:].tolist() == pytest.approx([1.0] * (len(bases[unit].components) - n), rel=1e-5)


@pytest.mark.parametrize("variant", ["residual", "residual*"])
def test_from_other_bases_it_is_what_the_run_makes_of_each_component(hvit, bases, tmp_path, variant):
    run = run_of(bases, hvit, tmp_path, variant=variant, keep_mean=True)
    others = bases_for(hvit, n_images=25)
    found = run.seen_from(others)
    kept = [unit for unit in others if variant == "residual" or unit.startswith("L")]
    assert list(found.after) == kept
    for unit in kept:
        # The edit is affine: its linear part is the difference from what it makes of nothing.
        nothing = edited(run.residual, hvit, unit, torch.zeros(20))
        gains = [float((edited(run.residual, hvit, unit, psi) - nothing) @ psi) for psi in others[unit].components]
        assert_close(found.after[unit], torch.tensor(gains).double(), 10 * FLOAT32_TOL)


def test_energy_is_the_change_that_explain_reports(hvit, bases, tmp_path):
    images = tiny_images(hvit.source, 40, seed=5)
    run = run_of(bases, hvit, tmp_path)
    # On the samples that the bases are of; variances there are over one less.
    samples = cache_samples(hvit, images, torch.arange(40) % 3)
    explained = explain(run.residual, samples, toy_classifier(hvit), None, data="toy")
    found = run.changes(bases)
    assert found == pytest.approx({unit.unit: unit.change for unit in explained.units}, rel=1e-4)
    assert sum(found.values()) == pytest.approx(1)


def test_where_nothing_is_learned_nothing_changes(hvit, bases, tmp_path):
    residual = ResiDual.from_bases(bases, scales="ones")
    folder = finished(residual, tmp_path / "run", replace(CONFIG, scales="ones"))
    assert LearnedRun.load(folder, Origin.of_model(hvit)).changes(bases) == {}


def test_a_start_that_depends_on_the_spectrum_is_not_known(hvit, bases, tmp_path):
    found = run_of(bases, hvit, tmp_path, scales="spectrum").seen_from(bases)
    assert len(found.after) == len(bases)
    assert found.before == {}


def test_other_runs_are_refused(hvit, bases, tmp_path):
    residual = ResiDual.from_bases(bases)
    with pytest.raises(InputError, match=r"There is no .*config\.json"):
        LearnedRun.load(tmp_path, Origin.of_model(hvit))
    stream = finished(residual, tmp_path / "stream", replace(CONFIG, method="residual-stream"))
    with pytest.raises(InputError, match=r"run of residual-stream; only those of residual and residual\*"):
        LearnedRun.load(stream, Origin.of_model(hvit))
    other = finished(residual, tmp_path / "other", CONFIG)
    with pytest.raises(MismatchError, match=r"with other weights"):
        LearnedRun.load(other, Origin.of_model(wrapped(seed=1)))
