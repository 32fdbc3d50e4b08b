"""The wrapper computes what open_clip computes: whole and layer by layer, for every kind of config."""

import copy

import open_clip
import pytest
import torch

from residual_lens.hooked.vit import HookedViT
from tests.hooked.running import counted_attention, counted_blocks, listening
from tests.tiny_models import KINDS, TOKEN_POOLED, source_embedding, tiny_clip, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, GRADIENT_TOL, assert_close


def has_pooler(hvit: HookedViT) -> bool:
    """Whether one more attention runs, which pools the tokens."""
    return hvit.parts.tower.attn_pool is not None


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_embedding_is_that_of_open_clip(kind, grad, training):
    tower = tiny_tower(kind).train(training)
    images = tiny_images(tower)
    hvit = HookedViT.wrap(tower)
    with torch.set_grad_enabled(grad):
        torch.manual_seed(3)
        expected = source_embedding(tower, images)
        torch.manual_seed(3)
        with counted_blocks(hvit) as positions, counted_attention() as attention:
            actual = hvit(images)
    assert_close(actual, expected, FLOAT32_TOL)
    assert actual.requires_grad == grad
    assert len(positions) == hvit.cfg.n_layers
    assert attention == {"fused": hvit.cfg.n_layers + has_pooler(hvit)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_gives_what_open_clips_block_gives(kind):
    tower = tiny_tower(kind)
    images = tiny_images(tower)
    hvit = HookedViT.wrap(tower)
    blocks = tower.transformer.resblocks
    expected, handles = [], []
    for block in blocks:
        handles.append(block.register_forward_hook(lambda module, args, out: expected.append((args[0], out))))
    source_embedding(tower, images)
    for handle in handles:
        handle.remove()
    names = [f"blocks.{layer}.hook_resid_{end}" for layer in range(len(blocks)) for end in ("pre", "post")]
    with counted_blocks(hvit) as positions:
        _, cache = hvit.run_with_cache(images, names_filter=names)
    assert positions == [hvit.cfg.n_ctx] * len(blocks)
    for layer, (before, after) in enumerate(expected):
        assert_close(cache["resid_pre", layer], before, FLOAT32_TOL)
        assert_close(cache["resid_post", layer], after, FLOAT32_TOL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", ["attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_result", "attn.hook_z"])
def test_embedding_stays_when_attention_is_spelled_out(kind, point):
    tower = tiny_tower(kind)
    images = tiny_images(tower)
    hvit = HookedViT.wrap(tower)
    names = [f"blocks.{layer}.{point}" for layer in range(hvit.cfg.n_layers)]
    with listening(hvit, *names), counted_attention() as attention:
        actual = hvit(images)
    assert_close(actual, source_embedding(tower, images), FLOAT32_TOL)
    spelled_out = hvit.cfg.n_layers if point in ("attn.hook_pattern", "attn.hook_attn_scores") else 0
    assert attention["unfused"] == spelled_out
    assert attention["fused"] == hvit.cfg.n_layers + has_pooler(hvit) - spelled_out


@pytest.mark.parametrize("kind", KINDS)
def test_last_block_runs_at_the_pooled_token_alone_where_nothing_listens_to_its_tokens(kind):
    hvit = HookedViT.wrap(tiny_tower(kind))
    images = tiny_images(hvit.parts.tower)
    with counted_blocks(hvit) as positions, listening(hvit, "blocks.0.attn.hook_z", "blocks.2.attn.hook_direct"):
        shortened = hvit(images)
    with counted_blocks(hvit) as whole, listening(hvit, "blocks.2.hook_resid_post"):
        in_full = hvit(images)
    n_ctx = hvit.cfg.n_ctx
    assert positions == [n_ctx, n_ctx, 1 if kind in (*TOKEN_POOLED, "patch-dropout") else n_ctx]
    assert whole == [n_ctx] * 3
    assert_close(shortened, in_full, FLOAT32_TOL)


@pytest.mark.parametrize("kind", ["ViT-B-16", "clipa"])
@pytest.mark.parametrize("custom_text", [False, True])
def test_whole_clip_objects_give_their_image_embedding(kind, custom_text):
    model = tiny_clip(kind, custom_text=custom_text)
    assert isinstance(model, open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)
    images = tiny_images(model)
    assert_close(HookedViT.wrap(model)(images), model.encode_image(images), FLOAT32_TOL)


def test_coca_objects_give_their_image_embedding_before_normalisation():
    config = open_clip.get_model_config("coca_ViT-B-32")
    assert config["vision_cfg"]["output_tokens"]
    tower = tiny_tower("coca")
    images = tiny_images(tower)
    pooled, tokens = tower(images)
    assert tokens.ndim == 3
    assert_close(HookedViT.wrap(tower)(images), pooled, FLOAT32_TOL)


def test_patch_dropout_drops_the_same_patches_in_train_mode():
    tower = tiny_tower("patch-dropout").train()
    images = tiny_images(tower)
    hvit = HookedViT.wrap(tower)
    with listening(hvit, "blocks.0.hook_resid_pre"), counted_blocks(hvit) as positions:
        torch.manual_seed(5)
        actual = hvit(images)
    torch.manual_seed(5)
    assert_close(actual, tower(images), FLOAT32_TOL)
    assert positions[0] == 1 + (hvit.cfg.n_ctx - 1) // 2


def test_attention_dropout_acts_in_train_mode_only():
    tower = tiny_tower("ViT-B-16")
    for block in tower.transformer.resblocks:
        block.attn.dropout = 0.4
    images = tiny_images(tower)
    hvit = HookedViT.wrap(tower)
    assert_close(hvit(images), tower(images), FLOAT32_TOL)
    tower.train()
    for names in ([], [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]):
        with listening(hvit, *names):
            torch.manual_seed(1)
            first = hvit(images)
            torch.manual_seed(2)
            assert not torch.equal(hvit(images), first)


@pytest.mark.parametrize("kind", KINDS)
def test_parity_holds_in_float64_to_its_own_precision(kind):
    tower = copy.deepcopy(tiny_tower(kind)).double()
    images = tiny_images(tower).double()
    assert_close(HookedViT.wrap(tower)(images), source_embedding(tower, images), FLOAT64_TOL)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_weight_are_those_of_open_clip(kind):
    tower = copy.deepcopy(tiny_tower(kind)).double()
    images = tiny_images(tower).double()
    weights = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    probe = torch.randn(3, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.autograd.grad((source_embedding(tower, images) * probe).sum(), weights)
    actual = torch.autograd.grad((HookedViT.wrap(tower)(images) * probe).sum(), weights)
    for ours, theirs in zip(actual, expected, strict=True):
        if theirs.abs().max() > GRADIENT_TOL:
            assert_close(ours, theirs, GRADIENT_TOL)
