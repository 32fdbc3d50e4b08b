"""`ViTCache`: the stream by layers, behind the norms that read it, against loops in float64 and TransformerLens."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from transformer_lens import ActivationCache

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.cache.activation_cache import ViTCache
from residual_lens.hooked.cache.stream import StreamCache
from tests.hooked.cached_by_hand import (
    ENDS,
    FINALS,
    HEADS,
    LAYERS,
    NORMED,
    cached,
    normalized_at,
    normed_by_hand,
    stream_at,
    wrapped,
)
from tests.tiny_models import WIRINGS, tiny_images
from tests.tolerances import FLOAT64_TOL, assert_close


@pytest.mark.parametrize("kind", WIRINGS)
def test_layers_add_up_to_the_stream(kind):
    cache = cached(wrapped(kind))
    for layer, mlp_input in ENDS:
        check_layers(cache, layer, mlp_input)


def check_layers(cache, layer, mlp_input):
    stack, labels = cache.decompose_resid(layer, mlp_input, return_labels=True)
    outputs = [f"{index}_{part}_out" for index in range(layer) for part in ("attn", "mlp")]
    assert labels == ["embed", *outputs] + ([f"{layer}_attn_out"] if mlp_input else [])
    assert_close(stack.sum(dim=0), stream_at(cache, layer, mlp_input), FLOAT64_TOL)
    assert_close(stack[0], cache["resid_pre", 0], FLOAT64_TOL)
    for label, term in zip(labels[1:], stack[1:], strict=True):
        index, _, part = label.partition("_")
        assert_close(term, cache[part, int(index)], FLOAT64_TOL)


def test_modes_leave_out_the_other_kind():
    cache = cached(wrapped())
    attention, labels = cache.decompose_resid(2, mlp_input=True, mode="attn", incl_embeds=False, return_labels=True)
    assert labels == ["0_attn_out", "1_attn_out", "2_attn_out"]
    mlps, labels = cache.decompose_resid(2, mlp_input=True, mode="mlp", return_labels=True)
    assert labels == ["embed", "0_mlp_out", "1_mlp_out"]
    assert_close(attention.sum(dim=0) + mlps.sum(dim=0), cache["resid_mid", 2], FLOAT64_TOL)
    assert cache.decompose_resid(0, mode="mlp", incl_embeds=False).shape == (0, 2, 5, 24)


@pytest.mark.parametrize("kind", WIRINGS)
def test_normed_layers_add_up_to_the_input_of_a_block(kind):
    hvit = wrapped(kind)
    cache = cached(hvit)
    for layer, mlp_input in ENDS[:-1]:
        check_normed_layers(hvit, cache, layer, mlp_input)


def check_normed_layers(hvit, cache, layer, mlp_input):
    raw = cache.decompose_resid(layer, mlp_input)
    stack = cache.decompose_resid(layer, mlp_input, apply_ln=True)
    assert_close(stack.sum(dim=0), normalized_at(cache, layer, mlp_input), FLOAT64_TOL)
    assert_close(cache.apply_ln_to_stack(raw, layer, mlp_input), stack, FLOAT64_TOL)
    for term, normed in zip(raw, stack, strict=True):
        assert_close(normed, normed_by_hand(hvit, cache, term, layer, mlp_input), FLOAT64_TOL)


@pytest.mark.parametrize("kind", NORMED)
@pytest.mark.parametrize("final", FINALS)
def test_normed_layers_add_up_behind_the_final_norm(kind, final):
    hvit = wrapped(kind)
    cache = cached(hvit)
    raw = cache.decompose_resid(final)
    stack = cache.decompose_resid(final, apply_ln=True)
    assert_close(stack.sum(dim=0), cache["ln_final.hook_normalized"], FLOAT64_TOL)
    assert_close(cache.apply_ln_to_stack(raw, final), stack, FLOAT64_TOL)
    for term, normed in zip(raw, stack, strict=True):
        assert_close(normed, normed_by_hand(hvit, cache, term, LAYERS), FLOAT64_TOL)


@pytest.mark.parametrize("kind", NORMED)
def test_normed_components_are_the_direct_contributions_before_gain_and_projection(kind):
    hvit = wrapped(kind)
    images = tiny_images(hvit.source, 2).double()
    embedding, cache = hvit.run_with_cache(images)
    parts = hvit.decompose(images)
    stack, labels = cache.get_full_resid_decomposition(expand_neurons=False, apply_ln=True, return_labels=True)
    stack = stack[:, :, 1:].mean(dim=2) if stack.ndim == 4 else stack
    direct = stack * hvit.source.ln_post.weight @ hvit.source.proj
    by_label = dict(zip(labels, direct, strict=True))
    assert_close(by_label["embed"], parts["embed"], FLOAT64_TOL)
    bias = by_label.pop("bias")
    for layer, block in enumerate(hvit.blocks):
        assert_close(by_label[f"{layer}_mlp_out"], parts[f"{layer}_mlp_out"], FLOAT64_TOL)
        # A unit has its share of the output bias.
        share = cache.apply_ln_to_stack(block.attn.b_O.expand(1, 2, 5, 24).detach() / HEADS)[0]
        share = share[:, 1:].mean(dim=1) if share.ndim == 3 else share
        share = share * hvit.source.ln_post.weight @ hvit.source.proj
        for head in range(HEADS):
            assert_close(by_label[f"L{layer}H{head}"] + share, parts[f"L{layer}H{head}"], FLOAT64_TOL)
            bias = bias - share
    assert bias.abs().max() < FLOAT64_TOL * embedding.abs().max()


def test_the_final_norm_behind_attention_pooling_is_refused_and_no_other():
    cache = cached(wrapped("coca"))
    for call in (cache.decompose_resid, cache.accumulated_resid, cache.stack_head_results):
        with pytest.raises(UnsupportedModelError, match=r"behind an attention pooling.*hvit.decompose"):
            call(apply_ln=True)
    with pytest.raises(UnsupportedModelError, match="behind an attention pooling"):
        cache.apply_ln_to_stack(cache.decompose_resid())
    stack = cache.get_full_resid_decomposition(1, apply_ln=True)
    assert_close(stack.sum(dim=0), cache["normalized", 1, "ln1"], FLOAT64_TOL)


@pytest.mark.parametrize("kind", NORMED)
def test_accumulated_streams_behind_the_final_norm_are_what_a_shorter_model_would_embed(kind):
    hvit = wrapped(kind)
    embedding, cache = hvit.run_with_cache(tiny_images(hvit.source, 2).double())
    stack, labels = cache.accumulated_resid(apply_ln=True, incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid", "2_pre", "2_mid", "final_post"]
    source = hvit.source
    embeddings = []
    for row in stack:
        vector = row[:, 1:].mean(dim=1) if row.ndim == 3 else row
        embeddings.append(vector @ source.proj)
    assert_close(embeddings[-1], embedding, FLOAT64_TOL)
    norm = source.ln_post
    for label, seen in zip(labels[:-1], embeddings, strict=False):
        index, _, part = label.partition("_")
        x = cache[f"resid_{part}", int(index)]
        if kind == "avg-norm-before-pool":
            expected = F.layer_norm(x, (24,), norm.weight, norm.bias, norm.eps)[:, 1:].mean(dim=1)
        else:
            pooled = x[:, 1:].mean(dim=1) if source.pool_type == "avg" else x[:, 0]
            expected = F.layer_norm(pooled, (24,), norm.weight, norm.bias, norm.eps)
        assert_close(seen, expected @ source.proj, FLOAT64_TOL)


def test_accumulated_streams_up_to_a_block():
    hvit = wrapped()
    cache = cached(hvit)
    stack, labels = cache.accumulated_resid(1, incl_mid=True, mlp_input=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid"]
    for label, row in zip(labels, stack, strict=True):
        assert_close(row, cache[f"resid_{label[2:]}", int(label[0])], FLOAT64_TOL)
    normed = cache.accumulated_resid(1, mlp_input=True, apply_ln=True)
    assert len(normed) == 3
    assert_close(normed[-1], cache["normalized", 1, "ln2"], FLOAT64_TOL)
    assert_close(normed[0], normed_by_hand(hvit, cache, cache["resid_pre", 0], 1, True), FLOAT64_TOL)
    normed = cache.accumulated_resid(2, apply_ln=True)
    assert_close(normed[-1], cache["normalized", 2, "ln1"], FLOAT64_TOL)


SHARED = [
    ("decompose_resid", (2,), {"mlp_input": True, "apply_ln": True}),
    ("decompose_resid", (2,), {"mode": "mlp", "pos_slice": (1, 4)}),
    ("accumulated_resid", (2,), {"incl_mid": True, "mlp_input": True, "apply_ln": True}),
    ("accumulated_resid", (), {"incl_mid": True}),
    ("stack_head_results", (2,), {"apply_ln": True, "incl_remainder": True, "pos_slice": [3, 1]}),
    ("stack_neuron_results", (2,), {"apply_ln": True, "incl_remainder": True, "mlp_input": True, "neuron_slice": 3}),
    ("stack_neuron_results", (-1,), {"incl_remainder": True, "pos_slice": 2}),
]


@pytest.mark.parametrize(("method", "args", "options"), SHARED)
def test_transformer_lens_gives_the_same_where_its_assumptions_hold(method, args, options):
    # No norm behind the embedding, and no final norm asked for.
    cache = cached(wrapped("no-ln-pre"))
    plain = ActivationCache(dict(cache.cache_dict), cache.model)
    expected, labels = getattr(plain, method)(*args, **options, return_labels=True)
    if labels[:2] == ["embed", "pos_embed"]:
        expected, labels = torch.cat([expected[:2].sum(dim=0, keepdim=True), expected[2:]]), ["embed", *labels[2:]]
    actual, same = getattr(cache, method)(*args, **options, return_labels=True)
    assert same == labels
    assert_close(actual, expected, FLOAT64_TOL)


@pytest.mark.parametrize("method", sorted(name for name in vars(StreamCache) | vars(ViTCache) if name[0] != "_"))
def test_signatures_are_transformer_lens_own(method):
    if method in ("logit_lens", "logit_attrs"):
        return
    ours, theirs = (inspect.signature(getattr(cls, method)).parameters for cls in (ViTCache, ActivationCache))
    assert list(ours) == list(theirs)
    assert [ours[name].default for name in ours] == [theirs[name].default for name in ours]
