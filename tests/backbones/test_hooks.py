"""Every hook point of every backbone: its name; reading changes nothing; editing changes the embedding."""

import pytest
import torch
from torch import Tensor

from residual_lens.hooked.vit import HookedViT
from tests.backbones.backbone import DEPTH, Backbone, images_of
from tests.backbones.models import BACKBONES, WIRINGS
from tests.hooked.running import counted_attention, listening
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

OUTER = (
    *("hook_embed", "hook_pos_embed", "hook_full_embed", "hook_pooled", "hook_image_embed"),
    *("hook_embed_direct", "hook_bias_direct"),
)
LN = ("hook_scale", "hook_normalized")
BLOCK = (
    *(f"hook_resid_{where}" for where in ("pre", "mid", "post")),
    *("hook_attn_out", "hook_mlp_out", "hook_mlp_direct", "mlp.hook_pre", "mlp.hook_post"),
    *(f"{norm}.{point}" for norm in ("ln1", "ln2") for point in LN),
    *(f"attn.hook_{x}" for x in ("q", "k", "v", "attn_scores", "pattern", "z", "result", "direct")),
)

every_row_slowly = pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(backbone, id=backbone.name, marks=[] if backbone.name in WIRINGS else [pytest.mark.slow])
        for backbone in BACKBONES
    ],
)
every_backbone = pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)


def wrapped(backbone: Backbone) -> HookedViT:
    return HookedViT.wrap(backbone.build(), head=backbone.head)


def expected_names(backbone: Backbone) -> set[str]:
    """The names that follow from what the row says of itself."""
    words = f"{backbone.model} {backbone.special}"
    is_gated = "SwiGLU" in words or "gated MLP" in words
    is_rotary = any(word in words for word in ("rotary", "rotations", "gated attention", "sapiens2"))
    has_first_norm = any(word in words for word in ("CLIPModel", "CLIPVision", "norm before the blocks", "PE-Core"))
    has_first_norm |= backbone.source == "open_clip" and "tower of timm" not in words
    has_first_norm |= "pe_core" in words
    has_first_norm &= "no norm before" not in words
    block = (*BLOCK, *(("mlp.hook_pre_linear",) if is_gated else ()))
    block += ("attn.hook_rot_q", "attn.hook_rot_k") if is_rotary else ()
    names = {*OUTER, *(f"ln_final.{point}" for point in LN)}
    names |= {f"blocks.{layer}.{point}" for layer in range(DEPTH) for point in block}
    names |= {f"ln_pre.{point}" for point in LN} if has_first_norm else set()
    if "attention" in backbone.pooling:
        names.add("pool.hook_pattern")
    if "MLP" in backbone.pooling:
        names |= {f"pool.{point}" for point in ("hook_mlp_out", "hook_mlp_direct", "mlp.hook_pre", "mlp.hook_post")}
        names |= {f"pool.ln_mlp.{point}" for point in LN}
    elif "attention" in backbone.pooling:
        names |= {f"pool.ln_tokens.{point}" for point in LN}
    return names


def noise_like(activation: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(activation.shape, generator=generator).to(activation)


def returned_noise(activation, hook):
    return noise_like(activation).abs() + 0.1 if hook.name.endswith("hook_scale") else noise_like(activation)


def noise_in_place(activation, hook):
    activation.copy_(returned_noise(activation, hook))


@every_backbone
def test_hook_points_have_exactly_the_designed_names(backbone: Backbone) -> None:
    assert set(wrapped(backbone).hook_dict) == expected_names(backbone)


@torch.no_grad()
@every_backbone
def test_every_point_fires_once_and_reading_changes_nothing(backbone: Backbone) -> None:
    hvit = wrapped(backbone)
    images = images_of(hvit.cfg.image_size)
    seen: list[str] = []
    before = hvit(images)
    with hvit.hooks([(name, lambda activation, hook: seen.append(hook.name)) for name in hvit.hook_dict]):
        assert_close(hvit(images), before, FLOAT32_TOL)
    assert sorted(seen) == sorted(hvit.hook_dict)
    assert torch.equal(hvit(images), before)


@torch.no_grad()
@every_row_slowly
def test_an_edit_at_any_point_changes_the_embedding_returned_or_in_place_until_it_is_removed(
    backbone: Backbone,
) -> None:
    hvit = wrapped(backbone)
    # A single image, because the positions of one image are the parameter's own memory.
    images = images_of(hvit.cfg.image_size, batch=1)
    weights = {key: value.clone() for key, value in hvit.source.state_dict().items()}
    before = hvit(images)
    for name in hvit.hook_dict:
        with hvit.hooks([(name, returned_noise)]):
            returned = hvit(images)
        with hvit.hooks([(name, noise_in_place)]):
            in_place = hvit(images)
        try:
            assert_changed(returned, before)
            assert_close(in_place, returned, FLOAT32_TOL)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
    assert torch.equal(hvit(images), before)
    assert all(torch.equal(value, weights[key]) for key, value in hvit.source.state_dict().items())


@torch.no_grad()
@every_backbone
def test_the_embedding_stays_when_attention_is_spelled_out(backbone: Backbone) -> None:
    module = backbone.build()
    hvit = HookedViT.wrap(module, head=backbone.head)
    images = images_of(hvit.cfg.image_size)
    expected = backbone.embedding(module, images)
    layers = range(hvit.cfg.n_layers)
    for point, spelled_out in (("hook_pattern", len(layers)), ("hook_result", 0)):
        with listening(hvit, *(f"blocks.{layer}.attn.{point}" for layer in layers)), counted_attention() as attention:
            actual = hvit(images)
        assert_close(actual, expected, FLOAT32_TOL)
        assert attention["unfused"] == spelled_out


@torch.no_grad()
@every_backbone
def test_a_pattern_weighs_the_tokens_that_a_head_reads(backbone: Backbone) -> None:
    """Rows sum to one, and mix the values into what the output projection is given, where nothing stands between."""
    hvit = wrapped(backbone)
    names = [f"blocks.0.attn.hook_{name}" for name in ("pattern", "v", "z")]
    _, cache = hvit.run_with_cache(images_of(hvit.cfg.image_size), names_filter=names)
    attention = hvit.parts.blocks[0].attention
    pattern, values = cache["pattern", 0], cache["v", 0]
    assert_close(pattern.sum(dim=-1), torch.ones_like(pattern[..., 0]), FLOAT32_TOL)
    mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, values)
    if attention.inner_norm is None and attention.gate is None:
        assert_close(mixed, cache["z", 0], FLOAT32_TOL)
    else:
        assert_changed(mixed, cache["z", 0])
