"""`ViTCache`: the methods of `ActivationCache` on a vision transformer, against loops in float64."""

import re
from functools import cache as cached_result

import pytest
import torch
import torch.nn.functional as F
from timm.layers import RmsNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformer_lens.utilities.slice import Slice

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.cache import ViTCache
from residual_lens.hooked.cache_lookup import NotCachedError
from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import WIRINGS, draw_weights, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_close

NORMED = tuple(kind for kind in WIRINGS if kind != "coca")
LAYERS = 3
HEADS = 3
ENDS = [(0, False), (0, True), (1, False), (2, True), (3, False)]
FINALS = (None, -1, LAYERS)
NAMES_FILTER = re.compile(r"names_filter=(lambda name: name\.endswith\(\(.*?\)\))")


@cached_result
def wrapped(kind: str = "ViT-B-16") -> HookedViT:
    """One model a kind, which no test changes."""
    return HookedViT.wrap(tiny_tower(kind).double())


def wrapped_timm(**options) -> HookedViT:
    options = {
        "img_size": 32,
        "patch_size": 16,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 3,
        "num_classes": 0,
    } | options
    model = VisionTransformer(**options).eval()
    draw_weights(model, seed=0)
    return HookedViT.wrap(model.double())


def cached(hvit: HookedViT, batch: int = 2, **options) -> ViTCache:
    _, cache = hvit.run_with_cache(tiny_images(hvit.source, batch).double(), **options)
    return cache


def stream_at(cache: ViTCache, layer: int, mlp_input: bool = False) -> Tensor:
    if layer == LAYERS:
        return cache["resid_post", LAYERS - 1]
    return cache["resid_mid" if mlp_input else "resid_pre", layer]


def normalized_at(cache: ViTCache, layer: int, mlp_input: bool = False) -> Tensor:
    if layer == LAYERS:
        return cache["ln_final.hook_normalized"]
    return cache["normalized", layer, "ln2" if mlp_input else "ln1"]


def normed_by_hand(hvit: HookedViT, cache: ViTCache, term: Tensor, layer: int, mlp_input: bool = False) -> Tensor:
    """One component, image by image and token by token."""
    name = "ln_final" if layer == LAYERS else f"blocks.{layer}.ln{2 if mlp_input else 1}"
    scale = cache[f"{name}.hook_scale"]
    if layer == LAYERS and scale.ndim == 2:
        term = term[:, 1:].mean(dim=1) if hvit.source.pool_type == "avg" else term[:, 0]
    out = torch.empty_like(term)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in term.shape[:-1])).reshape(-1, term.ndim - 1):
        at = tuple(place.tolist())
        out[at] = (term[at] - term[at].sum() / term.shape[-1]) / scale[at]
    return out


def written_by_neurons(hvit: HookedViT, cache: ViTCache, layer: int) -> list[Tensor]:
    block = hvit.source.transformer.resblocks[layer]
    gain = getattr(block.ls_2, "gamma", torch.ones(hvit.cfg.d_model, dtype=torch.float64))
    post = cache["post", layer]
    return [post[..., n, None] * (block.mlp.c_proj.weight[:, n] * gain) for n in range(hvit.cfg.d_mlp)]


def written_by_heads(hvit: HookedViT, cache: ViTCache, layer: int) -> list[Tensor]:
    block = hvit.source.transformer.resblocks[layer]
    gain = getattr(block.ls_1, "gamma", torch.ones(hvit.cfg.d_model, dtype=torch.float64))
    width = hvit.cfg.d_head
    columns = [block.attn.out_proj.weight[:, h * width : (h + 1) * width] for h in range(HEADS)]
    return [(cache["z", layer][:, :, h] @ columns[h].T) * gain for h in range(HEADS)]


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


@pytest.mark.parametrize("kind", WIRINGS)
@pytest.mark.parametrize("names", [("hook_z",), ("hook_result",)])
def test_heads_by_hand(kind, names):
    hvit = wrapped(kind)
    whole = cached(hvit)
    kept = (*names, "hook_resid_pre", "hook_resid_post", "hook_scale")
    cache = cached(hvit, names_filter=lambda name: name.endswith(kept))
    stack, labels = cache.stack_head_results(2, return_labels=True, incl_remainder=True)
    assert labels == [f"L{layer}H{head}" for layer in range(2) for head in range(HEADS)] + ["remainder"]
    expected = [term for layer in range(2) for term in written_by_heads(hvit, whole, layer)]
    for term, by_hand in zip(stack[:-1], expected, strict=True):
        assert_close(term, by_hand, FLOAT64_TOL)
    assert_close(stack.sum(dim=0), whole["resid_pre", 2], FLOAT64_TOL)
    normed = cache.stack_head_results(2, incl_remainder=True, apply_ln=True)
    assert_close(normed.sum(dim=0), whole["normalized", 2, "ln1"], FLOAT64_TOL)
    for term, by_hand in zip(normed[:-1], expected, strict=True):
        assert_close(term, normed_by_hand(hvit, whole, by_hand, 2), FLOAT64_TOL)
    if kind == "coca":
        return
    normed = cache.stack_head_results(incl_remainder=True, apply_ln=True)
    assert len(normed) == LAYERS * HEADS + 1
    assert_close(normed.sum(dim=0), whole["ln_final.hook_normalized"], FLOAT64_TOL)
    for term, by_hand in zip(normed[3:6], expected[3:], strict=True):
        assert_close(term, normed_by_hand(hvit, whole, by_hand, LAYERS), FLOAT64_TOL)


def test_head_results_are_added_to_the_cache_once(caplog):
    hvit = wrapped("layerscale")
    whole = cached(hvit)
    cache = cached(hvit, names_filter=lambda name: name.endswith("hook_z"))
    cache.compute_head_results()
    for layer in range(LAYERS):
        assert_close(cache["result", layer], whole["result", layer], FLOAT64_TOL)
    assert not caplog.records
    cache.compute_head_results()
    assert "already cached" in caplog.text


@pytest.mark.parametrize("kind", WIRINGS)
def test_neurons_by_hand(kind):
    hvit = wrapped(kind)
    cache = cached(hvit)
    for layer in range(2):
        single = cache.get_neuron_results(layer)
        for n, by_hand in enumerate(written_by_neurons(hvit, cache, layer)):
            assert_close(single[..., n, :], by_hand, FLOAT64_TOL)
        assert_close(cache.get_neuron_results(layer, neuron_slice=4, pos_slice=1), single[:, 1, 4], FLOAT64_TOL)
    expected = [term for layer in range(2) for term in written_by_neurons(hvit, cache, layer)]
    stack, labels = cache.stack_neuron_results(2, return_labels=True, incl_remainder=True)
    assert labels[:-1] == [f"L{layer}N{n}" for layer in range(2) for n in range(hvit.cfg.d_mlp)]
    assert labels[-1] == "remainder"
    for term, by_hand in zip(stack[:-1], expected, strict=True):
        assert_close(term, by_hand, FLOAT64_TOL)
    assert_close(stack.sum(dim=0), cache["resid_pre", 2], FLOAT64_TOL)
    normed = cache.stack_neuron_results(2, incl_remainder=True, apply_ln=True, mlp_input=True)
    assert_close(normed.sum(dim=0), cache["normalized", 2, "ln2"], FLOAT64_TOL)
    assert_close(normed[5], normed_by_hand(hvit, cache, expected[5], 2, True), FLOAT64_TOL)
    if kind != "coca":
        normed = cache.stack_neuron_results(-1, incl_remainder=True, apply_ln=True)
        assert_close(normed.sum(dim=0), cache["ln_final.hook_normalized"], FLOAT64_TOL)
        assert_close(normed[7], normed_by_hand(hvit, cache, expected[7], LAYERS), FLOAT64_TOL)


@pytest.mark.parametrize("neurons", [5, [5, 2], (2, 6, 2)])
def test_some_neurons(neurons):
    hvit = wrapped()
    cache = cached(hvit)
    chosen = {5: [5], (2, 6, 2): [2, 4]}.get(neurons if not isinstance(neurons, list) else None, [5, 2])
    stack, labels = cache.stack_neuron_results(2, neuron_slice=neurons, return_labels=True)
    assert labels == [f"L{layer}N{n}" for layer in range(2) for n in chosen]
    whole = [written_by_neurons(hvit, cache, layer)[n] for layer in range(2) for n in chosen]
    assert_close(stack, torch.stack(whole), FLOAT64_TOL)


@pytest.mark.parametrize("kind", WIRINGS)
@pytest.mark.parametrize("expand", [True, False])
def test_the_full_decomposition_adds_up(kind, expand):
    hvit = wrapped(kind)
    cache = cached(hvit)
    for layer, mlp_input in ENDS:
        check_full_decomposition(hvit, cache, layer, mlp_input, expand, final="coca" not in kind)


def check_full_decomposition(hvit, cache, layer, mlp_input, expand, *, final):
    stack, labels = cache.get_full_resid_decomposition(layer, mlp_input, expand, return_labels=True)
    heads = [f"L{index}H{head}" for index in range(layer + mlp_input) for head in range(HEADS)]
    neurons = [f"L{index}N{n}" for index in range(layer) for n in range(hvit.cfg.d_mlp)]
    assert labels == heads + (neurons if expand else [f"{index}_mlp_out" for index in range(layer)]) + ["embed", "bias"]
    assert_close(stack.sum(dim=0), stream_at(cache, layer, mlp_input), FLOAT64_TOL)
    terms = dict(zip(labels, stack, strict=True))
    assert_close(terms["embed"], cache["resid_pre", 0], FLOAT64_TOL)
    if layer:
        assert_close(terms["L0H1"], written_by_heads(hvit, cache, 0)[1], FLOAT64_TOL)
    assert (terms["bias"] == terms["bias"][:1, :1]).all()
    if layer == LAYERS and not final:
        return
    normed = cache.get_full_resid_decomposition(layer, mlp_input, expand, apply_ln=True)
    assert_close(normed.sum(dim=0), normalized_at(cache, layer, mlp_input), FLOAT64_TOL)
    assert_close(normed, cache.apply_ln_to_stack(stack, layer, mlp_input), FLOAT64_TOL)


@pytest.mark.parametrize("layer", [1, LAYERS])
@pytest.mark.parametrize("apply_ln", [False, True])
def test_projections_come_after_the_norm(layer, apply_ln, generator):
    cache = cached(wrapped())
    directions = torch.randn(24, 2, generator=generator, dtype=torch.float64)
    for call in (cache.get_full_resid_decomposition, cache.stack_neuron_results):
        options = {"apply_ln": apply_ln} | ({"incl_remainder": True} if call == cache.stack_neuron_results else {})
        whole, labels = call(layer, return_labels=True, **options)
        assert_close(call(layer, project_output_onto=directions, **options), whole @ directions, FLOAT64_TOL)
        single, same = call(layer, project_output_onto=directions[:, 0], return_labels=True, **options)
        assert_close(single, whole @ directions[:, 0], FLOAT64_TOL)
        assert same == labels
    empty = cache.stack_neuron_results(0, project_output_onto=directions)
    assert empty.shape == (0, 2, 5, 2)
    one = cache.get_neuron_results(1, project_output_onto=directions[:, 0])
    assert_close(one, cache.get_neuron_results(1) @ directions[:, 0], FLOAT64_TOL)


CALLS = [
    ("decompose_resid", (), {}),
    ("decompose_resid", (1,), {"apply_ln": True, "mlp_input": True}),
    ("decompose_resid", (), {"apply_ln": True}),
    ("accumulated_resid", (2,), {"apply_ln": True, "incl_mid": True}),
    ("accumulated_resid", (), {"apply_ln": True}),
    ("stack_head_results", (2,), {"apply_ln": True, "incl_remainder": True}),
    ("stack_head_results", (), {"apply_ln": True}),
    ("stack_neuron_results", (2,), {"incl_remainder": True}),
    ("stack_neuron_results", (-1,), {"apply_ln": True}),
    ("get_full_resid_decomposition", (1,), {"apply_ln": True}),
    ("get_full_resid_decomposition", (), {"apply_ln": True}),
]
FINAL_CALLS = [call for call in CALLS if call[1] in ((), (-1,)) and "apply_ln" in call[2]]
BLOCK_CALLS = [call for call in CALLS if call not in FINAL_CALLS]


@pytest.mark.parametrize(("method", "args", "options"), CALLS)
@pytest.mark.parametrize("kind", ["ViT-B-16", "clipa", "avg-norm-before-pool"])
def test_without_a_batch_axis(method, args, options, kind):
    hvit = wrapped(kind)
    expected = getattr(cached(hvit, 1), method)(*args, **options)[:, 0]
    assert_close(getattr(cached(hvit, 1, remove_batch_dim=True), method)(*args, **options), expected, FLOAT64_TOL)
    later = cached(hvit, 1).remove_batch_dim()
    assert_close(getattr(later, method)(*args, **options), expected, FLOAT64_TOL)
    sliced = cached(hvit, 3).apply_slice_to_batch_dim(0)
    assert isinstance(sliced, ViTCache)
    # Sums over tokens depend on the batch in their last bits.
    assert_close(getattr(sliced, method)(*args, **options), expected, 10 * FLOAT64_TOL)


@pytest.mark.parametrize(("method", "args", "options"), BLOCK_CALLS)
@pytest.mark.parametrize("positions", [2, [3, 0], (1, 4), (0, 5, 2)])
@pytest.mark.parametrize("remove_batch_dim", [False, True])
def test_positions_of_a_block(method, args, options, positions, remove_batch_dim):
    cache = cached(wrapped(), 1, remove_batch_dim=remove_batch_dim)
    whole = getattr(cache, method)(*args, **options)
    if isinstance(positions, int):
        expected = whole[..., positions, :]
    else:
        expected = whole[..., slice(*positions) if isinstance(positions, tuple) else positions, :]
    assert_close(getattr(cache, method)(*args, **options, pos_slice=positions), expected, FLOAT64_TOL)
    if method == "decompose_resid" and options.get("apply_ln"):
        raw = cache.decompose_resid(*args, mlp_input=True, pos_slice=positions)
        again = cache.apply_ln_to_stack(raw, *args, mlp_input=True, pos_slice=positions)
        assert_close(again, expected, FLOAT64_TOL)


@pytest.mark.parametrize(("method", "args", "options"), FINAL_CALLS)
@pytest.mark.parametrize("positions", [0, [0], (0, 2), [3, 0]])
def test_positions_that_hold_the_class_token_are_enough_for_the_final_norm(method, args, options, positions):
    cache = cached(wrapped())
    expected = getattr(cache, method)(*args, **options)
    assert expected.ndim == 3
    assert_close(getattr(cache, method)(*args, **options, pos_slice=positions), expected, FLOAT64_TOL)
    raw = cache.decompose_resid(pos_slice=positions)
    normed = cache.apply_ln_to_stack(raw, pos_slice=positions)
    assert_close(normed, cache.decompose_resid(apply_ln=True), FLOAT64_TOL)


@pytest.mark.parametrize(
    ("kind", "positions", "which"),
    [("ViT-B-16", 1, "position 0"), ("ViT-B-16", (1, 5), "position 0"), ("clipa", (0, 4), "positions 1 to 4")],
)
def test_positions_that_the_final_norm_needs_must_be_kept(kind, positions, which):
    cache = cached(wrapped(kind))
    with pytest.raises(InputError, match=f"pooled over {which}.*does not keep each of them once"):
        cache.decompose_resid(apply_ln=True, pos_slice=positions)
    with pytest.raises(InputError, match=f"pooled over {which}"):
        cache.apply_ln_to_stack(cache.decompose_resid(pos_slice=positions), pos_slice=positions)
    with pytest.raises(InputError, match=r"expected components at 5 positions, got \d.*Pass the pos_slice"):
        cache.apply_ln_to_stack(cache.decompose_resid(pos_slice=positions)[:, :, None][:, :, :1].flatten(2, -2))


def test_the_mean_needs_only_the_positions_that_it_takes():
    cache = cached(wrapped("clipa"))
    expected = cache.decompose_resid(apply_ln=True)
    assert_close(cache.decompose_resid(apply_ln=True, pos_slice=(1, 5)), expected, FLOAT64_TOL)
    assert_close(cache.decompose_resid(apply_ln=True, pos_slice=[4, 2, 3, 1]), expected, FLOAT64_TOL)
    with pytest.raises(InputError, match="keep each of them once"):
        cache.decompose_resid(apply_ln=True, pos_slice=[1, 2, 3, 4, 4])


def test_a_cache_cut_in_caching_says_how_to_go_on():
    hvit = wrapped()
    expected = cached(hvit).decompose_resid(apply_ln=True)
    cut = cached(hvit, pos_slice=0)
    with pytest.raises(InputError, match=r"holds 1 of 5 positions.*apply_ln_to_stack\(stack, pos_slice"):
        cut.decompose_resid(apply_ln=True)
    assert_close(cut.apply_ln_to_stack(cut.decompose_resid(), pos_slice=0), expected, FLOAT64_TOL)
    assert_close(cut.apply_ln_to_stack(cut.decompose_resid(), pos_slice=[0]), expected, FLOAT64_TOL)
    with pytest.raises(InputError, match="pooled over position 0"):
        cut.apply_ln_to_stack(cut.decompose_resid(), pos_slice=3)
    stack = cut.decompose_resid(2, apply_ln=True)
    assert_close(stack.sum(dim=0), cut["normalized", 2, "ln1"], FLOAT64_TOL)


@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-before-pool"])
@pytest.mark.parametrize("layer", [1, LAYERS])
def test_images_may_be_cut_from_a_stack(kind, layer):
    cache = cached(wrapped(kind), 4)
    raw = cache.decompose_resid(layer)
    expected = cache.decompose_resid(layer, apply_ln=True)
    assert_close(cache.apply_ln_to_stack(raw, layer, batch_slice=(1, 3)), expected[:, 1:3], FLOAT64_TOL)
    assert_close(cache.apply_ln_to_stack(raw, layer, batch_slice=2), expected[:, 2], FLOAT64_TOL)
    one = cache.apply_ln_to_stack(raw[:, 2], layer, batch_slice=2, has_batch_dim=False)
    assert_close(one, expected[:, 2], FLOAT64_TOL)
    with pytest.raises(InputError, match="do not fit the norm's scale"):
        cache.apply_ln_to_stack(raw[:, 2], layer, has_batch_dim=False)
    with pytest.raises(InputError, match="do not fit the norm's scale"):
        cache.apply_ln_to_stack(raw[:, :2], layer)
    some = cache.apply_slice_to_batch_dim([3, 1])
    assert_close(some.decompose_resid(layer, apply_ln=True), expected[:, [3, 1]], FLOAT64_TOL)


def test_a_stack_of_one_image_needs_no_batch_axis():
    cache = cached(wrapped(), 1)
    for layer in (1, LAYERS):
        expected = cache.decompose_resid(layer, apply_ln=True)[:, 0]
        raw = cache.decompose_resid(layer)[:, 0]
        assert_close(cache.apply_ln_to_stack(raw, layer, has_batch_dim=False), expected, FLOAT64_TOL)


@pytest.mark.parametrize(("method", "args", "options"), [*CALLS, ("compute_head_results", (), {})])
def test_what_is_missing_is_named_with_the_filter_that_caches_it(method, args, options):
    hvit = wrapped()
    cache = cached(hvit, names_filter="hook_embed")
    with pytest.raises(NotCachedError, match=r"^Not cached: (blocks\.\d|ln_final)\.") as caught:
        getattr(cache, method)(*args, **options)
    assert isinstance(caught.value, (InputError, KeyError))
    suggested = NAMES_FILTER.search(str(caught.value))
    enough = cached(hvit, names_filter=eval(suggested[1]))  # noqa: S307 - the message is ours
    expected = getattr(cached(hvit), method)(*args, **options)
    if expected is not None:
        assert_close(getattr(enough, method)(*args, **options), expected, FLOAT64_TOL)
    assert len(enough) < len(hvit.hook_dict) / 2


def test_lookups_say_what_is_missing():
    cache = cached(wrapped(), names_filter="blocks.1.attn.hook_z")
    with pytest.raises(NotCachedError, match=r"Not cached: blocks.2.attn.hook_z\..*endswith\(\('blocks.2.attn.hook_z'"):
        cache["z", -1]
    with pytest.raises(KeyError, match="hook_pattern"):
        cache["pattern", 0]
    with pytest.raises(InputError, match=r"There is no hook point 'blocks.0.attn.hook_zz'. Did you mean"):
        cache["blocks.0.attn.hook_zz"]
    assert "blocks.0.attn.hook_z" not in cache


def test_layers_and_modes_are_checked():
    cache = cached(wrapped())
    for layer in (4, -2):
        with pytest.raises(InputError, match=rf"layer={layer}: expected 0 to 3"):
            cache.decompose_resid(layer)
    for call in (cache.decompose_resid, cache.accumulated_resid, cache.get_full_resid_decomposition):
        with pytest.raises(InputError, match="the end of the stream: pass layer=0 to 2"):
            call(mlp_input=True)
    with pytest.raises(InputError, match="mode='heads': expected 'all', 'mlp' or 'attn'"):
        cache.decompose_resid(mode="heads")
    with pytest.raises(InputError, match=r"one image, got 2.*apply_slice_to_batch_dim"):
        cache.remove_batch_dim()
    with pytest.raises(InputError, match="nothing to slice"):
        cached(wrapped(), 1, remove_batch_dim=True).apply_slice_to_batch_dim(0)


@pytest.mark.parametrize("method", ["logit_lens", "logit_attrs"])
def test_logits_are_refused(method):
    with pytest.raises(UnsupportedModelError, match=r"no unembedding.*hvit.decompose"):
        getattr(cached(wrapped()), method)(torch.zeros(1), "a")


def test_stacks_hold_no_graph_and_leave_the_cache_alone():
    cache = cached(wrapped())
    before = {name: activation.clone() for name, activation in cache.items()}
    for method, args, options in CALLS:
        assert not getattr(cache, method)(*args, **options).requires_grad
    assert before.keys() == cache.keys()
    assert all(torch.equal(activation, cache[name]) for name, activation in before.items())


def test_a_stack_may_have_gradients():
    cache = cached(wrapped())
    stack = cache.decompose_resid().requires_grad_()
    cache.apply_ln_to_stack(stack).square().sum().backward()
    assert stack.grad[:, :, 0].abs().max() > 0
    assert stack.grad[:, :, 1:].abs().max() == 0


RMS = {"norm_layer": RmsNorm}
TIMM = [RMS, RMS | {"global_pool": "avg", "fc_norm": True}, RMS | {"global_pool": "avg"}, {"global_pool": "map"}]


@pytest.mark.parametrize("options", [*TIMM, {"class_token": True, "reg_tokens": 2}], ids=str)
@pytest.mark.parametrize("expand", [True, False])
def test_other_norms_poolings_and_tokens(options, expand, generator):
    hvit = wrapped_timm(**options)
    embedding, cache = hvit.run_with_cache(torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator))
    for layer, mlp_input in ENDS:
        stack = cache.get_full_resid_decomposition(layer, mlp_input, expand)
        assert_close(stack.sum(dim=0), stream_at(cache, layer, mlp_input), FLOAT64_TOL)
        normed = cache.get_full_resid_decomposition(layer, mlp_input, expand, apply_ln=True)
        assert_close(normed.sum(dim=0), normalized_at(cache, layer, mlp_input), FLOAT64_TOL)
        assert_close(normed, cache.apply_ln_to_stack(stack, layer, mlp_input), FLOAT64_TOL)
    if cache["ln_final.hook_scale"].ndim == 2:
        assert_close(cache.accumulated_resid(apply_ln=True)[-1], embedding, FLOAT64_TOL)


def test_images_of_another_size(generator):
    hvit = wrapped_timm(dynamic_img_size=True, global_pool="avg", fc_norm=True)
    images = torch.randn(2, 3, 48, 32, dtype=torch.float64, generator=generator)
    _, whole = hvit.run_with_cache(images)
    whole = ViTCache(whole.cache_dict, hvit, pos_slice=Slice(None))
    assert_close(whole.decompose_resid(apply_ln=True).sum(dim=0), whole["ln_final.hook_normalized"], FLOAT64_TOL)
    later = whole.apply_slice_to_batch_dim([1])
    assert_close(later.decompose_resid(apply_ln=True).sum(dim=0), later["ln_final.hook_normalized"], FLOAT64_TOL)
    # As many positions as an image of the usual size has: what was cut must be known.
    _, cut = hvit.run_with_cache(images, pos_slice=(0, hvit.cfg.n_ctx))
    cut = ViTCache(cut.cache_dict, hvit, pos_slice=(0, hvit.cfg.n_ctx))
    for cache in (cut, cut.apply_slice_to_batch_dim([0])):
        with pytest.raises(InputError, match="Cache without pos_slice"):
            cache.decompose_resid(apply_ln=True)


def test_float32_is_exact_enough(hvit, images):
    _, cache = hvit.run_with_cache(images)
    stack = cache.get_full_resid_decomposition(apply_ln=True)
    assert_close(stack.sum(dim=0), cache["ln_final.hook_normalized"], FLOAT32_TOL)
