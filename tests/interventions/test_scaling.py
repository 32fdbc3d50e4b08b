"""Factors on units, directly and in the stream."""

import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.interventions import ablate, scale
from tests.decomposition.models import KINDS
from tests.interventions.tiny_bases import wrapped
from tests.reference.edits import edited, replaced_and_summed
from tests.tiny_models import tiny_images
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close

FACTORS = {"embed": 0.5, "L0H1": 3, "0_mlp_out": -1.0, "L1H0": 0.0, "L1H2": 1.0}


@torch.no_grad()
@pytest.mark.parametrize("center", ["own", "uniform"])
def test_on_the_direct_path_contributions_are_multiplied_in_the_sum(center):
    hvit = wrapped(center=center)
    images = tiny_images(hvit.source)
    before = hvit.decompose(images)
    put = {name: before[name].double() * factor for name, factor in FACTORS.items()}
    with scale(hvit, FACTORS):
        assert_close(hvit(images), replaced_and_summed(before.values, hvit.units.names, put), FLOAT32_TOL)
    with scale(hvit, {"all": 2.0}):
        assert_close(hvit(images), 2 * before.total(), FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layerscale", "siglip-hf"])
def test_in_the_stream_terms_are_multiplied_with_their_share_of_the_bias(kind):
    model, images = KINDS[kind].model(), KINDS[kind].images().double()
    hvit = KINDS[kind].wrapped(model.double())

    def edit(name, term):
        return FACTORS.get(name, 1.0) * term

    embedding, _ = edited(model, images, KINDS[kind].embed, edit, **KINDS[kind].wrapping)
    with scale(hvit, FACTORS, path="stream"):
        assert_close(hvit(images), embedding, FLOAT64_TOL)
        assert_close(hvit.decompose(images).total(), embedding, FLOAT64_TOL)
    assert_changed(embedding, hvit(images))


@torch.no_grad()
@pytest.mark.parametrize("path", ["direct", "stream"])
def test_zero_is_zero_ablation_and_takes_away_what_is_not_finite(hvit, images, path):
    with scale(hvit, {"L1": 0}, path=path):
        scaled = hvit(images)
    with ablate(hvit, "L1", path=path):
        assert torch.equal(hvit(images), scaled)
    point = "blocks.1.hook_mlp_direct" if path == "direct" else "blocks.1.hook_mlp_out"
    with hvit.hooks([(point, lambda values, hook: values * torch.inf)]), ablate(hvit, "L1", path=path):
        assert hvit(images).isfinite().all()


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({}, "factors must map selectors to numbers"),
        ({"L9H9": 1.0}, "There is no unit 'L9H9'"),
        ({"L0": 1.0, "L0H1": 2.0}, "L0H1 is named twice, by 'L0H1' too"),
        ({"L0H1": float("nan")}, "The factor of 'L0H1' must be a finite number, got nan"),
        ({"L0H1": True}, "must be a finite number, got True"),
    ],
)
def test_factors_that_say_nothing_are_refused(hvit, factors, message):
    with pytest.raises(InputError, match=message):
        scale(hvit, factors)


def test_the_bias_is_not_in_the_stream(hvit):
    assert "bias" in scale(hvit, {"all": 2.0}).units
    assert scale(hvit, {"all": 2.0}, path="stream").units == hvit.units.names[:-1]
    with pytest.raises(InputError, match="with path='direct'"):
        scale(hvit, {"bias": 2.0}, path="stream")
    with pytest.raises(InputError, match="path must be"):
        scale(hvit, {"all": 2.0}, path="both")


@torch.no_grad()
@pytest.mark.parametrize("path", ["direct", "stream"])
def test_units_may_be_given_themselves(path):
    hvit = wrapped()
    images, unit = tiny_images(hvit.source), hvit.units["L0H1"]
    for by_unit, by_name in (
        (scale(hvit, {unit: 3}, path=path), scale(hvit, {"L0H1": 3}, path=path)),
        (ablate(hvit, [unit, "L1"], path=path), ablate(hvit, ["L0H1", "L1"], path=path)),
    ):
        with by_name:
            expected = hvit(images)
        with by_unit:
            assert_close(hvit(images), expected, 0.0)
    with pytest.raises(InputError, match="'bias' is what the final norm"):
        ablate(hvit, hvit.units["bias"], path="stream")
