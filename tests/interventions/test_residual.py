"""ResiDual on the direct path equals its naive twin; how λ is counted, started and cut."""

import pytest
import torch

from residual_lens.bases import Basis
from residual_lens.errors import InputError
from residual_lens.interventions import ResiDual
from residual_lens.interventions.components import components_to_reach
from tests.interventions.tiny_bases import (
    DIRECT_POOLED,
    PATHS_AND_CENTERS,
    bases_for,
    cut,
    hooks_in_force,
    scales_by_unit,
    synthetic_bases,
    wrapped,
)
from tests.reference.residual import naive_residual
from tests.tiny_models import tiny_images
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

UNEVEN = {"L0H1": 2, "L1H0": 5, "L2H2": 1, "1_mlp_out": 7}


def both_ways(hvit, bases, images, **options):
    """Edited contributions by hooks and by the twin."""
    residual = ResiDual.from_bases(bases, **options)
    before = hvit.decompose(images)
    with torch.no_grad(), residual.attached(hvit):
        edited, embedding = hvit.decompose(images), hvit(images)
    expected = naive_residual(
        before.values,
        before.units.names,
        bases,
        scales_by_unit(residual),
        variant=residual.config.variant,
        keep_mean=residual.config.keep_mean,
    )
    return before, edited, embedding, expected


@pytest.mark.parametrize("keep_mean", [False, True])
@pytest.mark.parametrize("variant", ["residual*", "residual"])
@pytest.mark.parametrize("case", ["all heads", "some heads", "components of different counts", "uniform", "coca"])
def test_the_direct_path_equals_the_naive_twin(case, variant, keep_mean):
    hvit = wrapped("coca" if case == "coca" else "ViT-B-16", center="uniform" if case == "uniform" else "own")
    units = ("L0H0", "L0H2", "L2H1", "1_mlp_out") if case == "some heads" else ("heads", "mlps")
    bases = bases_for(hvit, units=units)
    if case == "components of different counts" and variant == "residual":
        bases = cut(bases, UNEVEN)
    images = tiny_images(hvit.source)
    before, edited, embedding, expected = both_ways(hvit, bases, images, variant=variant, keep_mean=keep_mean, seed=3)
    assert_changed(edited.values, before.values)
    assert_close(edited.values, expected, FLOAT32_TOL)
    assert_close(embedding, expected.sum(dim=1), FLOAT32_TOL)


def test_residual_star_keeps_different_numbers_of_components_by_head():
    hvit = wrapped()
    bases = bases_for(hvit)
    residual = ResiDual.from_bases(bases, variant="residual*", explained_variance=0.8)
    assert len(set(residual.config.counts)) > 1
    assert residual.config.units == tuple(name for name in bases if name.startswith("L"))
    for name, count in zip(residual.config.units, residual.config.counts, strict=True):
        shares = bases[name].variances.cumsum(0) / bases[name].variances.sum()
        assert shares[count - 1] >= 0.8
        assert count == 1 or shares[count - 2] < 0.8


def test_released_bug_a_square_basis_is_used_as_phi_transposed_and_not_as_phi():
    hvit = wrapped()
    bases = bases_for(hvit, units="1_mlp_out")
    phi = bases["1_mlp_out"].components.double()
    assert phi.shape[0] == phi.shape[1]
    images = tiny_images(hvit.source)
    before, edited, _, expected = both_ways(hvit, bases, images, variant="residual", seed=3)
    assert_close(edited["1_mlp_out"], expected[:, before.units.position("1_mlp_out")], FLOAT32_TOL)
    residual = ResiDual.from_bases(bases, variant="residual", seed=3)
    scaled = ((before["1_mlp_out"] - bases["1_mlp_out"].mean).double() @ phi.T) * residual.scales.detach().double()
    assert_close(edited["1_mlp_out"], scaled @ phi, FLOAT32_TOL)
    assert_changed(edited["1_mlp_out"], scaled @ phi.T)


@pytest.mark.parametrize(("path", "center"), PATHS_AND_CENTERS)
@pytest.mark.parametrize("kind", DIRECT_POOLED)
def test_lambda_one_with_full_bases_and_the_mean_kept_changes_nothing(kind, center, path):
    hvit = wrapped(kind, center=center)
    images = tiny_images(hvit.source)
    residual = ResiDual.from_bases(bases_for(hvit), variant="residual", scales="ones", keep_mean=True)
    before = hvit.decompose(images)
    with torch.no_grad(), residual.attached(hvit, path=path):
        assert_close(hvit(images), before.total(), FLOAT32_TOL)
        assert_close(hvit.decompose(images).values, before.values, FLOAT32_TOL)


def test_lambda_one_on_all_components_leaves_the_heads_to_residual_star():
    hvit = wrapped()
    images = tiny_images(hvit.source)
    residual = ResiDual.from_bases(
        bases_for(hvit), variant="residual*", scales="ones", explained_variance=1.0, keep_mean=True
    )
    assert set(residual.config.counts) == {9}
    heads = hvit.decompose(images).select("heads")
    with torch.no_grad(), residual.attached(hvit):
        assert_close(hvit.decompose(images).select("heads"), heads, FLOAT32_TOL)
        assert_close(hvit(images), heads.sum(dim=1), FLOAT32_TOL)


@pytest.mark.parametrize(
    ("sizes", "heads", "heads_and_mlps"),
    [((12, 12, 64, 512), 9_216, 15_360), ((24, 16, 64, 768), 24_576, 43_008)],
    ids=["CLIP-B", "CLIP-L"],
)
def test_parameter_counts_of_the_real_clips(sizes, heads, heads_and_mlps):
    bases = synthetic_bases(*sizes)
    assert ResiDual.from_bases(bases, variant="residual").parameter_count() == heads_and_mlps
    only_heads = {name: basis for name, basis in bases.items() if name.startswith("L")}
    heads_alone = type(bases)(only_heads, 64, "own", 1.0, 100, "synthetic", "0" * 64)
    assert ResiDual.from_bases(heads_alone, variant="residual").parameter_count() == heads


def basis_with(*variances: float, total: float | None = None) -> Basis:
    tensor = torch.tensor(variances)
    return Basis(torch.zeros(8), torch.eye(8)[: len(tensor)], tensor, float(tensor.sum()) if total is None else total)


@pytest.mark.parametrize(
    ("share", "count"), [(0.1, 1), (0.5, 1), (0.501, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.9, 4), (1.0, 4)]
)
def test_the_first_count_whose_cumulative_share_reaches_the_threshold(share, count):
    assert components_to_reach(basis_with(4.0, 2.0, 1.0, 1.0), share, "L0H0") == count


def test_released_bug_variance_that_is_never_reached_is_an_error_and_not_one_component():
    with pytest.raises(InputError, match=r"L0H0 holds 2 components with 60.0% of the variance.*not reach 90.0%"):
        components_to_reach(basis_with(4.0, 2.0, total=10.0), 0.9, "L0H0")
    truncated = cut(bases_for(wrapped()), {"L1H1": 2})
    with pytest.raises(InputError, match="L1H1 holds 2 components"):
        ResiDual.from_bases(truncated, variant="residual*", explained_variance=0.99)


def test_a_unit_that_does_not_vary_keeps_no_component():
    assert components_to_reach(basis_with(0.0, 0.0), 0.9, "L0H0") == 0
    hvit = wrapped()
    bases = bases_for(hvit)
    still = {name: basis_with(*[0.0] * 8) if name == "L1H1" else basis for name, basis in bases.items()}
    still["L1H1"] = Basis(torch.full((20,), 0.5), torch.eye(20)[:9], torch.zeros(9), 0.0)
    constant = type(bases)(still, 8, "own", bases.scale, 40, bases.model_name, bases.fingerprint)
    residual = ResiDual.from_bases(constant, variant="residual*", keep_mean=True)
    assert residual.scales_of("L1H1").shape == (0,)
    with torch.no_grad(), residual.attached(hvit):
        parts = hvit.decompose(tiny_images(hvit.source))
    assert_close(parts["L1H1"], torch.full((3, 20), 0.5), FLOAT32_TOL)


def test_lambda_starts_as_asked():
    bases = cut(bases_for(wrapped()), UNEVEN)
    ones = ResiDual.from_bases(bases, scales="ones").scales
    assert torch.equal(ones, torch.ones_like(ones))
    spectrum = ResiDual.from_bases(bases, scales="spectrum")
    for name in spectrum.config.units:
        deviations = bases[name].variances[: len(spectrum.scales_of(name))].sqrt()
        assert_close(spectrum.scales_of(name), deviations / deviations[0], FLOAT32_TOL)
        assert spectrum.scales_of(name)[0] == 1
    randn = [ResiDual.from_bases(bases, seed=seed).scales for seed in (0, 0, 1)]
    assert torch.equal(randn[0], randn[1])
    assert not torch.equal(randn[0], randn[2])


def test_randn_is_one_plus_noise_of_variance_one():
    scales = ResiDual.from_bases(synthetic_bases(12, 12, 64, 512)).scales.detach()
    # Five standard errors of mean and deviation of 15,360 draws.
    assert abs(float(scales.mean()) - 1) < 0.04
    assert abs(float(scales.std()) - 1) < 0.03


def test_lambda_starts_without_touching_the_global_generator():
    bases = bases_for(wrapped())
    state = torch.random.get_rng_state()
    ResiDual.from_bases(bases, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_scales_of_a_unit_are_a_view_of_lambda():
    residual = ResiDual.from_bases(cut(bases_for(wrapped()), UNEVEN), scales="ones")
    with torch.no_grad():
        residual.scales_of("L1H0")[:] = 7
    assert int((residual.scales == 7).sum()) == 5
    with pytest.raises(InputError, match="does not rescale 'embed'"):
        residual.scales_of("embed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "rd"}, r"variant must be 'residual\*' or 'residual', got 'rd'"),
        ({"scales": "zeros"}, "scales must be 'randn', 'ones' or 'spectrum', got 'zeros'"),
        ({"explained_variance": 0.0}, r"share in \(0, 1\], got 0.0"),
        ({"explained_variance": 90.0}, r"share in \(0, 1\], got 90.0"),
        ({"explained_variance": float("nan")}, r"share in \(0, 1\], got nan"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ResiDual.from_bases(bases_for(wrapped()), **options)


def test_bases_without_anything_to_scale_are_refused():
    bases = bases_for(wrapped(), units=("embed", "0_mlp_out"))
    with pytest.raises(InputError, match=r"cover no head \(they cover embed, 0_mlp_out"):
        ResiDual.from_bases(bases, variant="residual*")
    assert ResiDual.from_bases(bases, variant="residual").config.units == ("0_mlp_out",)


def test_making_a_residual_hooks_nothing():
    hvit = wrapped()
    ResiDual.from_bases(bases_for(hvit))
    assert hooks_in_force(hvit) == 0
