"""Training through hooks: gradients of everything that takes part, hooks on gradients, weights in every form."""

import io

import pytest
import torch
from torch import Tensor

from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions import ResiDual
from tests.hooked.running import unchanged
from tests.interventions.tiny_bases import bases_for
from tests.tiny_models import WIRINGS, source_embedding, tiny_clip, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, GRADIENT_TOL, assert_changed, assert_close

POINTS = [
    name for name in HookedViT.wrap(tiny_tower("ViT-B-16")).hook_dict if not name.startswith(("blocks.0", "blocks.2"))
]
"""One middle block is enough where a property belongs to a point and not to its layer."""


def all_gradients(hvit: HookedViT, images: Tensor) -> Tensor:
    """Of images and weights in one vector; zeros where nothing depends on a leaf."""
    value, leaves = hvit(images).square().sum(), (images, *hvit.parameters())
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(leaf).flatten() for leaf in leaves])
    found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def gradients(hvit: HookedViT, images: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Of images and others."""
    return torch.autograd.grad(hvit(images).square().sum(), (images, *others))


@pytest.mark.parametrize("kind", WIRINGS)
def test_gradients_of_weights_and_images_are_the_sources(kind):
    hvit = HookedViT.wrap(tiny_tower(kind).double())
    images = tiny_images(hvit.source).double().requires_grad_()
    leaves = [images, *(p for p in hvit.parameters() if p.requires_grad)]
    expected = torch.autograd.grad(source_embedding(hvit.source, images).square().sum(), leaves, allow_unused=True)
    for hooks in ([], [(lambda name: True, unchanged)]):
        with hvit.hooks(hooks):
            found = torch.autograd.grad(hvit(images).square().sum(), leaves, allow_unused=True)
        for ours, theirs in zip(found, expected, strict=True):
            if theirs is not None:
                assert_close(ours, theirs, GRADIENT_TOL)


@pytest.mark.parametrize("kind", WIRINGS)
@pytest.mark.parametrize("path", ["direct", "stream"])
def test_the_gradient_of_the_scales_is_that_of_finite_differences(kind, path):
    hvit = HookedViT.wrap(tiny_tower(kind).double()).requires_grad_(False)
    images = tiny_images(hvit.source).double()
    residual = ResiDual.from_bases(bases_for(hvit), seed=2).double()
    direction = torch.randn(residual.scales.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    direction /= direction.norm()

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            residual.scales += step * direction
        value = hvit(images).square().sum()
        with torch.no_grad():
            residual.scales -= step * direction
        return value

    with residual.attached(hvit, path=path):
        (gradient,) = torch.autograd.grad(hvit(images).square().sum(), residual.scales)
        with torch.no_grad():
            slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    # Central differences: rounding of 1e-16 over a step of 1e-5, and the third derivative times its square.
    assert_close(gradient @ direction, slope, 1e-6)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", POINTS)
def test_a_gradient_can_be_read_and_replaced_at_every_point(name):
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16").double())
    images = tiny_images(hvit.source).double().requires_grad_()
    seen: list[Tensor] = []
    with hvit.hooks([(name, unchanged)]):
        plain = all_gradients(hvit, images)
    with hvit.hooks(bwd_hooks=[(name, lambda gradient, hook: seen.append(gradient.clone()))]):
        assert_close(all_gradients(hvit, images), plain, GRADIENT_TOL)
    assert len(seen) == 1
    assert seen[0].abs().max() > 0
    with hvit.hooks(bwd_hooks=[(name, lambda gradient, hook: gradient * 0)]):
        blocked = all_gradients(hvit, images)
    with hvit.hooks([(name, lambda activation, hook: activation.detach())]):
        expected = all_gradients(hvit, images)
    assert_changed(blocked, plain)
    assert (blocked - expected).abs().max() <= GRADIENT_TOL * plain.abs().max()


@pytest.mark.parametrize(
    "name", ["hook_embed", "blocks.0.attn.hook_pattern", "blocks.0.hook_resid_post", "hook_pooled"]
)
def test_edits_in_place_and_hooks_on_gradients_go_together(name):
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16").double())
    images = tiny_images(hvit.source).double().requires_grad_()
    after = {"blocks.0.hook_resid_post": "blocks.1.hook_resid_pre"}.get(name, name)

    def tripled(activation, hook):
        activation *= 3

    seen = []
    with hvit.hooks([(after, tripled)]):
        expected = gradients(hvit, images)[0]
    with hvit.hooks([(after, tripled)], bwd_hooks=[(name, lambda gradient, hook: seen.append(gradient))]):
        assert_close(gradients(hvit, images)[0], expected, GRADIENT_TOL)
    assert len(seen) == 1


def test_hooks_on_gradients_are_idle_without_gradients(hvit, images):
    everything = [(lambda name: True, lambda gradient, hook: gradient * 0)]
    with hvit.hooks([(lambda name: True, unchanged)]):
        expected = hvit(images)
    with hvit.hooks(bwd_hooks=everything):
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                assert_close(hvit(images), expected, FLOAT32_TOL)
                hvit.decompose(images)
        hvit.requires_grad_(False)
        assert_close(hvit(images), expected, FLOAT32_TOL)


@pytest.mark.parametrize("kind", ["ViT-B-16", "coca"])
def test_weights_travel_by_state_dict_and_by_file(kind):
    hvit, other = (HookedViT.wrap(tiny_tower(kind, seed=seed)) for seed in (0, 1))
    images = tiny_images(hvit.source)
    expected = hvit(images)
    assert_changed(other(images), expected)
    other.load_state_dict(hvit.state_dict())
    assert torch.equal(other(images), expected)
    assert_close(source_embedding(other.source, images), expected, FLOAT32_TOL)
    file = io.BytesIO()
    torch.save(hvit, file)
    file.seek(0)
    restored = torch.load(file, weights_only=False)
    assert torch.equal(restored(images), expected)
    with restored.hooks([("hook_image_embed", lambda x, hook: x * 2)]):
        assert torch.equal(restored(images), 2 * expected)
    assert_close(restored.decompose(images).total(), expected, FLOAT32_TOL)


def test_there_and_back_between_dtypes_with_hooks_in_force(hvit, images):
    with hvit.hooks([("blocks.1.attn.hook_z", lambda z, hook: z / 2)]):
        before = hvit(images)
        double = hvit.to(torch.float64)(images.double())
        assert double.dtype == torch.float64
        assert torch.equal(hvit.to(torch.float32)(images), before)
    assert_close(before.double(), double, FLOAT32_TOL)


def test_a_tower_that_is_part_of_a_larger_model_is_trained_with_it():
    model = tiny_clip("ViT-B-16").double()
    hvit = HookedViT.wrap(model)
    images = tiny_images(model).double()
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([*hvit.parameters(), factor], lr=1e-3)
    text = [p.clone() for name, p in model.named_parameters() if not name.startswith("visual")]
    with hvit.hooks([("blocks.0.hook_mlp_out", lambda x, hook: x * factor)]):
        first = hvit(images).square().mean()
        first.backward()
        optimizer.step()
        assert hvit(images).square().mean() < first
    assert factor != 2
    assert_close(hvit(images), source_embedding(model, images), FLOAT64_TOL)
    after = [p for name, p in model.named_parameters() if not name.startswith("visual")]
    assert all(torch.equal(old, kept) for old, kept in zip(text, after, strict=True))
