"""Baking through every backbone: the library's own forward pass computes what the hooks did, and saves it."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from residual_lens.bases import fit_bases
from residual_lens.errors import InputError
from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions import ResiDual
from residual_lens.interventions.bake import bake, unbake
from residual_lens.interventions.projection import project_out
from tests.backbones.backbone import Backbone, images_of
from tests.backbones.models import BACKBONES
from tests.interventions.drawn_edits import bits, drawn_edit, in_force, same_bits
from tests.interventions.tiny_bases import hooks_in_force
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close

WITHOUT_OUTPUT_BIAS = (
    "timm: aimv2_large_patch14_224 (SwiGLU, RMSNorm, norm of patches)",
    "timm: vit_tiny_patch16_224 (no biases)",
)

every_backbone = pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)


def units_of(hvit: HookedViT, *kinds: str) -> list[str]:
    return [unit.name for unit in hvit.units if unit.kind in kinds]


def loaded_by_its_library(backbone: Backbone, module: Any, folder: Path) -> Any:
    """A model that was saved and loaded as its library's users do it."""
    if backbone.source == "Hugging Face":
        module.save_pretrained(folder)
        return type(module).from_pretrained(folder).eval()
    loaded: nn.Module = backbone.create(False).eval()
    torch.save(module.state_dict(), folder / "weights.pt")
    if backbone.source == "timm":
        timm.models.load_checkpoint(loaded, str(folder / "weights.pt"))
    else:
        loaded.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return loaded


@every_backbone
@torch.no_grad()
def test_the_plain_model_computes_what_the_hooks_did_and_gets_its_bits_back(backbone: Backbone) -> None:
    module = backbone.build().double()
    hvit = HookedViT.wrap(module, head=backbone.head)
    images = images_of(hvit.cfg.image_size).double()
    has_bias = backbone.name not in WITHOUT_OUTPUT_BIAS
    plain, before = backbone.embedding(module, images), bits(module)
    last_head = f"L0H{hvit.cfg.n_heads - 1}"
    drawn = drawn_edit(hvit, [last_head, *units_of(hvit, "mlp", "pool")], constant=has_bias)
    out = project_out(hvit, units_of(hvit, "head", "mlp", "pool"), torch.eye(hvit.cfg.d_out)[:3], path="stream")
    for edits in ([drawn_edit(hvit, units_of(hvit, "head"), constant=has_bias)], [drawn, out]):
        with in_force(hvit, *edits):
            expected = hvit(images)
        assert bake(hvit, edits) is module
        embedding = backbone.embedding(module, images)
        assert_close(embedding, expected, FLOAT64_TOL)
        assert_changed(embedding, plain)
        unbake(module)
        assert same_bits(module, before)


@every_backbone
@torch.no_grad()
def test_residual_with_edits_behind_it_is_baked_saved_and_loaded(backbone: Backbone, tmp_path: Path) -> None:
    module = backbone.build()
    hvit = HookedViT.wrap(module, head=backbone.head)
    size = hvit.cfg.image_size
    images = images_of(size)
    before = bits(module)
    residual = ResiDual.from_bases(fit_bases(hvit, images_of(size, 12, seed=5)), variant="residual", seed=3)
    edits = [residual, drawn_edit(hvit, units_of(hvit, "head", "mlp"))]
    if backbone.name in WITHOUT_OUTPUT_BIAS:
        with pytest.raises(InputError, match=r"has no output bias, and the edit adds a constant"):
            bake(hvit, edits)
        assert same_bits(module, before)
        edits = [drawn_edit(hvit, units_of(hvit, "head", "mlp"), constant=False)]
    with in_force(hvit, *edits):
        expected = hvit(images)
    assert bake(hvit, edits) is module
    embedding = backbone.embedding(module, images)
    assert_close(embedding, expected, FLOAT32_TOL)
    assert hooks_in_force(hvit) == 0
    assert_close(hvit(images), embedding, FLOAT32_TOL)
    assert list(module.state_dict()) == list(before)
    loaded = loaded_by_its_library(backbone, module, tmp_path)
    assert torch.equal(backbone.embedding(loaded, images), embedding)
    unbake(module)
    assert same_bits(module, before)
    assert_changed(backbone.embedding(module, images), embedding)
