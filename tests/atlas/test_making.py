"""An atlas holds what its parts found, can be made of a model of any shape, and refuses nonsense."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from residual_lens.activations import Store, encode
from residual_lens.atlas import atlas, model_of
from residual_lens.atlas.page import render
from residual_lens.bases import fit_bases
from residual_lens.data.images import open_images
from residual_lens.data.preprocessing import Preprocessing
from residual_lens.descriptions import describe
from residual_lens.errors import InputError, MismatchError
from residual_lens.explain.saying import texts_along
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ResiDual
from residual_lens.text import Dictionary
from residual_lens.training.runs import RunConfig
from tests.activations.stores import encoded, image_set, wrapped
from tests.atlas.runs import finished, trained

UNITS = ("L1H3", "L5H2", "5_mlp_out")
N_SCENES, N_COLOURS = 40, 27


@pytest.fixture(scope="module")
def shipped() -> HookedViT:
    return HookedViT.from_pretrained("attribute-clip")


@pytest.fixture(scope="module")
def words(shipped) -> Dictionary:
    return Dictionary.of_attributes(shipped, cache=None)


@pytest.fixture(scope="module")
def stores(shipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for name, limit in (("attributes", N_SCENES), ("attributes:colour", N_COLOURS)):
        encode(shipped, open_images(name, limit=limit), folder / f"{name[-5:]}.h5").close()
    with Store(folder / "butes.h5") as scenes, Store(folder / "olour.h5") as colours:
        yield scenes, colours


@pytest.fixture(scope="module")
def run(stores, tmp_path_factory):
    """A run of residual*, which leaves MLPs out."""
    residual = trained(ResiDual.from_bases(fit_bases(stores[0], units=UNITS[:2]), variant="residual*", seed=2))
    config = RunConfig("attribute-clip", "attributes:colour", "residual*", seed=2)
    return finished(residual, tmp_path_factory.mktemp("runs") / "run", config)


@pytest.fixture(scope="module")
def made(shipped, words, stores, run):
    return atlas(stores, hvit=shipped, dictionary=words, run=run, units=UNITS, n_components=2, n_ends=3, n_null=19)


def test_it_is_json_of_plain_values(made):
    again = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert [unit["name"] for unit in again["units"]] == list(UNITS)
    assert (again["n_layers"], again["n_heads"], again["grid"]) == (6, 6, [4, 4])
    assert (again["model"], again["scale_start"]) == ("attribute-clip", 1.0)
    assert {unit["name"]: (unit["kind"], unit["layer"], unit["column"]) for unit in again["units"]} == {
        "L1H3": ("head", 1, 3),
        "L5H2": ("head", 5, 2),
        "5_mlp_out": ("mlp", 5, 6),
    }
    assert all(set(unit["measures"]) == {one["key"] for one in again["measures"]} for unit in again["units"])
    assert again["facts"]["Run"].startswith("attribute-clip, attributes:colour, residual*, seed 2")


def test_the_same_again_is_the_same(made, shipped, words, stores, run):
    again = atlas(stores, hvit=shipped, dictionary=words, run=run, units=UNITS, n_components=2, n_ends=3, n_null=19)
    assert again == made


def test_units_say_what_the_analyses_say(made, stores, words):
    bases = fit_bases(stores[0], units=UNITS)
    for unit, said in zip(made.units, describe(stores[0], words, UNITS, 10, n_null=19), strict=True):
        assert tuple(one.text for one in unit.description) == said.texts
        assert [one.explained for one in unit.description] == pytest.approx(said.explained, rel=1e-3)
        added = np.diff([0, *said.explained])
        assert [one.weight for one in unit.description] == pytest.approx((added / added.max()).tolist(), abs=1e-3)
        assert (unit.p_value, unit.coherence) == pytest.approx((said.fit.p, said.coherence.score), rel=1e-3)
        assert (unit.explained, unit.explained_by_chance) == pytest.approx((said.fit.score, said.fit.mean), rel=1e-3)
        basis = bases[unit.name]
        assert unit.spectrum == pytest.approx((basis.variances / basis.total_variance).tolist(), rel=1e-3, abs=1e-6)
        texts = texts_along(basis.components[:2], words, 5)
        assert [(one.high_texts, one.low_texts) for one in unit.components] == texts
        assert [one.share for one in unit.components] == list(unit.spectrum[:2])


def test_effects_of_the_one_task_are_told(made):
    (task,) = made.tasks
    assert (task.name, task.n_images, len(task.classes)) == ("colour", N_COLOURS, 9)
    assert task.accuracy > 0.9
    for unit in made.units:
        (effect,) = unit.effects
        assert effect.task == 0
        assert len(effect.classes) == len(effect.contrasts) == 9
        assert unit.measures["contrast:0"] == effect.contrast
        assert unit.measures["accuracy:0"] == pytest.approx(task.accuracy - effect.accuracy, abs=1e-4)
    by_name = {unit.name: unit.effects[0].contrast for unit in made.units}
    assert by_name["L1H3"] > by_name["L5H2"], "the head of colours against that of backgrounds"


def test_images_are_there_once_and_each_unit_has_attention_to_its_own(made, stores):
    assert len(set(made.images)) == len(made.images) == len(made.captions) <= N_SCENES
    assert set(made.captions) <= set(stores[0].sample_ids)
    for unit in made.units:
        own = {image for end in unit.components for image in (*end.low, *end.high)}
        assert all(len(end.low) == len(end.high) == 3 for end in unit.components)
        assert set(unit.attention) == (own if unit.kind == "head" else set())
    assert {image for unit in made.units for end in unit.components for image in (*end.low, *end.high)} == set(
        range(len(made.images))
    )


def test_lambda_is_there_where_the_run_has_some(made, run):
    residual = ResiDual.load(run / "adapter")
    for unit in made.units[:2]:
        scales = residual.scales_of(unit.name).tolist()
        assert unit.scales is not None
        assert len(unit.scales) == len(unit.scales_before) == len(unit.spectrum)
        assert unit.scales[: len(scales)] == pytest.approx(scales, rel=1e-3)
        # Beyond its components this variant drops everything.
        assert max(map(abs, unit.scales[len(scales) :])) < 1e-5
        assert unit.scales_before[: len(scales)] != pytest.approx(scales, rel=1e-2)
    assert (made.units[2].scales, made.units[2].scales_before) == (None, None)
    assert made.units[2].measures["energy"] is None


def test_images_to_choose_from_are_bounded_and_captions_are_classes(shipped, stores):
    small = atlas(stores[1:], hvit=shipped, dictionary=None, units="L0", n_images=7, n_ends=2)
    assert len(small.images) <= 7
    assert set(small.captions) <= set(stores[1].provenance.classes)
    assert small.facts["Images"] == "those at the ends among 7"
    assert (small.scale_start, small.units[0].scales, small.units[0].description) == (None, None, ())
    assert small.units[0].p_value is None
    assert small.units[0].components[0].low_texts == ()
    other = atlas(stores[1:], hvit=shipped, dictionary=None, units="L0", n_images=7, n_ends=2, seed=1)
    assert other.images != small.images


def test_without_labels_there_are_no_tasks(stores):
    plain = atlas(stores[:1], dictionary=None, units=["L0H0", "embed"], n_ends=1, n_components=1)
    assert plain.tasks == plain.units[0].effects == ()
    assert plain.facts["Tasks"] == "none"
    assert [unit.name for unit in plain.units] == ["L0H0"]
    assert not any(":" in one.key for one in plain.measures)


@torch.no_grad()
def test_a_unit_that_does_not_vary_has_a_page_all_the_same(tmp_path):
    hvit = wrapped("rotary-timm")
    # Head 0 of the first layer writes nothing.
    attention = hvit.attention(0)
    attention.W_O[0].zero_()
    attention.b_O.zero_()
    images = image_set(20)
    with encoded(hvit, images, tmp_path / "a.h5") as store:
        texts = Dictionary(tuple("abcdefgh"), torch.eye(8, hvit.cfg.d_out))
        found = atlas([store], hvit=hvit, images=images, dictionary=texts, units="L0", n_ends=2, n_null=19)
    still, moving = found.units[:2]
    assert (still.spectrum, still.components, still.description, still.attention) == ((), (), (), {})
    assert sum(moving.spectrum) == pytest.approx(1, abs=1e-3)
    assert still.measures["ratio"] is None
    assert set(still.effects[0].contrasts) <= {0.0, None}
    assert still.effects[0].accuracy == pytest.approx(found.tasks[0].accuracy, abs=1e-4)
    assert '"spectrum":[]' in render(found)


@pytest.mark.slow
def test_models_with_many_heads_and_without_text(tmp_path):
    """24 layers of 16 heads, pooled by attention: every head has an entry, and images stay bounded."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_base_patch16_siglip_224", embed_dim=32, depth=24, num_heads=16, img_size=32, patch_size=8, num_classes=0
    ).eval()
    inputs = Preprocessing((32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    hvit = HookedViT.wrap(model, preprocessing=inputs)
    images = image_set(30, (32, 32))
    with encoded(hvit, images, tmp_path / "a.h5") as store:
        found = atlas([store], hvit=hvit, images=images, dictionary=None, units="heads", n_images=12, n_ends=2)
    assert len(found.units) == 384
    assert len(found.images) <= 12
    assert (found.tasks[0].n_images, found.tasks[0].name) == (12, "noise")
    assert "means of every other image of a class" in found.facts["Tasks"]
    json.dumps(found.to_json(), allow_nan=False)


def test_what_makes_no_atlas_is_refused(shipped, stores, words, run, tmp_path):
    for arguments, message in (
        ({"n_ends": 0}, r"n_ends is at least 1, got 0"),
        ({"n_components": 0}, r"n_components is at least 1"),
        ({"n_images": 0}, r"n_images is at least 1"),
        ({"units": "L9"}, r"L9"),
        ({"units": "embed"}, r"shows heads and MLPs, of which 'embed' names none"),
        ({"run": tmp_path}, r"There is no .*config\.json"),
        # Before the dictionary is looked for.
        ({"dictionary": "nothing", "n_null": 18}, r"n_null of at least 19, got 10 and 18"),
        ({"dictionary": "nothing"}, r"no dictionary or file 'nothing'"),
        ({"templates": "a photo"}, r"templates are"),
    ):
        with pytest.raises(InputError, match=message):
            atlas(stores, hvit=shipped, **arguments)
    with pytest.raises(InputError, match=r"needs at least one store"):
        atlas([], hvit=shipped)
    other = wrapped("rotary-timm")
    images = image_set(20)
    with (
        encoded(other, images, tmp_path / "a.h5") as foreign,
        encoded(other, image_set(2), tmp_path / "b.h5") as few,
    ):
        with pytest.raises(MismatchError, match=r"a\.h5 was made with"):
            atlas([stores[0], foreign], hvit=shipped)
        with pytest.raises(MismatchError, match=r"This ResiDual was made for attribute-clip"):
            atlas([foreign], hvit=other, images=images, run=run, dictionary=None)
        with pytest.raises(MismatchError, match=r"another space"):
            atlas([foreign], hvit=other, images=images, dictionary=words)
        with pytest.raises(InputError, match=r"three samples of each store; .*b\.h5 has 2"):
            atlas([few], hvit=other)


def test_the_model_is_loaded_by_name(stores, monkeypatch):
    assert model_of(stores[0]).fingerprint() == stores[0].provenance.model_fingerprint
    made = replace(stores[0].provenance, model_fingerprint="0" * 64)
    monkeypatch.setattr(stores[0], "provenance", made)
    with pytest.raises(MismatchError, match=r"model_fingerprint is 0000"):
        model_of(stores[0])
