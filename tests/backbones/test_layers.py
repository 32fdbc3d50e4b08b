"""Layer by layer, so that no error hides another: the stream before, inside and after every block is the source's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from residual_lens.hooked.vit import HookedViT
from tests.backbones.backbone import Backbone, images_of
from tests.backbones.measuring import counted
from tests.backbones.models import BACKBONES
from tests.tolerances import FLOAT64_TOL, assert_close

SECOND_NORMS = ("ln_2", "norm2", "layer_norm2", "layernorm_after")
"""What the libraries call the norm before the MLP, which is given the stream behind attention."""


def first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_every_block_gives_what_the_sources_block_gives(backbone: Backbone) -> None:
    module = backbone.build().double()
    blocks = backbone.blocks(module)
    expected: dict[str, Tensor] = {}
    handles = []

    def record_inputs(part: nn.Module, name: str) -> None:
        handles.append(
            part.register_forward_pre_hook(lambda part, args: expected.__setitem__(name, args[0].detach().clone()))
        )

    for layer, block in enumerate(blocks):
        record_inputs(block, f"blocks.{layer}.hook_resid_pre")
        (norm,) = (getattr(block, name) for name in SECOND_NORMS if hasattr(block, name))
        record_inputs(norm, f"blocks.{layer}.hook_resid_mid")
        name = f"blocks.{layer}.hook_resid_post"
        handles.append(
            block.register_forward_hook(
                lambda part, args, out, name=name: expected.__setitem__(name, first(out).detach().clone())
            )
        )
    hvit = HookedViT.wrap(module, head=backbone.head)
    images = images_of(hvit.cfg.image_size).double()
    embedding = backbone.embedding(module, images)
    for handle in handles:
        handle.remove()
    assert len(expected) == 3 * hvit.cfg.n_layers
    with counted(hvit, module, blocks) as positions:
        actual, cache = hvit.run_with_cache(images, names_filter=list(expected))
    assert positions == [hvit.cfg.n_ctx] * hvit.cfg.n_layers
    for name, value in expected.items():
        assert_close(cache[name], value, FLOAT64_TOL)
    assert_close(actual, embedding, FLOAT64_TOL)
