"""A source that is rebuilt after it was wrapped is refused, not passed over; parameters may change."""

import pytest
import timm
import torch
from torch import nn

from residual_lens.errors import MismatchError, UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import draw_weights, source_embedding, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close


class Doubled(nn.Module):
    """As an adapter library puts itself around a layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)


def vit() -> nn.Module:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=4, num_classes=7, qk_norm=True
    )
    draw_weights(model, seed=0)
    return model.eval()


def put(path: str, make):
    def change(model: nn.Module) -> None:
        owner, _, name = path.rpartition(".")
        parent = model.get_submodule(owner)
        setattr(parent, name, make(getattr(parent, name)))

    return change


CHANGES = {
    "an adapter around a layer": put("blocks.1.mlp.fc1", Doubled),
    "an adapter around the fused projection": put("blocks.0.attn.qkv", Doubled),
    "another layer": put("blocks.0.attn.proj", lambda old: nn.Linear(32, 32)),
    "another block": put("blocks.1", lambda old: nn.Identity()),
    "fewer blocks": put("blocks", lambda old: old[:1]),
    "another norm": put("norm", lambda old: nn.LayerNorm(32)),
    "another pooling": lambda model: model.reset_classifier(7, "avg"),
    "another setting": put("global_pool", lambda old: "avg"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_made_of_other_modules_is_refused(change):
    model = vit()
    hvit = HookedViT.wrap(model)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = hvit(images)
    CHANGES[change](model)
    for call in (hvit, hvit.decompose, hvit.extract, hvit.run_with_cache):
        with pytest.raises(MismatchError, match=r"wrap the model again"):
            call(images)
    assert before.isfinite().all()


def test_replaced_parameters_are_seen_and_copies_guard_themselves():
    tower = tiny_tower("ViT-B-16")
    hvit, images = HookedViT.wrap(tower), tiny_images(tower)
    before = hvit(images)
    block = tower.transformer.resblocks[1]
    block.mlp.c_fc.weight = nn.Parameter(block.mlp.c_fc.weight.detach() * 2)
    assert_changed(hvit(images), before)
    assert_close(hvit(images), source_embedding(tower, images), FLOAT32_TOL)


@pytest.mark.parametrize("name", ["blocks.0.attn.qkv", "blocks.1.attn", "blocks.0", ""])
def test_a_forward_replaced_on_the_instance_is_refused(name):
    model = vit()
    module = model.get_submodule(name)
    original = module.forward
    module.forward = lambda *args, **kwargs: 2 * original(*args, **kwargs)
    with pytest.raises(UnsupportedModelError, match=r"forward"):
        HookedViT.wrap(model)


def test_a_linear_layer_with_torch_hooks_is_refused():
    model = vit()
    model.blocks[0].attn.proj.register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.raises(UnsupportedModelError, match=r"carries torch hooks"):
        HookedViT.wrap(model)


def test_a_norm_of_somebodys_own_is_refused():
    class Shifted(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (1 + self.weight)

    model = vit()
    model.blocks[0].norm1 = Shifted(32)
    with pytest.raises(UnsupportedModelError, match=r"a norm of the stream is .*Shifted"):
        HookedViT.wrap(model)


def test_heads_that_differ_between_layers_are_refused():
    model = vit()
    model.blocks[0] = timm.models.vision_transformer.Block(32, num_heads=2, qkv_bias=True)
    with pytest.raises(UnsupportedModelError, match=r"different numbers or widths of heads"):
        HookedViT.wrap(model)
