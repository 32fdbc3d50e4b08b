"""Heads' contributions by source token: equal to their naive twins, summing to the heads', refused where undefined."""

import pytest
import timm
import torch

from residual_lens.errors import InputError, MismatchError, UnsupportedModelError
from tests.decomposition.models import KINDS, TIMM, VIT, Kind, drawn, timm_kind
from tests.tolerances import (
    BFLOAT16_SUM_TOL,
    FLOAT32_AGAINST_FLOAT64_TOL,
    FLOAT32_TOL,
    FLOAT64_TOL,
    assert_changed,
    assert_close,
    relative_gap,
)

TOKEN_KINDS = (
    "ViT-B-16",
    "layerscale",
    "avg-norm-before-pool",
    "avg-norm-after-pool",
    "coca",
    "siglip-timm",
    "siglip-hf",
    "map-without-prefix",
    "perception-encoder",
    "rms-map",
    "normed-queries",
    "rotary-timm",
    "grouped-queries",
    "dinov3-hf",
)
POOLINGS = ("ViT-B-16", "avg-norm-before-pool", "avg-norm-after-pool", "siglip-timm")


def summed(parts):
    """`[batch head d_out]` of all layers, over tokens."""
    return torch.cat([parts.tokens.layer(layer).sum(dim=2) for layer in range(len(parts.tokens.values))], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_tokens_equal_their_naive_twins_and_sum_to_the_heads(kind):
    model, images = KINDS[kind].model(), KINDS[kind].images()
    naive = KINDS[kind].plain(model, images)
    hvit = KINDS[kind].wrapped(model)
    parts = hvit.decompose(images, tokens=True)
    assert_close(summed(parts), parts.select("heads"), FLOAT32_TOL)
    largest = max(float(value.abs().max()) for value in naive.units.values())
    for unit in hvit.units.select("heads"):
        expected = naive.by_token(unit.name)
        actual = parts.tokens[unit.name]
        assert actual.shape == expected.shape
        gap = float((actual.double() - expected).abs().max()) / largest
        assert gap <= FLOAT32_AGAINST_FLOAT64_TOL, f"{unit.name} differs by {gap:.1e}"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layerscale", "coca", "siglip-hf", "rotary-timm"])
def test_tokens_equal_their_naive_twins_to_float64_precision(kind):
    model, images = KINDS[kind].model(), KINDS[kind].images(2).double()
    naive = KINDS[kind].plain(model, images)
    # Hugging Face and timm keep rotary tables that a cast after building rounds.
    tokens = KINDS[kind].wrapped(model.double()).decompose(images, tokens=True).tokens
    for name in ("L0H1", "L1H2"):
        assert_close(tokens[name], naive.by_token(name), 10 * FLOAT64_TOL)


@torch.no_grad()
def test_asking_for_tokens_changes_no_unit_and_is_off_by_default():
    kind = KINDS["ViT-B-16"]
    hvit, images = kind.wrapped(), kind.images()
    plain, with_tokens = hvit.decompose(images), hvit.decompose(images, tokens=True)
    assert plain.tokens is None
    assert_close(with_tokens.values, plain.values, FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", POOLINGS)
def test_a_name_a_layer_and_directions_give_the_same_contributions(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    tokens = hvit.decompose(images, tokens=True).tokens
    directions = torch.randn(5, hvit.cfg.d_out, generator=torch.Generator().manual_seed(2))
    heads = [tokens[unit.name] for unit in hvit.units.select("heads")]
    by_name = torch.stack(heads, dim=1)
    assert torch.equal(torch.cat([tokens.layer(layer) for layer in range(hvit.cfg.n_layers)], dim=1), by_name)
    # [batch direction head pos], once with fewer directions than a head is wide and once with more.
    assert_close(tokens.towards(directions), torch.einsum("bhpd,kd->bkhp", by_name, directions), FLOAT32_TOL)
    many = directions.repeat(4, 1)
    assert_close(tokens.towards(many), torch.einsum("bhpd,kd->bkhp", by_name, many), FLOAT32_TOL)


def test_unknown_names_layers_and_directions_of_another_width_are_refused():
    hvit, images = KINDS["ViT-B-16"].wrapped(), KINDS["ViT-B-16"].images(1)
    tokens = hvit.decompose(images, tokens=True).tokens
    for name in ("0_mlp_out", "embed", "bias"):
        with pytest.raises(InputError, match=f"Only heads read from tokens; '{name}' is none"):
            tokens[name]
    with pytest.raises(InputError, match="no head 'L0H3': layers have 3 heads"):
        tokens["L0H3"]
    with pytest.raises(InputError, match="No unit is called 'H3'"):
        tokens["H3"]
    for layer in (3, -1):
        with pytest.raises(InputError, match=f"no layer {layer}: layers are 0 to 2"):
            tokens.layer(layer)
    with pytest.raises(InputError, match="no layer 7"):
        tokens["L7H0"]
    # Other numbers of axes are the type checker's in tests.
    with pytest.raises(InputError, match=r"directions must be \[direction, 20\], got \[2, 21\]"):
        tokens.towards(torch.ones(2, 21))


def test_uniform_centring_has_no_tokens():
    hvit, images = KINDS["ViT-B-16"].wrapped(center="uniform"), KINDS["ViT-B-16"].images(1)
    with pytest.raises(InputError, match="center='own'"):
        hvit.decompose(images, tokens=True)
    assert hvit.decompose(images, tokens=True, center="own").tokens is not None
    with pytest.raises(InputError, match="center='own'"):
        KINDS["ViT-B-16"].wrapped().decompose(images, center="uniform", tokens=True)


@pytest.mark.parametrize("point", ["blocks.1.attn.hook_direct", "hook_embed_direct"])
def test_tokens_are_refused_under_direct_hooks(point):
    hvit, images = KINDS["ViT-B-16"].wrapped(), KINDS["ViT-B-16"].images(1)
    with hvit.hooks([(point, lambda values, hook: 2 * values)]):
        with pytest.raises(MismatchError, match="leave its context, or decompose without tokens"):
            hvit.decompose(images, tokens=True)
        hvit.decompose(images)


@pytest.mark.parametrize(
    ("changes", "between"),
    [
        ({"name": "eva02_base_patch16_clip_224"}, "norm"),
        ({"name": VIT, "attn_layer": "gated"}, "gate"),
    ],
)
def test_a_norm_or_gate_between_values_and_output_has_no_tokens(changes, between):
    if between == "norm":
        model = drawn(timm.create_model(changes["name"], **TIMM, num_classes=0))
    else:
        model = timm.create_model(VIT, **TIMM, num_classes=0)
        for block in model.blocks:
            block.attn.gate = torch.nn.Linear(32, 32)
        model = drawn(model)
    kind = Kind(lambda: model)
    hvit, images = kind.wrapped(), kind.images(1)
    assert_close(hvit.decompose(images).total(), model(images), FLOAT32_TOL)
    with pytest.raises(UnsupportedModelError, match="puts a norm or gate between"):
        hvit.decompose(images, tokens=True)


def zero_at_token_2(pattern, hook):
    pattern = pattern.clone()
    pattern[..., 2] = 0
    return pattern


@torch.no_grad()
@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize("layer", [0, 1])
def test_edits_of_values_and_patterns_are_honoured(kind, layer):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    before = hvit.decompose(images, tokens=True).tokens

    def without_token_1(values, hook):
        values = values.clone()
        values[:, 1, 2] = 0
        return values

    with hvit.hooks([(f"blocks.{layer}.attn.hook_v", without_token_1)]):
        parts = hvit.decompose(images, tokens=True)
    assert_close(summed(parts), parts.select("heads"), FLOAT32_TOL)
    assert parts.tokens.values[layer][:, 1, 2].abs().max() == 0
    with hvit.hooks([(f"blocks.{layer}.attn.hook_pattern", zero_at_token_2)]):
        parts = hvit.decompose(images, tokens=True)
    # What is knocked out no longer sums to one, and neither does the bias go missing.
    assert_close(summed(parts), parts.select("heads"), FLOAT32_TOL)
    assert_changed(parts.tokens.layer(layer), before.layer(layer))
    of_values = parts.tokens.patterns[layer][..., 2]
    assert of_values.abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("point", ["hook_z", "hook_result"])
@pytest.mark.parametrize("kind", ["ViT-B-16", "siglip-timm"])
def test_reading_behind_the_sum_over_tokens_is_fine_and_editing_there_is_refused(kind, point):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images(2)
    name = f"blocks.1.attn.{point}"
    with hvit.hooks([(name, lambda activation, hook: None)]):
        parts = hvit.decompose(images, tokens=True)
        assert_close(summed(parts), parts.select("heads"), FLOAT32_TOL)
        with torch.autocast("cpu", torch.bfloat16):
            parts = hvit.decompose(images, tokens=True)
        assert_close(summed(parts), parts.select("heads"), BFLOAT16_SUM_TOL)
    for edit in (lambda activation, hook: 1.01 * activation, lambda activation, hook: activation * float("nan")):
        with hvit.hooks([(name, edit)]), pytest.raises(MismatchError):
            hvit.decompose(images, tokens=True)
    with (
        hvit.hooks([(name, lambda activation, hook: 1.01 * activation)]),
        pytest.raises(MismatchError, match=r"Layer 1's .* Edit hook_v or hook_pattern instead"),
    ):
        hvit.decompose(images, tokens=True)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"global_pool": "avg"}, {"global_pool": "map"}])
def test_dropped_attention_in_train_mode_is_what_the_heads_were_made_with(changes):
    kind = timm_kind(VIT, attn_drop_rate=0.3, **changes)
    model, images = kind.model().train(), kind.images()
    hvit = kind.wrapped(model)
    torch.manual_seed(4)
    parts = hvit.decompose(images, tokens=True)
    assert_close(summed(parts), parts.select("heads"), FLOAT32_TOL)
    assert all(
        relative_gap(pattern.sum(dim=-1), torch.ones(pattern.shape[:-1])) > 0.1 for pattern in parts.tokens.patterns
    )
    model.eval()
    hvit.eval()
    assert_changed(hvit.decompose(images).values, parts.values)


@pytest.mark.parametrize("kind", ["ViT-B-16", "siglip-timm"])
def test_tokens_are_differentiable(kind):
    model, images = KINDS[kind].model().double(), KINDS[kind].images(1).double().requires_grad_()
    hvit = KINDS[kind].wrapped(model)
    weights = [hvit.blocks[0].attn.parts.out.weight, hvit.blocks[1].attn.parts.out.bias]
    assert torch.autograd.gradcheck(
        lambda images, *weights: hvit.decompose(images, tokens=True).tokens.layer(1),
        (images, *weights),
        fast_mode=True,
        atol=1e-5,
    )


def test_gradients_through_tokens_are_those_through_the_heads():
    kind = KINDS["coca"]
    model, images = kind.model().double(), kind.images(2).double().requires_grad_()
    hvit = kind.wrapped(model)
    parts = hvit.decompose(images, tokens=True)
    probe = torch.randn(parts.select("heads").shape, generator=torch.Generator().manual_seed(3)).double()
    (ours,) = torch.autograd.grad((summed(parts) * probe).sum(), images, retain_graph=True)
    (theirs,) = torch.autograd.grad((parts.select("heads") * probe).sum(), images)
    assert_close(ours, theirs, 100 * FLOAT64_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-before-pool", "siglip-hf", "projection-with-bias"])
def test_bfloat16_tokens_are_close_to_the_naive_twin_of_the_same_weights(kind):
    model, images = KINDS[kind].model().to(torch.bfloat16), KINDS[kind].images().to(torch.bfloat16)
    naive = KINDS[kind].plain(model, images)
    hvit = KINDS[kind].wrapped(model)
    parts = hvit.decompose(images, tokens=True)
    assert parts.tokens.layer(0).dtype == torch.float32
    assert relative_gap(summed(parts), parts.select("heads")) <= BFLOAT16_SUM_TOL
    largest = float(naive.embedding.abs().max())
    for unit in hvit.units.select("heads"):
        gap = float((parts.tokens[unit.name].double() - naive.by_token(unit.name)).abs().max()) / largest
        assert gap <= BFLOAT16_SUM_TOL, f"{unit.name} differs by {gap:.1e} of the embedding"
