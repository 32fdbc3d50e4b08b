"""`ViTCache`: heads, neurons and everything at once, against loops in float64."""

import pytest
import torch
from timm.layers import RmsNorm

from residual_lens.hooked.vit import HookedViT
from tests.hooked.cached_by_hand import (
    ENDS,
    HEADS,
    LAYERS,
    cached,
    normalized_at,
    normed_by_hand,
    stream_at,
    wrapped,
    wrapped_timm,
    written_by_heads,
    written_by_neurons,
)
from tests.tiny_models import WIRINGS, tiny_images, tiny_tower
from tests.tolerances import BFLOAT16_SUM_TOL, FLOAT32_TOL, FLOAT64_TOL, assert_close


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


def test_float32_is_exact_enough(hvit, images):
    _, cache = hvit.run_with_cache(images)
    stack = cache.get_full_resid_decomposition(apply_ln=True)
    assert_close(stack.sum(dim=0), cache["ln_final.hook_normalized"], FLOAT32_TOL)


@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-before-pool"])
@pytest.mark.parametrize("expand", [True, False])
def test_norms_are_applied_in_float32_to_streams_of_half_precision(kind, expand):
    hvit = HookedViT.wrap(tiny_tower(kind).bfloat16())
    _, cache = hvit.run_with_cache(tiny_images(hvit.source, 2).bfloat16())
    stack = cache.get_full_resid_decomposition(expand_neurons=expand, apply_ln=True)
    assert stack.dtype == torch.float32
    assert_close(stack.sum(dim=0), cache["ln_final.hook_normalized"], BFLOAT16_SUM_TOL)
    directions = torch.eye(24, 2, dtype=torch.bfloat16)
    projected = cache.get_full_resid_decomposition(expand_neurons=expand, apply_ln=True, project_output_onto=directions)
    assert_close(projected, stack[..., :2], FLOAT32_TOL)
    assert cache.accumulated_resid(apply_ln=True).dtype == torch.bfloat16
