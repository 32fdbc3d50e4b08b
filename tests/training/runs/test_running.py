"""Runs end to end on the shipped model: what comes out, what is kept, what is not done twice, what goes on."""

import json
from dataclasses import replace

import pytest
import torch

from residual_lens.activations import Store, encode
from residual_lens.bases import fit_bases
from residual_lens.data.images import open_images
from residual_lens.errors import InputError
from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions import ResiDual
from residual_lens.text import zero_shot_classifier
from residual_lens.training.cached.coordinates import coordinates, width
from residual_lens.training.methods import METHODS, Coarse, ZeroShot, load_adapter
from residual_lens.training.runs import RunResult, run, run_folder, running
from residual_lens.training.runs.classifiers import class_means, templates_of
from residual_lens.training.runs.data import few_shot_rows
from residual_lens.training.runs.stores import store_path
from tests.training.methods.test_registry import made
from tests.training.runs.places import LIMIT, digits, resources, write_tree


def pixels_of(clip: HookedViT, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    images = open_images("digits", split=split, limit=LIMIT, image_size=32)
    return torch.stack([clip.preprocessing(image) for image, _ in images]), torch.from_numpy(images.labels)


@torch.no_grad()
def accuracy_live(clip: HookedViT, split: str, adapter, path: str = "direct") -> float:
    """The accuracy of an adapter in the model's own forward pass."""
    words = open_images("digits").classes
    classifier = zero_shot_classifier(clip.encode_text, words, templates=templates_of("auto", "digits"))
    images, labels = pixels_of(clip, split)
    with adapter.attached(clip, path):
        return classifier.accuracy(clip(images), labels)


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


def test_zero_shot_is_the_model_as_it_is(clip, stores, tmp_path):
    # Texts are taken for paths.
    result = run(digits("zero-shot"), str(tmp_path), resources(stores))
    assert result == RunResult.load(str(run_folder(digits("zero-shot"), str(tmp_path))))
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
        run(digits("residual", bases=str(path)), tmp_path, resources(stores)) for path in (own, tmp_path / "bases.h5")
    )
    assert own.stat().st_mtime_ns == written
    folders = [run_folder(residual[1].config, residual[0])]
    folders += [run_folder(result.config, tmp_path) for result in (by_store, by_file)]
    scales = [load_adapter(folder / "adapter", clip).scales for folder in folders]
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


def test_options_reach_the_method_and_the_training(clip, stores, tmp_path, monkeypatch):
    given, train = {}, running.train_adapter
    monkeypatch.setattr(
        running, "train_adapter", lambda *parts, **options: given.update(options) or train(*parts, **options)
    )
    of_training = {"learning_rate": 1e-9, "l1": 0.5, "patience": 3, "batch_size": 30, "seed": 4}
    config = digits("residual", units=("L5",), scales="ones", keep_mean=True, epochs=1, **of_training)
    result = run(config, tmp_path, resources(stores))
    adapter = load_adapter(run_folder(config, tmp_path) / "adapter", clip)
    assert adapter.config.units == (*(f"L5H{head}" for head in range(6)), "5_mlp_out")
    assert adapter.config.keep_mean
    assert torch.allclose(adapter.scales, torch.ones(()), atol=1e-6)
    assert (result.learning_rate, result.parameters) == (1e-9, 6 * 24 + 96)
    assert "(240 parameters, none of 1 epochs better than the untrained start, " in result.line
    assert {name: given[name] for name in of_training} == of_training
    star = run(digits("residual*", explained_variance=0.5, epochs=1), tmp_path, resources(stores))
    assert (star.variant, star.parameters < 181) == ("residual*", True)


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
