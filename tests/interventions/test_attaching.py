"""Adapters come and go with their context, their gradients are right, and nothing global is touched."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from residual_lens.errors import InputError, MismatchError
from residual_lens.interventions import ResiDual
from residual_lens.training import Coarse, LinearAdapter
from tests.interventions.tiny_bases import bases_for, hooks_in_force, scales_by_unit, wrapped
from tests.reference.residual import naive_residual
from tests.tiny_models import tiny_images
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

STEP = 1e-5
"""Of central differences in float64: their error is the square of it."""

DIFFERENCE_TOL = 1e-7
"""That square times third derivatives, and rounding over the step."""


@pytest.mark.parametrize("path", ["direct", "stream"])
@pytest.mark.parametrize("variant", ["residual*", "residual"])
@pytest.mark.parametrize("keep_mean", [False, True])
def test_gradients_of_lambda_and_of_images_equal_finite_differences(variant, path, keep_mean):
    hvit = wrapped().double()
    images = tiny_images(hvit.source, 2).double().requires_grad_()
    residual = ResiDual.from_bases(bases_for(hvit), variant=variant, keep_mean=keep_mean, seed=3).double()
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(2, hvit.cfg.d_out, generator=generator, dtype=torch.float64)

    def loss():
        with residual.attached(hvit, path=path):
            return (hvit(images) * probe).sum()

    gradients = torch.autograd.grad(loss(), [residual.scales, images])
    for values, gradient in zip((residual.scales, images), gradients, strict=True):
        direction = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            values += STEP * direction
            above = loss()
            values -= 2 * STEP * direction
            below = loss()
            values += STEP * direction
        slope = (gradient * direction).sum()
        assert slope.abs() > 0.01
        assert_close((above - below) / (2 * STEP), slope, DIFFERENCE_TOL)


@pytest.mark.parametrize("path", ["direct", "stream"])
def test_every_lambda_has_a_gradient_of_its_own(path):
    hvit = wrapped()
    residual = ResiDual.from_bases(bases_for(hvit), variant="residual*", explained_variance=0.8, seed=3)
    with residual.attached(hvit, path=path):
        (gradient,) = torch.autograd.grad(hvit(tiny_images(hvit.source)).square().sum(), residual.scales)
    assert bool((gradient != 0).all())


@pytest.mark.parametrize("path", ["direct", "stream"])
def test_no_hook_is_left_after_the_context_or_an_exception(hvit, images, path):
    residual = ResiDual.from_bases(bases_for(hvit), variant="residual*")
    before = hvit(images)
    with residual.attached(hvit, path=path):
        assert hooks_in_force(hvit) > 0
    assert hooks_in_force(hvit) == 0

    def fails():
        with residual.attached(hvit, path=path):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fails()
    assert hooks_in_force(hvit) == 0
    assert torch.equal(hvit(images), before)


@torch.no_grad()
def test_two_adapters_nest_and_act_in_order(hvit, images):
    bases = bases_for(hvit)
    first, second = (ResiDual.from_bases(bases, seed=seed) for seed in (1, 2))
    before = hvit.decompose(images)

    def twin(values, residual):
        scales = scales_by_unit(residual)
        return naive_residual(values, before.units.names, bases, scales, variant="residual", keep_mean=False)

    with first.attached(hvit):
        with second.attached(hvit):
            both = hvit.decompose(images).values
        after_inner = hvit.decompose(images).values
    assert_close(after_inner, twin(before.values, first), FLOAT32_TOL)
    assert_close(both, twin(twin(before.values, first), second), FLOAT32_TOL)
    assert_changed(twin(twin(before.values, second), first), both)
    assert_close(hvit.decompose(images).values, before.values, FLOAT32_TOL)
    assert hooks_in_force(hvit) == 0


@torch.no_grad()
def test_different_adapters_may_be_closed_in_any_order(hvit, images):
    residual, linear = ResiDual.from_bases(bases_for(hvit)), LinearAdapter(hvit.cfg.d_out)
    linear.bias += 1
    outer, inner = residual.attached(hvit), linear.attached(hvit)
    before = hvit(images)
    outer.__enter__()
    edited = hvit(images)
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert_close(hvit(images), before + 1, FLOAT32_TOL)
    inner.__exit__(None, None, None)
    assert_changed(edited, before)
    assert torch.equal(hvit(images), before)
    assert hooks_in_force(hvit) == 0


def test_scales_changed_inside_a_context_are_in_force_at_once(hvit, images):
    residual = ResiDual.from_bases(bases_for(hvit), scales="ones", keep_mean=True)
    with torch.no_grad(), residual.attached(hvit):
        before = hvit(images)
        residual.scales[0] = 9.0
        assert_changed(hvit(images), before)


def test_released_bug_no_function_of_torch_is_patched(hvit, images):
    names = ("scaled_dot_product_attention", "multi_head_attention_forward", "layer_norm", "linear", "softmax")
    originals = {name: getattr(F, name) for name in names}
    forward = torch.nn.MultiheadAttention.forward
    for adapter in (ResiDual.from_bases(bases_for(hvit)), Coarse(3, 3)):
        for path in ("direct", "stream"):
            with adapter.attached(hvit, path=path):
                hvit(images)
                assert {name: getattr(F, name) for name in names} == originals
                assert torch.nn.MultiheadAttention.forward is forward


@pytest.mark.parametrize("make", [lambda hvit: ResiDual.from_bases(bases_for(hvit)), lambda hvit: Coarse(3, 3)])
def test_unknown_paths_are_refused(hvit, make):
    with pytest.raises(InputError, match="'direct' or 'stream', got 'both'"), make(hvit).attached(hvit, path="both"):
        pass
    assert hooks_in_force(hvit) == 0


def refused(residual, hvit, message):
    for path in ("direct", "stream"):
        with pytest.raises(MismatchError, match=message), residual.attached(hvit, path=path):
            pass
    assert hooks_in_force(hvit) == 0


def test_bases_of_other_weights_are_refused():
    residual = ResiDual.from_bases(bases_for(wrapped()))
    refused(residual, wrapped(seed=1), "tiny ViT-B-16 with other weights .fingerprint .*Fit bases on this model")


def test_bases_are_refused_after_the_weights_changed():
    hvit = wrapped()
    residual = ResiDual.from_bases(bases_for(hvit))
    with torch.no_grad():
        hvit.source.ln_post.bias[0] += 1e-3
    refused(residual, hvit, "other weights")


def test_bases_of_other_units_are_refused():
    residual = ResiDual.from_bases(bases_for(wrapped("ViT-L-14")))
    refused(residual, wrapped(), r"tiny ViT-L-14 and rescales L0H3, which tiny ViT-B-16 does not have .3 layers × 3 ")


def test_bases_of_another_width_are_refused():
    hvit = wrapped()
    config = ResiDual.from_bases(bases_for(hvit)).config
    refused(ResiDual(replace(config, d_out=16)), hvit, "embedding has 16 dimensions; tiny ViT-B-16's has 20")


def test_bases_of_another_centring_are_refused():
    residual = ResiDual.from_bases(bases_for(wrapped(center="uniform")))
    refused(residual, wrapped(), r"center='uniform', the wrapper has center='own': wrap the model with .*or fit bases")


def test_uniform_bases_are_refused_on_the_stream_path():
    hvit = wrapped(center="uniform")
    residual = ResiDual.from_bases(bases_for(hvit))
    with pytest.raises(InputError, match="needs bases with center='own'"), residual.attached(hvit, path="stream"):
        pass
    assert not hooks_in_force(hvit)


def test_units_of_a_hook_point_must_stand_together():
    hvit = wrapped()
    config = ResiDual.from_bases(bases_for(hvit, units=("L0H0", "L0H1", "L1H0"))).config
    with pytest.raises(InputError, match="must stand together"):
        replace(config, units=("L0H0", "L1H0", "L0H1"))


def test_lambda_on_another_device_is_refused():
    hvit = wrapped()
    residual = ResiDual.from_bases(bases_for(hvit)).to("meta")
    refused(residual, hvit, r"λ lies on meta, the model on cpu: call residual.to\(hvit.device\)")
