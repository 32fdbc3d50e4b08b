"""Two processes train what one trains, on images, and go on with what it has begun, on coordinates."""

import pytest

from residual_lens.interventions import ResiDual
from residual_lens.training import LiveSamples, cache_samples, train_adapter
from tests.interventions.tiny_bases import bases_for, wrapped
from tests.tolerances import FLOAT32_TOL, assert_close
from tests.training.toy import interrupted_after_an_epoch, toy_classifier, toy_split


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(tmp_path):
    hvit = wrapped("ViT-B-16")
    # 25 in batches of 12: the last step has one sample, for one of the two.
    splits = {name: toy_split(hvit, n, seed=n) for name, n in (("train", 25), ("validation", 31))}
    samples = {name: LiveSamples(*split) for name, split in splits.items()}
    found = []
    for devices in (1, 2):
        adapter = ResiDual.from_bases(bases_for(hvit), scales="ones", keep_mean=True)
        log = train_adapter(
            adapter,
            hvit,
            toy_classifier(hvit),
            **samples,
            path="stream",
            learning_rate=0.05,
            batch_size=12,
            max_epochs=2,
            devices=devices,
            folder=tmp_path / str(devices),
        )
        found.append((adapter.scales, log))
    (one, one_log), (two, two_log) = found
    assert_close(two, one, 10 * FLOAT32_TOL)
    assert two_log.validation_accuracy == one_log.validation_accuracy
    assert two_log.train_loss == pytest.approx(one_log.train_loss, rel=10 * FLOAT32_TOL)
    assert (two_log.steps, two_log.best_epoch) == (one_log.steps, one_log.best_epoch)


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_has_begun(tmp_path, monkeypatch):
    hvit = wrapped("ViT-B-16")
    splits = {name: cache_samples(hvit, *toy_split(hvit, n, seed=n)) for name, n in (("train", 25), ("validation", 31))}
    options = {"learning_rate": 0.05, "batch_size": 12, "max_epochs": 2, **splits}
    expected, adapter = (ResiDual.from_bases(bases_for(hvit), scales="ones", keep_mean=True) for _ in range(2))
    log = train_adapter(expected, hvit, toy_classifier(hvit), **options)
    with interrupted_after_an_epoch(monkeypatch):
        train_adapter(adapter, hvit, toy_classifier(hvit), folder=tmp_path, **options)
    resumed = train_adapter(adapter, hvit, toy_classifier(hvit), folder=tmp_path, devices=2, **options)
    assert (resumed.epochs, resumed.steps, resumed.best_epoch) == (log.epochs, log.steps, log.best_epoch)
    assert resumed.validation_accuracy == log.validation_accuracy
    assert resumed.train_loss == pytest.approx(log.train_loss, rel=10 * FLOAT32_TOL)
    assert_close(adapter.scales, expected.scales, 10 * FLOAT32_TOL)
