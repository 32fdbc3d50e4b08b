"""fit_bases gives the PCA of the direct contributions that decompose returns, for every unit."""

import pytest
import torch

from residual_lens.bases import Bases, fit_bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from tests.reference.pca import covariance, naive_pca
from tests.tiny_models import tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_close

CASES = [
    ("ViT-B-16", "own"),
    ("ViT-B-16", "uniform"),
    ("layerscale", "own"),
    ("avg-norm-after-pool", "own"),
    ("avg-norm-after-pool", "uniform"),
    ("avg-norm-before-pool", "own"),
    ("avg-norm-before-pool", "uniform"),
    ("coca", "own"),
]
COVARIANCE_TOL = 10 * FLOAT32_TOL
"""Contributions rounded to float32, with means up to three times the spread."""

N_IMAGES = 40


def wrapped(kind: str, center: str = "own") -> HookedViT:
    return HookedViT.wrap(tiny_tower(kind), center=center)


def images_for(hvit: HookedViT, batch: int = N_IMAGES) -> torch.Tensor:
    return tiny_images(hvit.source, batch)


def assert_same_bases(actual: Bases, expected: Bases, tol: float) -> None:
    assert list(actual) == list(expected)
    assert (actual.n_samples, actual.fingerprint) == (expected.n_samples, expected.fingerprint)
    assert actual.scale == pytest.approx(expected.scale, rel=tol)
    for name in expected:
        assert_close(actual[name].mean, expected[name].mean, tol)
        assert_close(actual[name].variances, expected[name].variances, tol)
        ours, theirs = (covariance(b[name].components, b[name].variances) for b in (actual, expected))
        assert_close(ours, theirs, tol)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "center"), CASES)
def test_bases_are_the_naive_pca_of_the_contributions(kind, center):
    hvit = wrapped(kind, center)
    images = images_for(hvit)
    bases = fit_bases(hvit, images, units=("heads", "mlps", "embed"), batch_size=16)
    parts = hvit.decompose(images)
    naive = dict(zip(parts.units.names, naive_pca(parts.values), strict=True))
    assert set(bases) == set(naive) - {"bias"}
    for name, basis in bases.items():
        assert basis.components.dtype == torch.float32
        assert_close(basis.mean, naive[name].mean, FLOAT32_TOL)
        assert_close(basis.variances, naive[name].variances[: len(basis.variances)], COVARIANCE_TOL)
        expected = covariance(naive[name].components, naive[name].variances)
        assert_close(covariance(basis.components, basis.variances), expected, COVARIANCE_TOL)
        assert basis.total_variance == pytest.approx(float(naive[name].variances.sum()), rel=COVARIANCE_TOL)
        identity = torch.eye(len(basis.components))
        assert_close(basis.components @ basis.components.mT, identity, FLOAT32_TOL)


@pytest.mark.parametrize(("center", "rank"), [("own", 9), ("uniform", 11)])
def test_a_head_has_components_for_its_low_rank_and_another_unit_for_all_of_the_embedding(center, rank):
    hvit = wrapped("ViT-B-16", center)
    bases = fit_bases(hvit, images_for(hvit))
    assert hvit.cfg.d_head == bases.d_head == 8
    assert bases["L1H2"].components.shape == (rank, hvit.cfg.d_out)
    assert bases["1_mlp_out"].components.shape == (hvit.cfg.d_out, hvit.cfg.d_out)


def test_batches_of_any_size_equal_one_tensor(hvit):
    images = images_for(hvit)
    expected = fit_bases(hvit, images)
    assert_same_bases(fit_bases(hvit, images, batch_size=7), expected, FLOAT32_TOL)
    assert_same_bases(fit_bases(hvit, (images[:1], images[1:30], images[30:])), expected, FLOAT32_TOL)
    assert_same_bases(fit_bases(hvit, iter(images.split(13))), expected, FLOAT32_TOL)


def test_selected_units_alone_are_fitted_in_the_order_of_the_model(hvit):
    images = images_for(hvit)
    full = fit_bases(hvit, images)
    bases = fit_bases(hvit, images, units=["2_mlp_out", "L1", "L0H2", "embed"])
    assert list(bases) == ["embed", "L0H2", "L1H0", "L1H1", "L1H2", "1_mlp_out", "2_mlp_out"]
    for name in set(bases) - {"embed"}:
        assert torch.equal(bases[name].components, full[name].components)
    assert list(fit_bases(hvit, images, units="mlps")) == ["0_mlp_out", "1_mlp_out", "2_mlp_out"]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-after-pool", "avg-norm-before-pool"])
def test_scale_is_the_harmonic_mean_of_the_final_norms_deviation(kind):
    hvit = wrapped(kind)
    images = images_for(hvit)
    _, cache = hvit.run_with_cache(images, names_filter="ln_final.hook_scale")
    sigma = cache["ln_final.hook_scale"].double()
    pooled = sigma[:, 1:] if kind == "avg-norm-before-pool" else sigma
    expected = 1 / pooled.reciprocal().mean()
    assert fit_bases(hvit, images, units="L2H0", batch_size=9).scale == pytest.approx(float(expected), rel=FLOAT32_TOL)


def test_bases_know_what_they_belong_to(tower):
    hvit = HookedViT.wrap(tower, center="uniform", model_name="a tiny one")
    bases = fit_bases(hvit, images_for(hvit), units="L0")
    assert (bases.model_name, bases.center, bases.n_samples) == ("a tiny one", "uniform", N_IMAGES)
    assert bases.fingerprint == hvit.fingerprint()
    assert len(bases) == 4
    with pytest.raises(InputError, match=r"no unit 'L1H0'; they cover L0H0, L0H1"):
        bases["L1H0"]


def test_the_model_gets_no_gradients_and_no_hooks(hvit):
    fit_bases(hvit, images_for(hvit))
    assert all(parameter.grad is None for parameter in hvit.parameters())
    assert not any(point.fwd_hooks for point in hvit.hook_dict.values())


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (("heads", "bias"), "'bias' is what no unit writes"),
        ("L7H0", "no unit 'L7H0'"),
        ((), "No units were named"),
    ],
)
def test_units_without_a_basis_are_refused(hvit, images, units, message):
    with pytest.raises(InputError, match=message):
        fit_bases(hvit, images, units=units)


def test_too_few_or_wrong_images_are_refused(hvit):
    images = images_for(hvit, 2)
    with pytest.raises(InputError, match="at least two images, got 1"):
        fit_bases(hvit, images[:1])
    with pytest.raises(InputError, match="empty batch"):
        fit_bases(hvit, images[:0])
    with pytest.raises(InputError, match="at least two images, got 0"):
        fit_bases(hvit, [])
    with pytest.raises(InputError, match="Resize"):
        fit_bases(hvit, images[..., :8])
    with pytest.raises(InputError, match="NaN or infinite"):
        fit_bases(hvit, images * float("nan"))


def test_hooks_that_bases_would_not_show_are_refused(hvit, images):
    with (
        hvit.hooks([("blocks.0.attn.hook_direct", lambda u, hook: 7 * u)]),
        pytest.raises(MismatchError, match="direct hook is in force"),
    ):
        fit_bases(hvit, images)
    with (
        hvit.hooks([("blocks.2.hook_resid_mid", lambda x, hook: x + torch.randn_like(x))]),
        pytest.raises(MismatchError, match="no unit owns the change"),
    ):
        fit_bases(hvit, images)


def test_all_means_every_unit_but_bias_and_names_are_looked_up(hvit, images):
    bases = fit_bases(hvit, images, units="all")
    assert set(bases) == set(hvit.units.names) - {"bias"}
    assert "bias" not in bases
    assert "L0H0" in bases
    assert "L0H0" in hvit.units
    assert "L9H9" not in hvit.units


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_are_refused(hvit, images, count):
    with pytest.raises(InputError, match=f"at least two images, got {count}"):
        fit_bases(hvit, [images[:1]] * count)
