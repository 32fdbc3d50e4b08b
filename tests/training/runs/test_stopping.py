"""A run that was stopped, in whatever way, goes on; what another one has begun is told apart."""

import os
import shutil
import signal
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residual_lens.errors import MismatchError
from residual_lens.training.fitting.callbacks import EachEpoch
from residual_lens.training.methods import load_adapter
from residual_lens.training.runs import run, run_folder, running
from tests.training.runs.places import resources


class Stopped(BaseException):
    pass


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_result(stores, tmp_path, clip, residual):
    out, whole = residual
    folder = run_folder(whole.config, tmp_path)
    written = EachEpoch.on_train_epoch_end

    def killed(self, trainer, module):
        written(self, trainer, module)
        if len(module.progress.losses) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        # What other threads there are hold no lock that the child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        EachEpoch.on_train_epoch_end = killed
        try:
            run(whole.config, tmp_path, resources(stores))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len((folder / "metrics.csv").read_text().splitlines()) == 4
    assert not (folder / "result.json").exists()
    assert not (folder / "adapter").exists()
    resumed = run(whole.config, tmp_path, resources(stores))
    assert replace(resumed, seconds=0.0) == replace(whole, seconds=0.0)
    adapters = [load_adapter(each / "adapter", clip) for each in (folder, run_folder(whole.config, out))]
    assert torch.equal(*(adapter.scales for adapter in adapters))


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["_Run.trained", "model_card", "RunResult.save"])
def test_a_run_that_stopped_anywhere_is_finished_by_the_next(stores, tmp_path, monkeypatch, stop, residual):
    def stopped(*given, **options):
        raise Stopped

    with monkeypatch.context() as patched:
        owner, _, name = stop.rpartition(".")
        patched.setattr(getattr(running, owner) if owner else running, name, stopped)
        with pytest.raises(Stopped):
            run(residual[1].config, tmp_path, resources(stores))
    result = run(residual[1].config, tmp_path, resources(stores))
    assert replace(result, seconds=0.0) == replace(residual[1], seconds=0.0)


@pytest.fixture
def checkpoint_of_another(residual, tmp_path):
    """Gives the checkpoint of an unfinished run like `residual`, begun where something was different."""
    folder = run_folder(residual[1].config, tmp_path)
    shutil.copytree(run_folder(residual[1].config, residual[0]), folder)
    (folder / "result.json").unlink()

    def begun(*differing: str) -> Path:
        checkpoint = folder / "checkpoints" / "last.ckpt"
        saved = torch.load(checkpoint, weights_only=True)
        saved["run"] |= dict.fromkeys(differing, "0" * 64)
        torch.save(saved, checkpoint)
        return checkpoint

    return begun


def test_a_checkpoint_of_other_bases_is_left_behind_with_a_warning(
    stores, tmp_path, residual, checkpoint_of_another, caplog
):
    differing = ("adapter's fixed values", "start", "train samples", "validation samples", "classifier")
    cached = checkpoint_of_another(*differing).parents[1] / "coordinates"
    cached.mkdir()
    result = run(residual[1].config, tmp_path, resources(stores))
    assert "is of another run" in caplog.text
    assert "training starts anew" in caplog.text
    assert not cached.exists()
    assert replace(result, seconds=0.0) == replace(residual[1], seconds=0.0)


def test_a_checkpoint_of_something_else_is_kept_and_refused(stores, tmp_path, residual, checkpoint_of_another):
    checkpoint = checkpoint_of_another("adapter's fixed values", "learning_rate")
    before = checkpoint.read_bytes()
    with pytest.raises(MismatchError, match="is of another run"):
        run(residual[1].config, tmp_path, resources(stores))
    assert checkpoint.read_bytes() == before


def test_of_several_processes_the_first_alone_deletes(stores, tmp_path, residual, checkpoint_of_another, monkeypatch):
    checkpoint = checkpoint_of_another("adapter's fixed values")
    cached = checkpoint.parents[1] / "coordinates"
    cached.mkdir()
    before = checkpoint.read_bytes()
    monkeypatch.setattr(running, "claimed", lambda *given: nullcontext(False))
    result = run(residual[1].config, tmp_path, resources(stores))
    assert replace(result, seconds=0.0) == replace(residual[1], seconds=0.0)
    assert (checkpoint.read_bytes() == before, cached.exists()) == (True, True)
