"""What Lightning does for us: the arithmetic of a plain loop, a found rate, a place where a loss fails, silence."""

import logging
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.nn.functional import cross_entropy

from residual_lens.errors import InputError, ResidualLensError
from residual_lens.interventions import ResiDual
from residual_lens.training import Coarse, LiveSamples, TrainingLog, cache_samples, train_adapter
from residual_lens.training.cached import Coordinates, coordinates
from residual_lens.training.fitting.fit import mean_loss
from residual_lens.training.fitting.settings import Job, Settings
from residual_lens.training.methods import LinearProbe
from residual_lens.training.splits.sampler import Order
from tests.interventions.tiny_bases import bases_for, hooks_in_force
from tests.reference.training_loop import trained_scales
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_close
from tests.training.toy import ScriptedValidation, toy_classifier, toy_split


def residual_for(hvit) -> ResiDual:
    return ResiDual.from_bases(bases_for(hvit), variant="residual*", scales="ones", explained_variance=0.5)


def coordinates_for(hvit, adapter, n: int) -> Coordinates:
    return coordinates(adapter, cache_samples(hvit, *toy_split(hvit, n, seed=n)), dtype=torch.float64)


def fitted(adapter, hvit, train, validation=None, **options) -> TrainingLog:
    """The toy task, validated on its training samples unless told otherwise."""
    validation = train if validation is None else validation
    return train_adapter(adapter, hvit, toy_classifier(hvit), train=train, validation=validation, **options)


@pytest.mark.parametrize("l1", [0.0, 0.3])
def test_two_epochs_are_those_of_the_plain_loop(hvit, l1):
    adapter, classifier = residual_for(hvit).double(), toy_classifier(hvit)
    train = coordinates_for(hvit, adapter, 13)
    options = {"learning_rate": 0.05, "max_epochs": 2, "batch_size": 5, "seed": 3, "l1": l1}
    # Whatever comes later is better: the last weights are kept.
    validation = ScriptedValidation(classifier, [0.1, 0.2, 0.3])
    batches = []
    for epoch in range(2):
        order = Order(13, 5, seed=3)
        order.set_epoch(epoch)
        batches += [batch.rows for block in order for batch in block]
    assert sorted(torch.cat(batches[:3]).tolist()) == list(range(13))
    assert torch.cat(batches[:3]).tolist() != torch.cat(batches[3:]).tolist()
    log = fitted(adapter, hvit, train, validation, **options)
    assert (log.epochs, log.best_epoch, log.steps) == (2, 2, 6)
    twin = trained_scales(
        train.base,
        train.values,
        train.directions,
        classifier.weights,
        train.labels,
        logit_scale=classifier.logit_scale,
        batches=batches,
        learning_rate=0.05,
        l1=l1,
    )
    assert_close(adapter.scales[train.index], twin, 1e3 * FLOAT64_TOL)


def test_a_penalty_makes_scales_smaller(hvit):
    sums = []
    for l1 in (0.0, 10.0):
        adapter = residual_for(hvit)
        train = coordinates_for(hvit, adapter, 30)
        rising = ScriptedValidation(toy_classifier(hvit), [0.1, 0.2, 0.3, 0.4])
        fitted(adapter, hvit, train, rising, max_epochs=3, learning_rate=0.02, l1=l1)
        sums.append(adapter.scales.abs().sum())
    assert sums[1] < 0.97 * sums[0]


@pytest.mark.slow
def test_a_found_rate_is_the_seeds_and_the_weights_are_as_they_were(hvit, monkeypatch):
    live = [LiveSamples(*toy_split(hvit, n, seed=n)) for n in (24, 12)]
    cached = [cache_samples(hvit, samples.images, samples.labels) for samples in live]
    found = []
    for samples, seed in ((cached, 0), (cached, 0), (cached, 1), (live, 0)):
        options = {"seed": seed, "batch_size": 12, "max_epochs": 1}
        adapter, plain = Coarse(3, 3), Coarse(3, 3)
        log = fitted(adapter, hvit, *samples, **options, find_learning_rate=True)
        again = fitted(plain, hvit, *samples, **options, learning_rate=log.learning_rate)
        assert torch.equal(adapter.scales, plain.scales)
        assert again.train_loss == log.train_loss
        found.append(log.learning_rate)
    assert found[0] == found[1] != found[2]
    assert found[3] == pytest.approx(found[0], rel=1e-3)
    # A rate that trains: neither lost in the noise of the lowest nor beyond where the loss grows.
    assert 0.01 < found[0] < 5
    assert hooks_in_force(hvit) == 0


@pytest.mark.parametrize(
    ("failing", "place"),
    [("train", "at step 1 of epoch 1"), ("validation", "no finite length or logits before training")],
)
def test_the_error_names_the_unit_whose_coordinates_fail(hvit, failing, place):
    adapter = residual_for(hvit)
    splits = {name: coordinates_for(hvit, adapter, 12) for name in ("train", "validation")}
    first = adapter.config.counts[0]
    splits[failing].values[:, splits[failing].index == first] = float("inf")
    expected = rf"{place}: 1 coordinates times their scales.*the first, of {adapter.config.units[1]}\."
    with pytest.raises(ResidualLensError, match=expected):
        fitted(adapter, hvit, **splits)


def test_the_error_names_the_scale_that_fails_and_no_unit_without_scales(hvit):
    bases = bases_for(hvit)
    names = tuple(bases.by_unit)
    constant = replace(bases[names[1]], total_variance=0.0)
    bases = replace(bases, by_unit={**bases.by_unit, names[1]: constant})
    adapter = ResiDual.from_bases(bases, variant="residual*", scales="ones")
    train = coordinates_for(hvit, adapter, 12)
    assert adapter.config.counts[1] == 0
    place = adapter.config.counts[0]
    with torch.no_grad():
        adapter.scales[place:] = float("nan")
    expected = rf"numbers in scales are not finite, the first is {place}, of {names[2]}\."
    with pytest.raises(ResidualLensError, match=expected):
        fitted(adapter, hvit, train)


def test_processes_train_at_the_rate_of_the_first(hvit, monkeypatch):
    samples = cache_samples(hvit, *toy_split(hvit, 12, seed=1))
    expected, adapter = Coarse(3, 3), Coarse(3, 3)
    fitted(expected, hvit, samples, learning_rate=0.25, max_epochs=1)
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", lambda _, x, src=0: 0.25 if isinstance(x, float) else x)
    assert fitted(adapter, hvit, samples, max_epochs=1).learning_rate == 0.25
    assert torch.equal(adapter.scales, expected.scales)


@pytest.mark.parametrize(("layer", "head"), [(0, 2), (2, 1)])
def test_the_error_names_the_first_unit_in_the_stream(hvit, layer, head):
    train = LiveSamples(*toy_split(hvit, 6, seed=1))

    def fail(values, hook):
        values = values.clone()
        values[..., head, :] = float("inf")
        return values

    with (
        hvit.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", fail)]),
        pytest.raises(ResidualLensError, match=f"L{layer}H{head} is the first unit in the stream"),
    ):
        fitted(Coarse(3, 3), hvit, train)


def test_nothing_of_the_process_is_changed(hvit, capfd, tmp_path):
    samples = cache_samples(hvit, *toy_split(hvit, 12, seed=1))

    def state():
        levels = {name: logging.getLogger(name).level for name in ("lightning", "lightning.pytorch")}
        return torch.get_rng_state().tolist(), levels, dict(os.environ), list(warnings.filters), torch.is_grad_enabled()

    fitted(Coarse(3, 3), hvit, samples, max_epochs=1)
    capfd.readouterr()
    with torch.no_grad():
        before = state()
        for options in ({}, {"find_learning_rate": True}, {"folder": str(tmp_path)}):
            fitted(Coarse(3, 3), hvit, samples, max_epochs=1, **options)
        assert state() == before
    assert capfd.readouterr() == ("", "")


def test_a_logger_that_is_not_there_is_refused(hvit, tmp_path):
    samples = cache_samples(hvit, *toy_split(hvit, 12, seed=1))
    with pytest.raises(InputError, match="logger is 'csv', 'tensorboard' or 'wandb', got 'comet'"):
        fitted(Coarse(3, 3), hvit, samples, logger="comet", folder=tmp_path)
    with pytest.raises(InputError, match="writes into a folder: pass folder="):
        fitted(Coarse(3, 3), hvit, samples, logger="wandb")


def test_mixed_precision_trains_parameters_that_stay_float32(hvit):
    samples = cache_samples(hvit, *toy_split(hvit, 30, seed=1))
    scales = []
    for precision in ("32-true", "bf16-mixed"):
        adapter = Coarse(3, 3)
        rising = ScriptedValidation(toy_classifier(hvit), [0.1, 0.2, 0.3])
        fitted(adapter, hvit, samples, rising, precision=precision, max_epochs=2, learning_rate=0.05)
        assert adapter.scales.dtype == torch.float32
        scales.append(adapter.scales.detach())
    assert not torch.equal(*scales)


@pytest.mark.parametrize(("rate", "diverges"), [(1e30, True), (1e-9, False)])
def test_training_that_makes_it_worse_is_said_to_have_diverged(hvit, caplog, rate, diverges):
    samples, probe = cache_samples(hvit, *toy_split(hvit, 30, seed=1)), LinearProbe(toy_classifier(hvit))
    falling = ScriptedValidation(toy_classifier(hvit), [0.5, 0.4, 0.3])
    assert fitted(probe, hvit, samples, falling, max_epochs=2, learning_rate=rate).best_epoch == 0
    assert ("Training diverged" in caplog.text) == diverges
    if diverges:
        assert "in epoch 2, and no epoch did better on validation" in caplog.text
        assert "lower learning_rate (it is 1e+30)" in caplog.text


@pytest.mark.parametrize("path", ["direct", "stream"])
def test_the_loss_that_a_run_is_compared_with_is_the_starts(hvit, path):
    images, labels = toy_split(hvit, 9, seed=1)
    adapter, classifier = residual_for(hvit), toy_classifier(hvit)
    live = LiveSamples(images, labels)
    settings = Settings(path, 0.1, False, 1, 1, 4, 0, 0.0, "32-true", 1, 1)
    with torch.no_grad(), adapter.attached(hvit, path):
        expected = cross_entropy(classifier.logits(hvit(images)), labels)
    found = [mean_loss(Job(adapter, hvit, classifier, {"train": live}, settings), "train")]
    if path == "direct":
        split = coordinates(adapter, cache_samples(hvit, images, labels))
        found.append(mean_loss(Job(adapter, hvit, classifier, {"train": split}, settings), "train"))
    assert found == pytest.approx([expected.item()] * len(found), rel=10 * FLOAT32_TOL)
    assert hooks_in_force(hvit) == 0


@pytest.mark.slow
def test_lightning_is_loaded_by_training_only():
    code = "import sys, residual_lens.training.fitting.checkpoints; print('lightning' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    assert found.stdout == "False\n"


def test_processes_share_every_batch():
    shares = [
        [batch for block in Order(11, 4, block=2, seed=1, rank=rank, world=3) for batch in block] for rank in range(3)
    ]
    whole = [batch for block in Order(11, 4, seed=1) for batch in block]
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        rows = torch.cat([part.rows[: part.share] for part in parts])
        assert sorted(rows.tolist()) == sorted(batch.rows.tolist())
        assert {part.size for part in parts} == {len(batch.rows)}
        assert min(len(part.rows) for part in parts) >= 1
