"""What cannot be done is refused before anything is encoded, and leaves nothing behind."""

import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import loggers

from residual_lens.activations import Store, encode
from residual_lens.activations.writer import alone_with
from residual_lens.bases import fit_bases
from residual_lens.data.images import open_images
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked.vit import HookedViT
from residual_lens.training.fitting import trainer
from residual_lens.training.fitting.checks import check_device
from residual_lens.training.runs import run, run_folder, running
from residual_lens.training.runs.stores import store_path
from tests.training.runs.places import digits, resources


def test_the_folder_of_another_run_is_refused_with_what_differs(residual, tmp_path):
    out, result = residual
    folder = run_folder(replace(result.config, seed=1), tmp_path)
    shutil.copytree(run_folder(result.config, out), folder)
    with pytest.raises(InputError, match=r"the folder of another run: seed was 0, is 1\. Give another --out"):
        run(replace(result.config, seed=1), tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json is not JSON"):
        run(replace(result.config, seed=1), tmp_path)


def test_two_processes_do_not_work_in_one_folder(tmp_path, stores):
    config = digits("zero-shot")
    folder = run_folder(config, tmp_path)
    with alone_with(folder), pytest.raises(InputError, match="Another process is at work"):
        run(config, tmp_path, resources(stores))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (digits("residuals"), InputError, r"Unknown method 'residuals'\. Did you mean residual,"),
        (
            replace(digits("residual"), model="attribute-clap"),
            InputError,
            "'attribute-clap'. Close ones: attribute-clip",
        ),
        (replace(digits("residual"), data="digitz"), InputError, r"got data set 'digitz', .*Did you mean digits\?"),
        (digits("residual", bases="nowhere.h5"), InputError, "There are no bases 'nowhere.h5'"),
        (digits("residual", units=("L9",)), InputError, "L9"),
        (digits("residual*", units=("mlps",)), InputError, r"residual\* rescales units of kind head, got .*'mlps'"),
        (digits("residual", units=("embed",)), InputError, "rescales units of kind head and mlp, got .*'embed'"),
        (digits("residual", units=("heads", "bias")), InputError, "'bias' is what no unit writes"),
        (digits("linear", l1=0.1, rank=4), InputError, "got rank=4, l1=0.1, which linear has no use for"),
        (digits("lora", bases="own.h5"), InputError, "got bases='own.h5', which lora has no use for"),
        (
            digits("spectral-output", explained_variance=0.5),
            InputError,
            "explained_variance=0.5, which spectral",
        ),
        (
            digits("zero-shot", learning_rate=0.1, augment=True),
            InputError,
            "got learning_rate=0.1, augment=True,",
        ),
        (digits("coarse", precision="16-mixed"), InputError, "needs an accelerator"),
    ],
)
def test_bad_input_is_refused_before_anything_is_encoded(tmp_path, config, error, message):
    with pytest.raises(error, match=message):
        run(config, tmp_path / "runs", resources(tmp_path / "stores"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_here_is_refused_before_anything_is_read(tmp_path, monkeypatch, device):
    monkeypatch.setattr(running, "open_splits", None)
    with pytest.raises(InputError, match=f"got device '{device}', expected one that is here: cpu"):
        run(digits("coarse"), tmp_path / "runs", replace(resources(tmp_path / "stores"), device=device))
    assert list(tmp_path.iterdir()) == []


def test_what_fails_before_it_has_written_leaves_nothing_and_lets_go_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "open_splits", lambda *_: (_ for _ in ()).throw(OSError("no such disk")))
    for _ in range(2):
        with pytest.raises(OSError, match="no such disk"):
            run(digits("coarse"), tmp_path / "a" / "runs", resources(tmp_path / "stores"))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", ["classifier_of", "bases_of", "coordinates"])
def test_what_is_refused_before_training_leaves_no_folder(stores, tmp_path, monkeypatch, stop):
    def refused(*given, file=None, **options):
        if file is not None:
            file.parent.mkdir(parents=True)
        raise InputError("no such thing")

    monkeypatch.setattr(running, stop, refused)
    monkeypatch.setattr(running, "IN_MEMORY", 0)
    with pytest.raises(InputError, match="no such thing"):
        run(digits("residual"), tmp_path / "runs", resources(stores))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_was_writing_is_cleared_away(stores, tmp_path):
    config = digits("zero-shot")
    folder = run_folder(config, tmp_path)
    left = [folder / "adapter" / "model.safetensors.12.partial", folder / "config.json.3.partial"]
    left[0].parent.mkdir(parents=True)
    for path in left:
        path.write_bytes(b"half")
    run(config, tmp_path, resources(stores))
    assert not list(folder.rglob("*.partial"))
    assert not [path for path in stores.iterdir() if path.suffix != ".h5"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_that_cannot_be_used_is_refused_before_anything_is_encoded(tmp_path, monkeypatch, name):
    asked = []

    def unusable(*given):
        asked.append(given)
        raise InputError("no such logger")

    monkeypatch.setattr(trainer, "logger_named", unusable)
    config = digits("coarse")
    with pytest.raises(InputError, match="no such logger"):
        run(config, tmp_path, replace(resources(tmp_path / "stores"), logger=name))
    assert asked == [(name, run_folder(config, tmp_path))]
    assert not (tmp_path / "stores").exists()


def test_wandb_without_a_key_is_refused(tmp_path, monkeypatch):
    class UnknownError(Exception):
        pass

    def login():
        raise UnknownError("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=login))
    monkeypatch.setitem(sys.modules, "wandb.errors", SimpleNamespace(Error=UnknownError))
    monkeypatch.setattr(loggers, "WandbLogger", lambda **options: None)
    with pytest.raises(InputError, match=r"cannot log in: No API key configured\. Or set WANDB_MODE=offline"):
        trainer.logger_named("wandb", tmp_path)


def test_more_devices_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device(torch.device("cuda"), precision="16-mixed", devices=2)
    check_device(torch.device("cpu"), precision="32-true", devices=3)
    with pytest.raises(InputError, match="devices=3 are more than the 2 of cuda here"):
        check_device(torch.device("cuda"), precision="32-true", devices=3)


def test_stores_and_bases_of_another_model_are_refused(clip, stores, tmp_path, residual):
    other = HookedViT.from_pretrained("attribute-clip", center="uniform")
    own = store_path(residual[1].config, resources(stores), open_images("digits"), "train")
    encode(other, open_images("digits", limit=20, image_size=32), tmp_path / "other.h5").close()
    with pytest.raises(MismatchError, match="center is uniform, not own"):
        run(digits("residual", bases=str(tmp_path / "other.h5")), tmp_path, resources(stores))
    with Store(own) as store:
        replace(fit_bases(store), fingerprint="0" * 64).save(tmp_path / "bases.h5")
    with pytest.raises(MismatchError, match="fitted on attribute-clip with other weights"):
        run(digits("residual", bases=str(tmp_path / "bases.h5")), tmp_path, resources(stores))
