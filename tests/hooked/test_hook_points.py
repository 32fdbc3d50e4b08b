"""Every hook point: its exact name and shape, reading changes nothing, editing changes the output and can be undone."""

import pytest
import torch
from transformer_lens.hook_points import HookPoint

from residual_lens.hooked.vit import HookedViT
from tests.hooked.running import counted_attention, listening
from tests.tiny_models import KINDS, WIRINGS, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, GRADIENT_TOL, assert_changed, assert_close

LAYERS, HEADS = 3, 3
OUTER = ("hook_embed", "hook_pos_embed", "hook_full_embed", "hook_pooled", "hook_image_embed")
OUTER_DIRECT = ("hook_embed_direct", "hook_bias_direct")
LN = ("hook_scale", "hook_normalized")
ATTN = tuple(f"attn.hook_{x}" for x in ("q", "k", "v", "attn_scores", "pattern", "z", "result", "direct"))
BLOCK = (
    *(f"hook_resid_{where}" for where in ("pre", "mid", "post")),
    *("hook_attn_out", "hook_mlp_out", "hook_mlp_direct", "mlp.hook_pre", "mlp.hook_post"),
    *(f"{norm}.{point}" for norm in ("ln1", "ln2") for point in LN),
    *ATTN,
)
NAMES = (
    *OUTER,
    *OUTER_DIRECT,
    *(f"{norm}.{point}" for norm in ("ln_pre", "ln_final") for point in LN),
    *(f"blocks.{layer}.{point}" for layer in range(LAYERS) for point in BLOCK),
)
# One middle block of the plain model is enough where a property belongs to a point and not to its layer.
ONE_BLOCK = tuple(name for name in NAMES if not name.startswith(("blocks.0.", "blocks.2.")))
# Everywhere in the plain model; before and at the end in the other wirings.
CASES = [
    (kind, name)
    for kind in WIRINGS
    for name in NAMES
    if not (kind == "clipa" and name.startswith("ln_pre")) and (kind == "ViT-B-16" or not name.startswith("blocks.1."))
] + [
    ("coca", name)
    for name in ("pool.hook_pattern", *(f"pool.ln_tokens.{point}" for point in ("hook_scale", "hook_normalized")))
]


POOLER = ("pool.hook_pattern", *(f"pool.ln_tokens.{point}" for point in LN))


def has_pooler(kind: str) -> bool:
    return kind in ("coca", "attention-pool-of-equal-width")


def expected_names(kind: str) -> set[str]:
    without_ln_pre = kind in ("clipa", "no-ln-pre")
    names = {name for name in NAMES if not (without_ln_pre and name.startswith("ln_pre"))}
    return names | set(POOLER) if has_pooler(kind) else names


def noise_like(activation: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(activation.shape, generator=generator, dtype=torch.float64).to(activation)


def returned_noise(activation, hook):
    return noise_like(activation).abs() if hook.name.endswith("hook_scale") else noise_like(activation)


def noise_in_place(activation, hook):
    activation.copy_(returned_noise(activation, hook))


@pytest.mark.parametrize("kind", KINDS)
def test_hook_points_have_exactly_the_designed_names(kind):
    hvit = HookedViT.wrap(tiny_tower(kind))
    assert set(hvit.hook_dict) == expected_names(kind)
    assert all(isinstance(point, HookPoint) and point.name == name for name, point in hvit.hook_dict.items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_point_fires_once_with_its_shape(kind):
    hvit = HookedViT.wrap(tiny_tower(kind))
    cfg, batch = hvit.cfg, 2
    seen: dict[str, list[tuple[int, ...]]] = {}
    hooks = [(lambda name: True, lambda x, hook: seen.setdefault(hook.name, []).append(tuple(x.shape)))]
    hvit.run_with_hooks(tiny_images(hvit.parts.tower, batch), fwd_hooks=hooks)
    tokens = (batch, cfg.n_ctx)
    stream, one = (*tokens, cfg.d_model), (*tokens, 1)
    by_head = (*tokens, cfg.n_heads, cfg.d_head)
    square = (batch, cfg.n_heads, cfg.n_ctx, cfg.n_ctx)
    pooled = (batch, hvit.ln_final.parts.module.normalized_shape[0])
    normed_tokens = kind == "avg-norm-before-pool"
    shapes = {
        **dict.fromkeys(("hook_embed", "hook_pos_embed", "hook_full_embed"), stream),
        **{"ln_pre.hook_scale": one, "ln_pre.hook_normalized": stream, "hook_pooled": pooled},
        "ln_final.hook_scale": one if normed_tokens else (batch, 1),
        "ln_final.hook_normalized": stream if normed_tokens else pooled,
        **dict.fromkeys(("hook_embed_direct", "hook_bias_direct", "hook_image_embed"), (batch, cfg.d_out)),
        **{"pool.hook_pattern": (batch, 2, cfg.n_ctx), "pool.ln_tokens.hook_scale": one},
        "pool.ln_tokens.hook_normalized": stream,
    }
    for layer in range(cfg.n_layers):
        block = f"blocks.{layer}"
        shapes |= {f"{block}.hook_{x}": stream for x in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")}
        shapes |= {f"{block}.{norm}.hook_scale": one for norm in ("ln1", "ln2")}
        shapes |= {f"{block}.{norm}.hook_normalized": stream for norm in ("ln1", "ln2")}
        shapes |= {f"{block}.attn.hook_{x}": by_head for x in ("q", "k", "v", "z")}
        shapes |= {f"{block}.attn.hook_{x}": square for x in ("attn_scores", "pattern")}
        shapes |= {f"{block}.mlp.hook_{x}": (*tokens, cfg.d_mlp) for x in ("pre", "post")}
        shapes[f"{block}.attn.hook_result"] = (*tokens, cfg.n_heads, cfg.d_model)
        shapes[f"{block}.attn.hook_direct"] = (batch, cfg.n_heads, cfg.d_out)
        shapes[f"{block}.hook_mlp_direct"] = (batch, cfg.d_out)
    assert seen == {name: [shapes[name]] for name in expected_names(kind)}


def weights_of(hvit: HookedViT) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in hvit.source.state_dict().items()}


@pytest.mark.parametrize("point", [point for point in BLOCK if not point.endswith("direct")])
def test_a_token_point_of_the_last_block_alone_makes_it_run_at_every_token(point):
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16"))
    _, cache = hvit.run_with_cache(tiny_images(hvit.parts.tower), names_filter=f"blocks.2.{point}")
    shape = cache[f"blocks.2.{point}"].shape
    assert shape[2 if point in ("attn.hook_attn_scores", "attn.hook_pattern") else 1] == hvit.cfg.n_ctx


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_reading_changes_nothing_and_editing_changes_the_output_until_removed(kind, name):
    hvit = HookedViT.wrap(tiny_tower(kind))
    images = tiny_images(hvit.parts.tower)
    seen = []
    with torch.no_grad():
        before = hvit(images)
        with hvit.hooks([(name, lambda activation, hook: seen.append(hook.name))]):
            assert_close(hvit(images), before, FLOAT32_TOL)
        with hvit.hooks([(name, returned_noise)]):
            assert_changed(hvit(images), before)
        assert torch.equal(hvit(images), before)
    assert seen == [name]


@pytest.mark.parametrize("name", NAMES)
def test_edits_in_place_change_the_output_and_never_reach_weights_or_images(name):
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16"))
    weights = weights_of(hvit)
    # A single image, because the positions of one image are the parameter's own memory.
    images = tiny_images(hvit.parts.tower, batch=1)
    original = images.clone()
    with torch.no_grad():
        before = hvit(images)
        with hvit.hooks([(name, noise_in_place)]):
            assert_changed(hvit(images), before)
        assert torch.equal(hvit(images), before)
    assert torch.equal(images, original)
    assert all(torch.equal(value, weights[key]) for key, value in hvit.source.state_dict().items())


@pytest.mark.parametrize("name", ONE_BLOCK)
def test_gradients_flow_through_an_edit_in_place_and_to_what_comes_before_it(name):
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16").double())
    images = tiny_images(hvit.parts.tower).double().requires_grad_()
    factor = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def rescale_in_place(activation, hook):
        activation[0] *= factor

    def rescaled(activation, hook):
        return torch.cat([activation[:1] * factor, activation[1:]])

    gradients = []
    for hook in (rescale_in_place, rescaled):
        with hvit.hooks([(name, hook)]):
            gradients.append(torch.autograd.grad(hvit(images).square().sum(), (factor, images)))
    (factor_in_place, images_in_place), (factor_returned, images_returned) = gradients
    assert_close(factor_in_place, factor_returned, GRADIENT_TOL)
    assert_close(images_in_place, images_returned, GRADIENT_TOL)
    assert factor_returned != 0


@pytest.mark.parametrize("name", ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_z", "hook_pooled"])
def test_permanent_and_plain_torch_hooks_count_as_listening(name):
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16"))
    images = tiny_images(hvit.parts.tower)
    before = hvit(images)
    hvit.add_perma_hook(name, returned_noise)
    edited = hvit(images)
    assert_changed(edited, before)
    hvit.reset_hooks(including_permanent=True)
    handle = hvit.hook_dict[name].register_forward_hook(lambda module, args, out: noise_like(out))
    assert_close(hvit(images), edited, FLOAT32_TOL)
    handle.remove()
    assert torch.equal(hvit(images), before)


def test_listening_to_one_layer_leaves_the_others_fused():
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16"))
    with listening(hvit, "blocks.1.attn.hook_pattern"), counted_attention() as attention:
        hvit(tiny_images(hvit.parts.tower))
    assert attention == {"fused": 2, "unfused": 1}
