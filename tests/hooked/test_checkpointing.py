"""Gradient checkpointing: the same numbers and gradients, blocks that run twice, and no silent change of hooks."""

import pytest
import timm
import torch
from torch import Tensor

from residual_lens.errors import MismatchError
from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions import ResiDual
from tests.hooked.running import unchanged
from tests.interventions.tiny_bases import bases_for
from tests.tiny_models import draw_weights, tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

KINDS = ("ViT-B-16", "layerscale", "avg-norm-before-pool", "coca", "dinov3", "siglip")
TIMM = {
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 64}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 32}),
}


def wrapped(kind: str, **options: float) -> tuple[HookedViT, Tensor]:
    """A tiny model and images for it."""
    if kind in TIMM:
        name, size = TIMM[kind]
        tower = timm.create_model(name, embed_dim=32, depth=2, num_heads=4, num_classes=0, **size, **options).eval()
        draw_weights(tower, 0)
    else:
        tower = tiny_tower(kind)
    hvit = HookedViT.wrap(tower)
    generator = torch.Generator().manual_seed(1)
    return hvit, torch.randn(3, 3, *hvit.cfg.image_size, generator=generator).requires_grad_()


def runs_of_blocks(hvit: HookedViT) -> list[int]:
    """Layers in the order in which they start (a repetition ends early, once all that autograd needs is there)."""
    runs: list[int] = []
    for layer, block in enumerate(hvit.blocks):
        block.register_forward_pre_hook(lambda module, args, layer=layer: runs.append(layer))
    return runs


def gradients(hvit: HookedViT, images: Tensor, *others: Tensor, loss=lambda hvit, images: hvit(images).square().sum()):
    """The loss and its gradients for images, weights and others, None where nothing depends on one."""
    value = loss(hvit, images)
    return value, torch.autograd.grad(value, (images, *others, *hvit.parameters()), allow_unused=True)


def assert_same(checkpointed, plain) -> None:
    """The same loss, and the same gradients for the same leaves, bit for bit or almost."""
    assert_close(checkpointed[0], plain[0], FLOAT32_TOL)
    assert [g is None for g in checkpointed[1]] == [g is None for g in plain[1]]
    pairs = [(a, b) for a, b in zip(checkpointed[1], plain[1], strict=True) if a is not None]
    assert len(pairs) > 10
    for ours, expected in pairs:
        assert_close(ours, expected, FLOAT32_TOL)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_without_checkpointing_and_blocks_run_twice(kind):
    hvit, images = wrapped(kind)
    expected = gradients(hvit, images)
    runs = runs_of_blocks(hvit)
    hvit.set_grad_checkpointing()
    assert_same(gradients(hvit, images), expected)
    layers = list(range(hvit.cfg.n_layers))
    assert runs == layers + layers[::-1]


def test_blocks_run_once_without_gradients_and_after_switching_off():
    hvit, images = wrapped("ViT-B-16")
    runs = runs_of_blocks(hvit)
    hvit.set_grad_checkpointing()
    with torch.no_grad():
        hvit(images)
    hvit.set_grad_checkpointing(False)
    hvit(images).sum().backward()
    assert runs == [0, 1, 2] * 2


def test_less_is_kept_for_the_backward_pass():
    hvit, images = wrapped("ViT-B-16")

    def kept() -> int:
        sizes: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.setdefault(id(x), x.numel()) and x, lambda x: x):
            hvit(images)
        return sum(sizes.values())

    plain = kept()
    hvit.set_grad_checkpointing()
    assert kept() < plain / 2


@pytest.mark.parametrize("kind", ["patch-dropout", "dinov3", "siglip"])
def test_dropout_is_drawn_once_and_repeated(kind):
    options = {} if kind == "patch-dropout" else {"drop_path_rate": 0.5, "proj_drop_rate": 0.3}
    hvit, images = wrapped(kind, **options)
    hvit.train()

    def seeded():
        torch.manual_seed(3)
        return gradients(hvit, images)

    expected = seeded()
    hvit.eval()
    assert_changed(gradients(hvit, images)[0], expected[0])
    hvit.train()
    hvit.set_grad_checkpointing()
    assert_same(seeded(), expected)


@pytest.mark.parametrize("name", ["blocks.1.attn.hook_pattern", "blocks.0.hook_mlp_out", "blocks.2.attn.hook_direct"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_factor_in_a_hook_gets_its_gradient(name, in_place):
    hvit, images = wrapped("ViT-B-16")
    factor = torch.tensor(1.5, requires_grad=True)

    def scaled(activation, hook):
        if not in_place:
            return activation * factor
        activation *= factor
        return None

    with hvit.hooks([(name, scaled)]):
        expected = gradients(hvit, images, factor)
        hvit.set_grad_checkpointing()
        assert_same(gradients(hvit, images, factor), expected)
    assert expected[1][1].abs() > 0


@pytest.mark.parametrize("path", ["direct", "stream"])
def test_the_scales_of_residual_get_their_gradient(path):
    hvit, images = wrapped("ViT-B-16")
    residual = ResiDual.from_bases(bases_for(hvit), seed=2)
    with residual.attached(hvit, path=path):
        expected = gradients(hvit, images, residual.scales)
        runs = runs_of_blocks(hvit)
        hvit.set_grad_checkpointing()
        assert_same(gradients(hvit, images, residual.scales), expected)
    assert runs == [0, 1, 2, 2, 1, 0]
    assert expected[1][1].abs().max() > 0


def test_gradients_are_hooked_once():
    hvit, images = wrapped("ViT-B-16")
    seen: list[Tensor] = []

    def halved(gradient, hook):
        seen.append(gradient)
        return gradient / 2

    with hvit.hooks(bwd_hooks=[("blocks.1.hook_mlp_out", halved)]):
        expected = gradients(hvit, images)
        hvit.set_grad_checkpointing()
        assert_same(gradients(hvit, images), expected)
    assert len(seen) == 2
    assert_close(seen[1], seen[0], FLOAT32_TOL)


@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-before-pool", "coca", "dinov3"])
@pytest.mark.parametrize("tokens", [False, True])
def test_contributions_pass_out_of_checkpointed_blocks(kind, tokens):
    hvit, images = wrapped(kind)

    def loss(hvit, images):
        parts = hvit.decompose(images, tokens=tokens)
        total = (parts.values[:, ::2].square() * 3).sum() + parts["L1H1"].sum()
        return total + parts.tokens.layer(0).square().sum() if tokens else total

    expected = gradients(hvit, images, loss=loss)
    runs = runs_of_blocks(hvit)
    hvit.set_grad_checkpointing()
    assert_same(gradients(hvit, images, loss=loss), expected)
    assert len(runs) == 2 * hvit.cfg.n_layers


def test_half_precision_is_repeated_outside_its_context():
    hvit, images = wrapped("ViT-B-16")

    def loss(hvit, images):
        with torch.autocast("cpu", torch.bfloat16):
            return hvit(images).float().square().sum()

    expected = gradients(hvit, images, loss=loss)
    hvit.set_grad_checkpointing()
    assert_same(gradients(hvit, images, loss=loss), expected)


@pytest.mark.parametrize("direction", ["fwd_hooks", "bwd_hooks"])
@pytest.mark.parametrize("name", ["blocks.0.attn.hook_z", "blocks.2.attn.hook_direct"])
def test_a_context_left_before_the_backward_pass_is_an_error(direction, name):
    hvit, images = wrapped("ViT-B-16")
    hvit.set_grad_checkpointing()
    with hvit.hooks(**{direction: [(name, unchanged)]}):
        left = hvit(images).sum()
    with pytest.raises(MismatchError, match=r"call backward\(\) inside the hooks' context"):
        left.backward()


@pytest.mark.parametrize("path", ["direct", "stream"])
def test_residual_detached_before_the_backward_pass_is_an_error(path):
    hvit, images = wrapped("ViT-B-16")
    residual = ResiDual.from_bases(bases_for(hvit), seed=2)
    hvit.set_grad_checkpointing()
    with residual.attached(hvit, path=path):
        left = hvit(images).sum()
    with pytest.raises(MismatchError, match=r"call backward\(\) inside the hooks' context"):
        left.backward()


def test_a_context_entered_before_the_backward_pass_is_an_error():
    hvit, images = wrapped("ViT-B-16")
    hvit.set_grad_checkpointing()
    before = hvit(images).sum()
    with hvit.hooks([("blocks.0.attn.hook_z", unchanged)]), pytest.raises(MismatchError, match="changed between"):
        before.backward()
    hook = hvit.hook_dict["blocks.1.attn.hook_z"].register_forward_pre_hook(lambda module, args: None)
    before = hvit(images).sum()
    hook.remove()
    with pytest.raises(MismatchError, match="changed between"):
        before.backward()
