"""Steering adds what it says, in directions of every sort."""

import pytest
import torch
from torch.nn.functional import normalize

from residual_lens.bases import fit_bases
from residual_lens.errors import InputError, MismatchError, UnsupportedModelError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Component, Difference, steer
from tests.activations.stores import encoded, image_set, pixels_of
from tests.activations.stores import wrapped as with_inputs
from tests.decomposition.models import KINDS
from tests.interventions.tiny_bases import DIRECT_POOLED, bases_for, wrapped
from tests.reference.edits import edited
from tests.tiny_models import tiny_images
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close


def direction_for(hvit: HookedViT, seed: int = 0) -> torch.Tensor:
    return 7 * torch.randn(hvit.cfg.d_out, generator=torch.Generator().manual_seed(seed)).to(hvit.dtype)


@torch.no_grad()
@pytest.mark.parametrize("center", ["own", "uniform"])
@pytest.mark.parametrize("unit", ["embed", "L1H2", "0_mlp_out"])
def test_on_the_direct_path_the_strength_is_in_the_scale_of_the_embedding(unit, center):
    hvit = wrapped(center=center)
    images, direction = tiny_images(hvit.source), direction_for(hvit)
    before = hvit.decompose(images)
    with steer(hvit, unit, direction, -2.5):
        after, embedding = hvit.decompose(images), hvit(images)
    added = -2.5 * direction / direction.norm()
    assert_close(embedding, before.total() + added, FLOAT32_TOL)
    assert_close(after[unit], before[unit] + added, FLOAT32_TOL)
    assert_close(after.total() - after[unit], before.total() - before[unit], FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", [*DIRECT_POOLED, "rms-token"])
def test_the_term_in_the_stream_contributes_the_direction_at_the_typical_scale_and_no_smaller_one_does(kind):
    model, images = KINDS[kind].model().double(), KINDS[kind].images().double()
    hvit = KINDS[kind].wrapped(model)
    reachable = hvit.direct_map()
    direction = torch.randn(reachable.shape[0], generator=torch.Generator().manual_seed(0)).double() @ reachable
    steered = steer(hvit, "L1H1", direction, 2.0, path="stream", scale=3.0)
    matrix, term = steered.stream_maps()["L1H1"]
    assert torch.equal(matrix, torch.eye(hvit.cfg.d_model).double())
    assert_close(term @ reachable, 3.0 * 2.0 * direction / direction.norm(), FLOAT64_TOL)
    # Nothing of it lies where the embedding does not look.
    left, sizes, _ = torch.linalg.svd(reachable, full_matrices=False)
    seen = left[:, sizes > 1e-9 * float(sizes[0])]
    assert_close(seen @ (seen.T @ term), term, FLOAT64_TOL)

    def edit(name, value):
        return value + term if name == "L1H1" else value

    embedding, run = edited(model, images, KINDS[kind].embed, edit)
    with steered:
        assert_close(hvit(images), embedding, FLOAT64_TOL)
        parts = hvit.decompose(images)
    assert_close(parts["L1H1"], run.units["L1H1"], FLOAT64_TOL)
    assert_changed(embedding, hvit(images))


@torch.no_grad()
def test_a_direct_effect_in_the_stream_has_the_strength_at_the_samples_own_scale():
    """In the last layer, where nothing but the final norm responds."""
    hvit = wrapped().double()
    images, direction = tiny_images(hvit.source).double(), direction_for(wrapped().double())
    sigma = hvit.extract(images).readout.weights.sum(dim=(1, 2)).reciprocal()
    typical = float(1 / (1 / sigma).mean())
    with steer(hvit, "2_mlp_out", direction, 0.5, path="stream", reference=images):
        after, edited_terms = hvit.decompose(images), hvit.extract(images)
    new_sigma = edited_terms.readout.weights.sum(dim=(1, 2)).reciprocal()
    before = hvit.decompose(images)["2_mlp_out"] * (sigma / new_sigma)[:, None]
    expected = 0.5 * normalize(direction, dim=0) * (typical / new_sigma)[:, None]
    assert_close(after["2_mlp_out"] - before, expected, FLOAT64_TOL)


@torch.no_grad()
def test_the_scale_comes_from_images_from_a_store_or_from_bases(tmp_path):
    hvit = with_inputs("ViT-B-16")
    images = image_set(12, hvit.cfg.image_size)
    pixels, direction = pixels_of(hvit, images), direction_for(hvit)
    scale = fit_bases(hvit, pixels, units="L0").scale
    with encoded(hvit, images, tmp_path / "store.h5", value_format="float32") as store:
        edits = [
            steer(hvit, "L0H1", direction, 2.0, path="stream", **given)
            for given in ({"scale": scale}, {"reference": pixels}, {"reference": pixels.split(5)}, {"reference": store})
        ]
        with pytest.raises(MismatchError, match="model_fingerprint"):
            steer(wrapped(seed=1), "L0H1", direction, 2.0, path="stream", reference=store)
    for edit in edits[1:]:
        assert_close(edit.stream_maps()["L0H1"].offset, edits[0].stream_maps()["L0H1"].offset, FLOAT32_TOL)


@torch.no_grad()
def test_the_mlp_of_an_attention_pooling_needs_no_scale_and_is_the_same_on_both_paths():
    hvit, images = KINDS["siglip-timm"].wrapped(), KINDS["siglip-timm"].images()
    before, direction = hvit(images), direction_for(hvit)
    for path in ("direct", "stream"):
        with steer(hvit, "pool_mlp_out", direction, 4.0, path=path):
            assert_close(hvit(images), before + 4 * direction / direction.norm(), FLOAT32_TOL)


@torch.no_grad()
def test_texts_and_classes_are_directions():
    hvit = HookedViT.from_pretrained("attribute-clip")
    images = torch.rand(3, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
    before, templates = hvit(images), ("a {} circle", "a small {} square")
    red, blue = (
        normalize(hvit.encode_text([t.format(c) for t in templates]).mean(dim=0), dim=0) for c in ("red", "blue")
    )
    for direction, expected in (
        ("a red star", hvit.encode_text(["a red star"])[0]),
        (Difference("red", "blue", templates), normalize(red - blue, dim=0)),
    ):
        with steer(hvit, "L4H4", direction, 3):
            assert_close(hvit(images) - before, (3 * expected).expand(3, -1), 10 * FLOAT32_TOL)
    assert "steering by 3 towards 'a red star'" in repr(steer(hvit, "L4H4", "a red star", 3.0))
    with pytest.raises(InputError, match="at least two different names"):
        steer(hvit, "L4H4", Difference("red", "red"), 3.0)


@torch.no_grad()
def test_components_have_the_sign_of_their_largest_coordinate():
    hvit = wrapped()
    bases, images = bases_for(hvit, units="L1"), tiny_images(hvit.source)
    before = hvit(images)
    for k in range(3):
        given, component = bases["L1H0"].components[k], bases["L1H0"].components[k].clone()
        expected = component if float(component.max()) == float(component.abs().max()) else -component
        for drawn in (component, -component):
            given.copy_(drawn)
            with steer(hvit, "L1H0", Component(bases, "L1H0", k), 2.0):
                assert_close(hvit(images) - before, (2 * expected).expand(3, -1), 10 * FLOAT32_TOL)


def test_components_that_do_not_fit_are_refused(hvit):
    bases = bases_for(wrapped(), units="L1H0")
    with pytest.raises(InputError, match="These bases have no unit 'L1H1'"):
        steer(hvit, "L1H1", Component(bases, "L1H1"), 1.0)
    with pytest.raises(InputError, match=r"varies along components 0 to 8 of these bases, got 40"):
        steer(hvit, "L1H1", Component(bases, "L1H0", 40), 1.0)
    with pytest.raises(MismatchError, match="tiny ViT-B-16 with other weights"):
        steer(wrapped(seed=1), "L1H0", Component(bases, "L1H0"), 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "L9H9"}, "There is no unit 'L9H9'"),
        ({"unit": "L1"}, "There is no unit 'L1'"),
        ({"unit": "bias", "path": "stream"}, "'bias' is what the final norm"),
        ({"path": "both"}, "path must be"),
        ({"strength": float("inf")}, "strength must be a finite number, got inf"),
        ({"direction": torch.ones(3)}, r"float tensor of 20 coordinates, .*; got torch.float32 \[3\]"),
        ({"direction": torch.zeros(20)}, "a finite length above 0, this one has 0.0"),
        ({"direction": torch.full((20,), torch.nan)}, "a finite length above 0, this one has nan"),
        ({"path": "stream"}, r"either reference= .* or scale="),
        ({"path": "stream", "scale": 1.0, "reference": torch.zeros(2, 3, 32, 32)}, "either reference="),
        ({"path": "stream", "scale": -1.0}, "above 0, got -1.0"),
        ({"path": "stream", "reference": []}, "There are no reference images"),
    ],
)
def test_what_cannot_be_steered_is_refused(hvit, arguments, message):
    with pytest.raises(InputError, match=message):
        steer(hvit, **{"unit": "L1H1", "direction": torch.ones(20), "strength": 1.0, **arguments})


def test_a_text_needs_a_text_tower(hvit):
    with pytest.raises(UnsupportedModelError, match="has no text tower"):
        steer(hvit, "L1H1", "a cat", 1.0)


def test_a_direction_that_no_term_contributes_to_is_refused():
    hvit = HookedViT.wrap(KINDS["normed-queries"].model())
    reachable = hvit.direct_map()
    outside = torch.linalg.svd(reachable).Vh[-1].float()
    assert float((reachable @ outside.double()).norm()) < 1e-6
    with pytest.raises(InputError, match="No term of L1H1 in the stream contributes to this direction"):
        steer(hvit, "L1H1", outside, 1.0, path="stream", scale=1.0)
    assert steer(hvit, "L1H1", outside, 0.0).path == "direct"


@pytest.mark.parametrize("direction", ["a giraffe", Difference("giraffe", "zebra")])
def test_words_that_the_tokenizer_does_not_know_are_refused(direction):
    hvit = HookedViT.from_pretrained("attribute-clip")
    with pytest.raises(InputError, match=r"does not know .*giraffe"):
        steer(hvit, "L4H4", direction, 1.0)
