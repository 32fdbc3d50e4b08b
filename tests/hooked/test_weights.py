"""`W_Q W_K W_V W_O W_in W_out` and their biases are the source's own numbers, as views, in TransformerLens' layout."""

import pytest
import timm
import torch

from residual_lens.hooked.vit import HookedViT
from tests.decomposition.models import KINDS, TIMM, Kind, drawn, open_clip_kind, timm_kind
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close

WITH_WEIGHTS = {
    "fused": open_clip_kind("ViT-B-16"),
    "layerscale": open_clip_kind("layerscale"),
    "separate": KINDS["siglip-hf"],
    "fused-hf": KINDS["projection-with-bias"],
    "no-key-bias": KINDS["dinov3-hf"],
    "no-bias": timm_kind("vit_base_patch16_224", qkv_bias=False, proj_bias=False),
    "eva-no-key-bias": timm_kind("eva02_tiny_patch14_224", global_pool="token"),
    "eva-separate": timm_kind("eva02_base_patch14_224", global_pool="token"),
    "eva-layerscale": timm_kind("vit_small_patch16_dinov3", global_pool="token"),
    "grouped-queries": KINDS["grouped-queries"],
    "packed-gate": Kind(
        lambda: drawn(timm.create_model("vit_small_patch14_reg4_dinov2", **TIMM, num_classes=0, mlp_layer=packed))
    ),
}


MLP_NAMES = ("W_in", "b_in", "W_out", "b_out")


def packed(*args, **kwargs):
    return timm.layers.SwiGLUPacked(*args, **kwargs)


def wrapped(kind):
    return WITH_WEIGHTS[kind].wrapped(), WITH_WEIGHTS[kind].images(2)


def everything(hvit: HookedViT, images):
    """All activations, scales included."""
    return hvit.run_with_cache(images)[1]


@torch.no_grad()
@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_queries_keys_and_values_are_the_normed_stream_times_the_weights(kind):
    hvit, images = wrapped(kind)
    cache = everything(hvit, images)
    for layer, block in enumerate(hvit.blocks):
        normed = in_affine(block.ln1, cache[f"blocks.{layer}.ln1.hook_normalized"])
        for name in "QKV":
            weight, bias = getattr(block.attn, f"W_{name}"), getattr(block.attn, f"b_{name}")
            cfg = hvit.cfg
            assert weight.shape == (cfg.n_heads, cfg.d_model, cfg.d_head)
            assert bias.shape == (cfg.n_heads, cfg.d_head)
            expected = torch.einsum("bpm,hmd->bphd", normed, weight) + bias
            assert_close(cache[f"blocks.{layer}.attn.hook_{name.lower()}"], expected, FLOAT32_TOL)


def in_affine(norm, normalized):
    gain, offset = norm.parts.gain, norm.parts.offset
    normalized = normalized if gain is None else normalized * gain
    return normalized if offset is None else normalized + offset


@torch.no_grad()
@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_what_is_written_is_z_and_post_times_the_weights(kind):
    hvit, images = wrapped(kind)
    cache = everything(hvit, images)
    for layer, block in enumerate(hvit.blocks):
        z, post = cache[f"blocks.{layer}.attn.hook_z"], cache[f"blocks.{layer}.mlp.hook_post"]
        assert block.attn.W_O.shape == (hvit.cfg.n_heads, hvit.cfg.d_head, hvit.cfg.d_model)
        result = torch.einsum("bphd,hdm->bphm", z, block.attn.W_O)
        assert_close(cache[f"blocks.{layer}.attn.hook_result"], result, FLOAT32_TOL)
        assert_close(cache[f"blocks.{layer}.hook_attn_out"], result.sum(dim=2) + block.attn.b_O, FLOAT32_TOL)
        assert_close(cache[f"blocks.{layer}.hook_mlp_out"], post @ block.mlp.W_out + block.mlp.b_out, FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_what_the_activation_and_its_gate_see_is_the_normed_stream_times_the_weights(kind):
    hvit, images = wrapped(kind)
    cache = everything(hvit, images)
    for layer, block in enumerate(hvit.blocks):
        normed = in_affine(block.ln2, cache[f"blocks.{layer}.ln2.hook_normalized"])
        linear = normed @ block.mlp.W_in + block.mlp.b_in
        pre = cache[f"blocks.{layer}.mlp.hook_pre"]
        if block.mlp.W_gate is None:
            assert block.mlp.b_gate is None
            assert_close(pre, linear, FLOAT32_TOL)
        else:
            assert_close(pre, normed @ block.mlp.W_gate + block.mlp.b_gate, FLOAT32_TOL)
            assert_close(cache[f"blocks.{layer}.mlp.hook_pre_linear"], linear, FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "gated"), [("fused", False), ("eva-separate", True), ("packed-gate", True)])
def test_gated_mlps_have_a_gate(kind, gated):
    hvit, _ = wrapped(kind)
    mlp = hvit.blocks[0].mlp
    assert (mlp.W_gate is not None) == gated
    if gated:
        x = torch.randn(2, 5, hvit.cfg.d_model, generator=torch.Generator().manual_seed(1))
        gate, linear = x @ mlp.W_gate + mlp.b_gate, x @ mlp.W_in + mlp.b_in
        source = WITH_WEIGHTS[kind].model().blocks[0].mlp
        inner = source.norm(source.act(gate) * linear)
        assert_close(inner @ source.fc2.weight.T + source.fc2.bias, source(x), FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("name", ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"])
@pytest.mark.parametrize("kind", ["fused", "separate", "fused-hf"])
def test_writing_through_a_view_of_a_block_changes_the_source(kind, name):
    hvit, images = wrapped(kind)
    before = {key: value.clone() for key, value in hvit.source.state_dict().items()}
    # An offset that all keys share moves no softmax.
    changes_output = name != "b_K"
    embedding = WITH_WEIGHTS[kind].embed(hvit.source, images)
    view = getattr(hvit.blocks[0].attn, name)
    (view if name == "b_O" else view[1]).mul_(-2.0)
    changed = [key for key, value in hvit.source.state_dict().items() if not torch.equal(value, before[key])]
    assert len(changed) == 1
    after = WITH_WEIGHTS[kind].embed(hvit.source, images)
    if changes_output:
        assert_changed(after, embedding)
    assert_close(hvit(images), after, FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("fused", "separate", "eva-separate") for name in MLP_NAMES]
    # LayerScale is folded into its W_out and b_out, which are no views then.
    + [("packed-gate", "W_in"), ("packed-gate", "b_in")],
)
def test_writing_through_a_view_of_an_mlp_changes_the_source(kind, name):
    hvit, images = wrapped(kind)
    embedding = WITH_WEIGHTS[kind].embed(hvit.source, images)
    getattr(hvit.blocks[0].mlp, name).mul_(-2.0)
    after = WITH_WEIGHTS[kind].embed(hvit.source, images)
    assert_changed(after, embedding)
    assert_close(hvit(images), after, FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layerscale", "eva-layerscale", "no-key-bias"])
def test_layerscale_is_folded_in(kind):
    hvit, _ = wrapped(kind)
    block = hvit.blocks[1]
    attention, mlp = block.attn.parts, block.mlp.parts
    gain = attention.gain()
    assert float((gain - 1).abs().max()) > 0.1
    by_head = torch.stack(attention.out.weight.T.chunk(hvit.cfg.n_heads))
    assert_close(block.attn.W_O, by_head * gain, FLOAT64_TOL)
    assert_close(block.attn.b_O, attention.out.bias * gain, FLOAT64_TOL)
    assert_close(block.mlp.W_out, mlp.out.weight.T * mlp.gain(), FLOAT64_TOL)
    assert_close(block.mlp.b_out, mlp.out.bias * mlp.gain(), FLOAT64_TOL)


@torch.no_grad()
def test_missing_biases_are_zeros():
    for kind in ("no-key-bias", "eva-no-key-bias", "eva-separate"):
        hvit, _ = wrapped(kind)
        assert hvit.b_K.abs().max() == 0
        assert hvit.b_V.abs().max() > 0
    hvit, _ = wrapped("no-bias")
    assert max(float(b.abs().max()) for b in (hvit.b_Q, hvit.b_K, hvit.b_V, hvit.b_O)) == 0


@torch.no_grad()
def test_heads_of_a_group_have_the_same_keys_and_values():
    hvit, _ = wrapped("grouped-queries")
    attention, source = hvit.blocks[0].attn, hvit.source.blocks[0].attn
    assert source.k_proj.out_features == hvit.cfg.d_model // 2
    for head in range(hvit.cfg.n_heads):
        rows = slice(head // 2 * hvit.cfg.d_head, (head // 2 + 1) * hvit.cfg.d_head)
        assert torch.equal(attention.W_K[head], source.k_proj.weight[rows].T)
        assert torch.equal(attention.W_V[head], source.v_proj.weight[rows].T)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fused", "layerscale", "eva-separate", "no-key-bias"])
def test_stacks_are_the_blocks_views_layer_by_layer(kind):
    hvit, _ = wrapped(kind)
    for module, names in (("attn", ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")), ("mlp", MLP_NAMES)):
        for name in names:
            stack = getattr(hvit, name)
            assert len(stack) == hvit.cfg.n_layers
            for layer, block in enumerate(hvit.blocks):
                assert torch.equal(stack[layer], getattr(getattr(block, module), name))
    before = hvit.blocks[0].attn.W_Q.clone()
    hvit.W_Q.zero_()
    assert torch.equal(hvit.blocks[0].attn.W_Q, before)


@torch.no_grad()
def test_a_replaced_parameter_is_seen():
    hvit, images = wrapped("fused")
    before = hvit(images)
    attention = hvit.source.transformer.resblocks[1].attn
    attention.in_proj_weight = torch.nn.Parameter(-attention.in_proj_weight)
    attention.out_proj.weight = torch.nn.Parameter(2 * attention.out_proj.weight)
    assert torch.equal(hvit.blocks[1].attn.W_V[0], attention.in_proj_weight[48:56].T)
    assert torch.equal(hvit.blocks[1].attn.W_O[0], attention.out_proj.weight[:, :8].T)
    assert_changed(hvit(images), before)


def test_gradients_flow_through_views_to_the_sources_parameters():
    hvit, _ = wrapped("layerscale")
    hvit.W_O.sum().backward()
    block = hvit.source.transformer.resblocks[0]
    assert block.attn.out_proj.weight.grad.abs().max() > 0
    assert block.ls_1.gamma.grad.abs().max() > 0
