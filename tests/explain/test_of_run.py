"""A finished run explains itself: the accuracies are the run's, a store and memory say the same, the command writes."""

import json
from pathlib import Path

import pytest

from residual_lens.activations import Store
from residual_lens.cli.explain import explain as command
from residual_lens.errors import InputError, MismatchError
from residual_lens.explain import explain, explain_run
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ResiDual
from residual_lens.text import Dictionary, zero_shot_classifier
from residual_lens.training import CachedSamples
from residual_lens.training.runs import Resources, RunConfig, RunResult, run, run_folder
from residual_lens.training.runs.classifiers import templates_of


@pytest.fixture(scope="module")
def resources(tmp_path_factory) -> Resources:
    return Resources(stores=tmp_path_factory.mktemp("stores"), device="cpu")


@pytest.fixture(scope="module")
def folder(resources, tmp_path_factory) -> Path:
    """Of a run with every setting that changes what there is to explain."""
    config = RunConfig("attribute-clip", "digits", "residual*", limit=60, epochs=1, explained_variance=0.5)
    out = tmp_path_factory.mktemp("runs")
    run(config, out, resources)
    return run_folder(config, out)


def test_a_run_is_explained_by_what_it_was_tested_on(folder, resources, tmp_path):
    result = RunResult.load(folder)
    found = explain_run(folder, "auto", resources, n_components=3, n_texts=2, cache=tmp_path)
    assert found.learned == result.test_accuracy
    assert (found.n_samples, found.kept[-1]) == (result.n_test, result.parameters)
    assert {key: found.about[key] for key in ("model", "data", "variant", "run")} == {
        "model": "attribute-clip",
        "data": "digits/test",
        "variant": "residual*",
        "run": result.to_dict(),
    }
    assert found.about["dictionary"]["source"] == "attribute world"
    assert [len(one.positive) for one in found.components] == [2, 2, 2]
    assert len(found.units) == 36

    # The same from contributions in memory, which have no low-rank frame.
    hvit = HookedViT.from_pretrained("attribute-clip")
    with Store(next(resources.stores.glob("*--test-*.h5"))) as store:
        samples = CachedSamples(store.decompose(), store.labels)
        classes = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        classifier = zero_shot_classifier(hvit.encode_text, classes, templates=templates_of("auto", "digits"))
        words = Dictionary.of_attributes(hvit, cache=tmp_path)
        again = explain(
            ResiDual.load(folder / "adapter"), samples, classifier, words, data="digits/test", n_components=3, n_texts=2
        )
    assert (again.learned, again.zero_shot, again.curves) == (found.learned, found.zero_shot, found.curves)
    for one, other in zip(found.units, again.units, strict=True):
        assert one.says_before.texts == other.says_before.texts
        assert one.says_after.texts == other.says_after.texts
        assert one.says_after.explained == pytest.approx(other.says_after.explained, abs=1e-5)
        assert one.after.total == pytest.approx(other.after.total, abs=1e-5)


def test_the_command_writes_numbers_tables_and_a_figure(folder, resources, tmp_path, capsys):
    command(folder, resources, n_components=2, out=tmp_path / "out", cache=tmp_path)
    saved = json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))
    assert saved["learned"] == RunResult.load(folder).test_accuracy
    page = (tmp_path / "out" / "explanation.md").read_text(encoding="utf-8")
    assert page.startswith("residual* on attribute-clip, digits/test (60 samples): zero-shot ")
    assert (tmp_path / "out" / "explanation.png").read_bytes()[1:4] == b"PNG"
    printed = capsys.readouterr().out
    assert "says before" in printed
    assert str(tmp_path / "out" / "explanation.json") in printed


def test_other_runs_and_other_dictionaries_are_refused(folder, resources, tmp_path):
    with pytest.raises(InputError, match=r"There is no .*config.json"):
        explain_run(tmp_path, "auto", resources)
    config = RunConfig("attribute-clip", "digits", "zero-shot", limit=60)
    run(config, tmp_path, resources)
    with pytest.raises(InputError, match="a run of zero-shot; only those of residual and residual"):
        explain_run(run_folder(config, tmp_path), "auto", resources)
    with pytest.raises(InputError, match="no dictionary or file 'nothing'"):
        explain_run(folder, "nothing", resources)
    words = Dictionary.of_attributes(HookedViT.from_pretrained("attribute-clip"), cache=tmp_path)
    other = Dictionary(words.texts, words.embeddings, {**words.provenance, "model_fingerprint": "0" * 64})
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(MismatchError, match="is in another space"):
        explain_run(folder, str(tmp_path / "other.safetensors"), resources)
