"""Runs end to end on the shipped model: what comes out, what is kept, what is not done twice, what goes on."""

import json
import os
import shutil
import signal
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
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
from residual_lens.interventions import ResiDual
from residual_lens.text import zero_shot_classifier
from residual_lens.training.cached.coordinates import coordinates, width
from residual_lens.training.fitting import trainer
from residual_lens.training.fitting.checks import check_device
from residual_lens.training.methods import METHODS, Coarse, ZeroShot, load_adapter
from residual_lens.training.runs import RunResult, run, run_folder, running
from residual_lens.training.runs.classifiers import class_means, templates_of
from residual_lens.training.runs.data import few_shot_rows
from residual_lens.training.runs.stores import store_path
from tests.training.methods.test_registry import made
from tests.training.runs.places import LIMIT, digits, resources, write_tree


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def clip() -> HookedViT:
    return HookedViT.from_pretrained("attribute-clip")


def pixels_of(clip: HookedViT, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    images = open_images("digits", split=split, limit=LIMIT, image_size=32)
    return torch.stack([clip.preprocessing(image) for image, _ in images]), torch.from_numpy(images.labels())


@torch.no_grad()
def accuracy_live(clip: HookedViT, split: str, adapter, path: str = "direct") -> float:
    """The accuracy of an adapter in the model's own forward pass."""
    words = open_images("digits").classes
    classifier = zero_shot_classifier(clip.encode_text, words, templates=templates_of("auto", "digits"))
    images, labels = pixels_of(clip, split)
    with adapter.attached(clip, path):
        return classifier.accuracy(clip(images), labels)


@pytest.fixture(scope="module")
def residual(stores, tmp_path_factory) -> tuple[Path, RunResult]:
    """One finished run, and the folder of all."""
    out = tmp_path_factory.mktemp("runs")
    return out, run(digits("residual"), out, resources(stores))


def test_a_run_writes_down_what_it_did(residual):
    out, result = residual
    folder = run_folder(result.config, out)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    adapter = {f"adapter/{name}" for name in ("README.md", "config.json", "model.safetensors")}
    others = {"config.json", "metrics.csv", "checkpoints", "checkpoints/last.ckpt", "adapter", "result.json"}
    assert names == others | adapter
    assert json.loads((folder / "config.json").read_text()) == result.config.to_dict()
    flat = json.loads((folder / "result.json").read_text())
    assert flat == result.to_dict()
    assert not any(isinstance(value, dict) for value in flat.values())
    named = {"model": "attribute-clip", "data": "digits", "method": "residual", "path": "direct", "seed": 0}
    assert named.items() <= flat.items()
    assert (flat["n_train"], flat["n_validation"], flat["n_test"], flat["n_classes"]) == (60, 60, 60, 10)
    assert (flat["learning_rate"], flat["variant"], flat["classifier"]) == (0.8, "residual", "text")
    assert flat["parameters"] == 6 * (6 * 24 + 96)
    assert len((folder / "metrics.csv").read_text().splitlines()) == flat["epochs"] + 2
    assert RunResult.load(folder) == result


def test_the_saved_adapter_reaches_the_same_accuracies_in_the_models_own_forward_pass(clip, residual):
    out, result = residual
    adapter = load_adapter(run_folder(result.config, out) / "adapter", clip)
    assert accuracy_live(clip, "test", adapter) == pytest.approx(result.test_accuracy)
    assert accuracy_live(clip, "validation", adapter) == pytest.approx(result.validation_accuracy)
    assert accuracy_live(clip, "test", ResiDual.from_pretrained(run_folder(result.config, out) / "adapter")) > 0.3


def test_a_finished_run_is_not_repeated(residual, stores, monkeypatch):
    out, result = residual
    monkeypatch.setattr(running, "HookedViT", None)
    assert run(result.config, out, resources(stores)) == result


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


def test_zero_shot_is_the_model_as_it_is(clip, stores, tmp_path):
    result = run(digits("zero-shot"), tmp_path, resources(stores))
    assert (result.parameters, result.epochs, result.seconds, result.learning_rate) == (0, 0, 0.0, None)
    assert result.test_accuracy == pytest.approx(accuracy_live(clip, "test", ZeroShot()))
    assert result.line.endswith("(nothing trained)")


@pytest.mark.slow
def test_stores_are_shared_and_bases_can_come_from_another_store_or_file(clip, residual, stores, tmp_path):
    own = store_path(residual[1].config, resources(stores), open_images("digits"), "train")
    assert own.name == "attribute-clip--digits--train-60-42.h5"
    written = own.stat().st_mtime_ns
    with Store(own) as store:
        bases = fit_bases(store)
    bases.save(tmp_path / "bases.h5")
    by_store, by_file = (
        run(digits("residual", bases=str(path), epochs=1), tmp_path, resources(stores))
        for path in (own, tmp_path / "bases.h5")
    )
    assert own.stat().st_mtime_ns == written
    first = run(digits("residual", epochs=1), tmp_path, resources(stores))
    folders = [run_folder(result.config, tmp_path) / "adapter" for result in (first, by_store, by_file)]
    scales = [load_adapter(folder, clip).scales for folder in folders]
    assert torch.equal(scales[0], scales[1])
    assert torch.equal(scales[0], scales[2])
    result = run(digits("spectral-output", bases=str(own), epochs=1), tmp_path, resources(stores))
    assert result.parameters == 96
    with pytest.raises(InputError, match="spectral-output needs that of whole embeddings: give a store"):
        run(digits("spectral-output", bases=str(tmp_path / "bases.h5")), tmp_path, resources(stores))


def test_few_shots_train_on_so_many_and_leave_other_splits_whole(stores, tmp_path):
    result = run(digits("linear", shots=2, epochs=1), tmp_path, resources(stores))
    assert (result.n_train, result.n_validation, result.n_test) == (20, 60, 60)
    assert ", shots 2" in result.line
    with pytest.raises(InputError, match="shots=7 needs as many"):
        run(digits("linear", shots=7), tmp_path, resources(stores))


@pytest.mark.parametrize("settings", [{"shots": 3}, {}])
def test_class_means_are_of_the_samples_that_are_trained_on(clip, stores, tmp_path, settings):
    result = run(digits("zero-shot", classifier="means", **settings), tmp_path, resources(stores))
    train = open_images("digits", limit=LIMIT, image_size=32)
    rows = few_shot_rows(train, 3, 0) if settings else slice(None)
    images, labels = pixels_of(clip, "train")
    with torch.no_grad():
        means = class_means(clip(images[rows]), labels[rows], train.classes, logit_scale=1.0)
        images, labels = pixels_of(clip, "test")
        assert result.test_accuracy == pytest.approx(means.accuracy(clip(images), labels))
    assert (result.classifier, result.test_accuracy > 0.5) == ("means", True)


def test_options_reach_the_method_and_the_training(clip, stores, tmp_path):
    config = digits("residual", units=("L5",), scales="ones", keep_mean=True, learning_rate=1e-9, epochs=1)
    result = run(config, tmp_path, resources(stores))
    adapter = load_adapter(run_folder(config, tmp_path) / "adapter", clip)
    assert adapter.config.units == (*(f"L5H{head}" for head in range(6)), "5_mlp_out")
    assert adapter.config.keep_mean
    assert torch.allclose(adapter.scales, torch.ones(()), atol=1e-6)
    assert (result.learning_rate, result.parameters) == (1e-9, 6 * 24 + 96)
    star = run(digits("residual*", explained_variance=0.5, epochs=1), tmp_path, resources(stores))
    assert (star.variant, star.parameters < 181) == ("residual*", True)
    sparse = run(digits("coarse", l1=10.0, epochs=3, patience=3), tmp_path, resources(stores))
    assert sparse.parameters == 36


@pytest.mark.parametrize("method", ["residual-stream", "lora"])
def test_live_methods_train_on_images(clip, stores, tmp_path, method):
    config = digits(method, epochs=1, limit=LIMIT)
    result = run(config, tmp_path, resources(stores))
    adapter = load_adapter(run_folder(config, tmp_path) / "adapter", clip)
    assert (result.path, result.epochs, result.n_train) == ("stream", 1, 60)
    assert accuracy_live(clip, "test", adapter, "stream") == pytest.approx(result.test_accuracy)


def test_augmented_images_run_through_the_model(stores, tmp_path, monkeypatch):
    seen, train = [], running.train_adapter

    def watched(*given, **options):
        seen.append(options)
        return train(*given, **options)

    monkeypatch.setattr(running, "train_adapter", watched)
    result = run(digits("coarse", augment=True, epochs=1, shots=1), tmp_path, resources(stores))
    assert (seen[0]["train"].augment, seen[0]["validation"].augment) == (True, False)
    assert (len(seen[0]["train"].images), result.path) == (10, "direct")


def test_a_folder_of_images_by_class_words(stores, tmp_path):
    tree = write_tree(tmp_path / "tree", {"": 20})
    config = replace(digits("coarse", epochs=1, limit=None, templates="digits"), data=f"folder:{tree}")
    result = run(config, tmp_path / "runs", resources(stores))
    assert (result.n_train, result.n_validation, result.n_test, result.n_classes) == (48, 6, 6, 3)
    with pytest.raises(InputError, match=r"does not know .* --classifier means"):
        run(replace(config, templates="auto"), tmp_path / "runs", resources(stores))


class Stopped(BaseException):
    pass


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_result(stores, tmp_path, clip):
    config = digits("residual", epochs=60, patience=60)
    folder = run_folder(config, tmp_path / "killed")
    metrics = folder / "metrics.csv"
    with warnings.catch_warnings():
        # What other threads there are hold no lock that the child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            run(config, tmp_path / "killed", resources(stores))
        finally:
            os._exit(0)
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before it was killed"
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (folder / "result.json").exists()
    assert not (folder / "adapter").exists()
    resumed, whole = (run(config, tmp_path / name, resources(stores)) for name in ("killed", "whole"))
    assert replace(resumed, seconds=0.0) == replace(whole, seconds=0.0)
    folders = [run_folder(config, tmp_path / name) / "adapter" for name in ("killed", "whole")]
    assert torch.equal(*(load_adapter(each, clip).scales for each in folders))


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


def test_coordinates_beyond_what_memory_takes_are_in_a_file(stores, tmp_path, monkeypatch, residual):
    seen, real = [], running.coordinates
    monkeypatch.setattr(
        running, "coordinates", lambda *given, **more: seen.append(more["file"]) or real(*given, **more)
    )
    # 60 samples of a linear map: embeddings alone, 96 numbers of four bytes.
    for bytes_, files in ((60 * 96 * 4, 0), (60 * 96 * 4 - 1, 3)):
        seen.clear()
        monkeypatch.setattr(running, "IN_MEMORY", bytes_)
        run(digits("linear", epochs=1), tmp_path / str(files), resources(stores))
        assert sum(file is not None for file in seen) == files


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (digits("residuals"), InputError, r"Unknown method 'residuals'\. Did you mean residual,"),
        (replace(digits("residual"), model="attribute-clap"), InputError, r"Unknown model 'attribute-clap'\. Close ones: attribute-clip\."),
        (replace(digits("residual"), data="digitz"), InputError, r"got data set 'digitz', .*Did you mean digits\?"),
        (digits("residual", bases="nowhere.h5"), InputError, "There are no bases 'nowhere.h5'"),
        (digits("residual", units=("L9",)), InputError, "L9"),
        (digits("residual*", units=("mlps",)), InputError, r"residual\* rescales units of kind head, got .*'mlps'"),
        (digits("residual", units=("embed",)), InputError, "rescales units of kind head and mlp, got .*'embed'"),
        (digits("residual", units=("heads", "bias")), InputError, "'bias' is what no unit writes"),
        (digits("linear", l1=0.1), InputError, "l1 penalises scales, and linear has none"),
        (digits("svd", l1=0.1), InputError, "l1 penalises scales, and svd has none"),
        (digits("coarse", precision="16-mixed"), InputError, "needs an accelerator"),
    ],
)
def test_bad_input_is_refused_before_anything_is_encoded(tmp_path, config, error, message):
    with pytest.raises(error, match=message):
        run(config, tmp_path, resources(tmp_path / "stores"))
    assert not (run_folder(config, tmp_path) / "checkpoints").exists()
    assert not (tmp_path / "stores").exists()


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


@pytest.mark.parametrize("name", METHODS)
def test_methods_say_whether_they_have_scales(hvit, name):
    assert METHODS[name].has_scales == ("scales" in dict(made(name, hvit).named_parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_width_of_coordinates_is_known_before_they_are_made(tmp_path, dtype):
    hvit = HookedViT.from_pretrained("attribute-clip").to(dtype)
    with encode(hvit, open_images("digits", limit=20, image_size=32), tmp_path / "store.h5") as store:
        residuals = [
            ResiDual.from_bases(fit_bases(store, units=("L0", "L5")), variant=v) for v in ("residual*", "residual")
        ]
        for adapter in (Coarse(hvit.cfg.n_layers, hvit.cfg.n_heads), ZeroShot(), *residuals):
            assert width(adapter, store) == coordinates(adapter, store).values.shape[1]


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
