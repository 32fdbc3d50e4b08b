"""An interrupted run goes on as if nothing had happened, and never goes on with another run's state."""

import csv
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residual_lens.errors import InputError, MismatchError
from residual_lens.interventions import ResiDual
from residual_lens.text import ZeroShotClassifier
from residual_lens.training import Coarse, LiveSamples, cache_samples, train_adapter
from residual_lens.training.fitting.callbacks import EachEpoch
from residual_lens.training.fitting.checkpoints import LAST, METRICS
from residual_lens.training.fitting.identity import identity
from residual_lens.training.fitting.settings import Job, Settings
from tests.interventions.tiny_bases import bases_for
from tests.training.toy import toy_classifier, toy_split

EPOCHS = 3


class Run:
    """One call with the same arguments each time, but for what a test changes."""

    def __init__(self, hvit, **changed) -> None:
        train, validation = (cache_samples(hvit, *toy_split(hvit, n, seed=n)) for n in (60, 30))
        self.hvit = hvit
        self.given = {"train": train, "validation": validation, "classifier": toy_classifier(hvit)}
        self.given |= {"learning_rate": 0.1, "batch_size": 20, "max_epochs": EPOCHS, "patience": EPOCHS} | changed

    def __call__(self, folder: Path | None, adapter=None, **changed):
        adapter = adapter or ResiDual.from_bases(bases_for(self.hvit))
        log = train_adapter(adapter, self.hvit, folder=folder, **self.given | changed)
        return adapter.scales.detach(), log


@pytest.fixture
def run(hvit) -> Run:
    return Run(hvit)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS).open() as file:
        return list(csv.DictReader(file))


def assert_whole(folder: Path, log) -> None:
    """One row an epoch, with the log's numbers."""
    found = rows(folder)
    assert [row["epoch"] for row in found] == [str(epoch) for epoch in range(log.epochs + 1)]
    assert [float(row["validation_accuracy"]) for row in found] == list(log.validation_accuracy)
    assert [row["train_loss"] for row in found] == ["", *map(str, log.train_loss)]
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds)
    assert log.seconds == seconds[-1] > 0


def same(ours, theirs) -> bool:
    names = ("validation_accuracy", "train_loss", "best_epoch", "learning_rate", "epochs", "steps")
    return all(getattr(ours, name) == getattr(theirs, name) for name in names)


@pytest.mark.parametrize("moment", ["before the checkpoint", "after it"])
@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_interrupted_at_any_epoch_and_called_again_gives_the_same_bits(run, tmp_path, monkeypatch, epoch, moment):
    expected, expected_log = run(None)
    written = EachEpoch.on_train_epoch_end

    def interrupted(self, trainer, module):
        if moment == "after it":
            written(self, trainer, module)
        if len(module.progress.losses) == epoch:
            raise KeyboardInterrupt
        if moment != "after it":
            written(self, trainer, module)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(EachEpoch, "on_train_epoch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    scales, log = run(tmp_path)
    assert torch.equal(scales, expected)
    assert same(log, expected_log)
    assert_whole(tmp_path, log)


def killed_in_the_middle(run: Run, folder: Path, epoch: int) -> None:
    """A process that is killed while it writes its checkpoint of an epoch."""
    torch.set_num_threads(1)
    saved = torch.save
    calls = []

    def half(state, file):
        calls.append(None)
        if len(calls) < epoch:
            return saved(state, file)
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half
    run(folder)


@pytest.mark.parametrize("epoch", [1, 3])
def test_killed_in_the_middle_of_a_write(run, tmp_path, epoch):
    expected, expected_log = run(None)
    process = multiprocessing.get_context("fork").Process(target=killed_in_the_middle, args=(run, tmp_path, epoch))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / LAST).exists() == (epoch > 1)
    scales, log = run(tmp_path)
    assert torch.equal(scales, expected)
    assert same(log, expected_log)
    assert_whole(tmp_path, log)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted([LAST.name, METRICS])


@pytest.mark.parametrize("stopped_early", [False, True])
def test_a_finished_run_is_not_trained_again(hvit, tmp_path, monkeypatch, stopped_early):
    run = Run(hvit, patience=1, learning_rate=1e-9) if stopped_early else Run(hvit)
    expected, first = run(tmp_path)
    assert first.epochs == (1 if stopped_early else EPOCHS)
    before = (tmp_path / LAST).stat().st_mtime_ns
    scales, log = run(tmp_path)
    assert torch.equal(scales, expected)
    assert log == first
    assert (tmp_path / LAST).stat().st_mtime_ns == before


def test_checkpoints_hold_the_averaged_weights_of_eval_mode(run, tmp_path):
    expected, log = run(tmp_path, max_epochs=1)
    saved = torch.load(tmp_path / LAST, weights_only=True)
    assert not saved["optimizer_states"][0]["param_groups"][0]["train_mode"]
    if log.best_epoch == 1:
        assert torch.equal(saved["state_dict"]["trained.0"], expected)


@pytest.mark.parametrize("moment", ["before the checkpoint", "after it"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_an_adapter_that_an_interrupted_call_has_left_goes_on(hvit, tmp_path, monkeypatch, epoch, moment):
    # At this rate each epoch is better than the one before.
    run = Run(hvit, learning_rate=0.2)
    expected, _ = run(None)
    written = EachEpoch.on_train_epoch_end

    def interrupted(self, trainer, module):
        if moment == "after it" or len(module.progress.losses) < epoch:
            written(self, trainer, module)
        if len(module.progress.losses) == epoch:
            assert module.progress.best_epoch == epoch
            raise KeyboardInterrupt

    adapter = ResiDual.from_bases(bases_for(run.hvit))
    with monkeypatch.context() as patched:
        patched.setattr(EachEpoch, "on_train_epoch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, adapter)
    assert torch.equal(run(tmp_path, adapter)[0], expected)


@pytest.mark.parametrize("processes", [{"devices": 2}, {"num_nodes": 3}])
def test_processes_are_not_part_of_the_run(run, processes):
    settings = Settings(
        path="direct",
        learning_rate=0.1,
        find_learning_rate=False,
        max_epochs=1,
        patience=1,
        batch_size=20,
        seed=0,
        l1=0.0,
        precision="32-true",
        devices=1,
        num_nodes=1,
    )
    one = Job(Coarse(3, 3), run.hvit, run.given["classifier"], {}, settings)
    assert identity(replace(one, settings=replace(settings, **processes))) == identity(one)


def other_labels(samples):
    return type(samples)(samples.decomposition, samples.labels.roll(1))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("batch_size is 20 there and 10 here", lambda run: {"batch_size": 10}),
        ("learning_rate is 0.1 there and 0.2 here", lambda run: {"learning_rate": 0.2}),
        ("seed is 0 there and 1 here", lambda run: {"seed": 1}),
        ("l1 is 0.0 there and 0.5 here", lambda run: {"l1": 0.5}),
        ("max_epochs is 3 there and 4 here", lambda run: {"max_epochs": 4}),
        ("train samples is", lambda run: {"train": other_labels(run.given["train"])}),
        ("validation samples is", lambda run: {"validation": other_labels(run.given["validation"])}),
        ("classifier is", lambda run: {"classifier": toy_classifier(run.hvit, seed=1)}),
        ("start is", lambda run: {"adapter": ResiDual.from_bases(bases_for(run.hvit), seed=1)}),
        ("adapter is ResiDual", lambda run: {"adapter": Coarse(3, 3)}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(run, tmp_path, field, change):
    run(tmp_path, max_epochs=EPOCHS)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(MismatchError, match=f"is of another run: {field}"):
        run(tmp_path, **change(run))
    assert (tmp_path / LAST).read_bytes() == before


def test_a_checkpoint_of_other_weights_of_the_model_is_refused(hvit, tmp_path):
    samples = LiveSamples(*toy_split(hvit, 6, seed=1))
    options = {"train": samples, "validation": samples, "folder": tmp_path, "max_epochs": 1}
    train_adapter(Coarse(3, 3), hvit, toy_classifier(hvit), **options)
    with torch.no_grad():
        hvit.source.conv1.weight.mul_(1.5)
    with pytest.raises(MismatchError, match="is of another run: model is"):
        train_adapter(Coarse(3, 3), hvit, toy_classifier(hvit), **options)


def test_a_damaged_checkpoint_is_refused(run, tmp_path):
    run(tmp_path, max_epochs=1)
    path = tmp_path / LAST
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"last\.ckpt is no checkpoint of train_adapter .*delete it to start anew"):
        run(tmp_path, max_epochs=1)


def test_classes_are_part_of_the_run(run, tmp_path):
    run(tmp_path, max_epochs=1)
    classifier = run.given["classifier"]
    renamed = ZeroShotClassifier(classifier.weights, ("x", "y", "z"), classifier.logit_scale)
    with pytest.raises(MismatchError, match="classifier is"):
        run(tmp_path, max_epochs=1, classifier=renamed)
