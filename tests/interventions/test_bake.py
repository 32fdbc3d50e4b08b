"""Baking: what the plain model computes afterwards, what it keeps, and how it is undone."""

import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ResiDual, ablate, keep_only, scale, steer
from residual_lens.interventions.bake import bake, unbake
from residual_lens.interventions.projection import project_out
from residual_lens.zoo import attribute_clip_path
from tests.interventions.drawn_edits import DrawnEdit, bits, drawn_edit, in_force, same_bits
from tests.interventions.tiny_bases import bases_for, hooks_in_force, wrapped
from tests.tiny_models import source_embedding, tiny_clip, tiny_images
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close

BFLOAT16_BAKED_TOL = 3e-2
"""Weights rounded to 8 bits (4e-3), a few of them in a row."""


def prepared(kind: str = "ViT-B-16", dtype: torch.dtype = torch.float64):
    """A wrapped tower and images for it."""
    hvit = wrapped(kind)
    hvit.source.to(dtype)
    return hvit, tiny_images(hvit.source).to(dtype)


def assert_baked(hvit, images, *edits, tol=FLOAT64_TOL) -> None:
    """The plain model computes what the edits' hooks made, and `unbake` gives back the bits."""
    plain, before = source_embedding(hvit.source, images), bits(hvit.source)
    with in_force(hvit, *edits):
        expected = hvit(images)
    assert bake(hvit, edits) is hvit.source
    baked = source_embedding(hvit.source, images)
    assert_close(baked, expected, tol)
    assert_changed(baked, plain)
    unbake(hvit.source)
    assert same_bits(hvit.source, before)


EDITS = {
    "scaling": lambda hvit, images: scale(hvit, {"heads": 0.5, "1_mlp_out": -2.0}, path="stream"),
    "zero": lambda hvit, images: ablate(hvit, ["L0H1", "L2H0", "2_mlp_out"], path="stream"),
    "mean": lambda hvit, images: ablate(
        hvit, ["L0H1", "L1", "2_mlp_out"], "mean", reference=images, path="stream", by_position=False
    ),
    "keep_only": lambda hvit, images: keep_only(hvit, ["embed", "L0", "L1H2", "2_mlp_out"], path="stream"),
    "steering": lambda hvit, images: steer(hvit, "L1H2", torch.arange(20.0) - 7, 3.0, path="stream", scale=2.0),
    "projection": lambda hvit, images: project_out(
        hvit, ["heads", "mlps"], list(torch.eye(20)[:6] + 0.5), path="stream"
    ),
    "ResiDual": lambda hvit, images: ResiDual.from_bases(bases_for(hvit), variant="residual", seed=3),
    "ResiDual that keeps the mean": lambda hvit, images: ResiDual.from_bases(
        bases_for(hvit, units=("L0H1", "L2")), variant="residual", keep_mean=True, seed=3
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "layerscale", "avg-norm-before-pool"])
@pytest.mark.parametrize("edit", EDITS)
def test_every_affine_edit_is_what_the_plain_model_computes(kind, edit):
    hvit, images = prepared(kind)
    assert_baked(hvit, images, EDITS[edit](hvit, images))


@torch.no_grad()
def test_maps_are_what_the_hooks_of_residual_do_to_each_term():
    hvit, images = prepared()
    residual = ResiDual.from_bases(bases_for(hvit), variant="residual", seed=3)
    maps = residual.stream_maps(hvit)
    assert tuple(maps) == residual.config.units
    assert len(maps) == len(residual.config.units)
    assert_baked(hvit, images, DrawnEdit(hvit, maps))
    with in_force(hvit, residual):
        by_hooks = hvit(images)
    with in_force(hvit, DrawnEdit(hvit, maps)):
        assert_close(hvit(images), by_hooks, FLOAT64_TOL)


@torch.no_grad()
def test_several_edits_act_in_their_order():
    hvit, images = prepared("layerscale")
    units = [unit.name for unit in hvit.units.select(["heads", "mlps"])]
    first, second = drawn_edit(hvit, units, seed=1), drawn_edit(hvit, units[2:9], seed=2)
    residual = ResiDual.from_bases(bases_for(hvit), variant="residual", seed=3)
    silent = ablate(hvit, ["L1H1"], path="stream")
    assert_baked(hvit, images, first, residual, second)
    assert_baked(hvit, images, silent, first)
    outputs = []
    for edits in ([first, second], [second, first]):
        outputs.append(source_embedding(bake(hvit, edits), images))
        unbake(hvit.source)
    assert_changed(*outputs)


@torch.no_grad()
def test_one_head_changes_its_columns_and_the_bias_alone():
    hvit, _ = prepared("layerscale", torch.float32)
    before = bits(hvit.source)
    bake(hvit, drawn_edit(hvit, ["L1H2"]))
    after = hvit.source.state_dict()
    out = "transformer.resblocks.1.attn.out_proj."
    assert {name for name in after if not torch.equal(after[name], before[name])} == {out + "weight", out + "bias"}
    columns = (after[out + "weight"] != before[out + "weight"]).any(dim=0)
    assert columns.nonzero()[:, 0].tolist() == list(range(16, 24))


@torch.no_grad()
def test_parameters_stay_themselves_and_the_wrapper_computes_the_edit_without_hooks():
    hvit, images = prepared(dtype=torch.float32)
    parameters, names = dict(hvit.source.named_parameters()), list(hvit.source.state_dict())
    requires_grad = {name: parameter.requires_grad for name, parameter in parameters.items()}
    edit = drawn_edit(hvit, ["L0H1", "1_mlp_out"])
    with in_force(hvit, edit):
        expected = hvit(images)
    bake(hvit, edit)
    assert hooks_in_force(hvit) == 0
    assert_close(hvit(images), expected, FLOAT32_TOL)
    assert_close(hvit.decompose(images).total(), hvit(images), FLOAT32_TOL)
    after = dict(hvit.source.named_parameters())
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert {name: parameter.requires_grad for name, parameter in after.items()} == requires_grad
    assert list(hvit.source.state_dict()) == names
    optimizer = torch.optim.SGD(hvit.source.parameters(), lr=0.1)
    with torch.enable_grad():
        source_embedding(hvit.source, images).sum().backward()
    optimizer.step()
    assert_changed(source_embedding(hvit.source, images), expected)


@torch.no_grad()
def test_bfloat16_weights_hold_the_edit_to_their_precision():
    hvit, images = prepared(dtype=torch.bfloat16)
    edit = drawn_edit(hvit, ["L0H1", "1_mlp_out", "L2H2"])
    before = bits(hvit.source)
    with in_force(hvit, edit):
        expected = hvit(images)
    assert_close(source_embedding(bake(hvit, edit), images), expected, BFLOAT16_BAKED_TOL)
    unbake(hvit.source)
    assert same_bits(hvit.source, before)


@torch.no_grad()
def test_a_layerscale_of_zero_stays_silent_where_the_edit_does():
    hvit, images = prepared("layerscale")
    block = hvit.source.transformer.resblocks[1]
    block.ls_1.gamma[3:5] = 0
    block.ls_2.gamma[:] = 0
    edit = scale(hvit, {"L1H0": 3.0, "1_mlp_out": 2.0, "0_mlp_out": 0.5}, path="stream")
    assert_baked(hvit, images, edit)
    before = block.attn.out_proj.weight[3:5].clone()
    bake(hvit, edit)
    assert torch.equal(block.attn.out_proj.weight[3:5], before)


@torch.no_grad()
def test_residual_that_was_made_for_the_weights_before_is_refused_after():
    hvit, images = prepared(dtype=torch.float32)
    residual = ResiDual.from_bases(bases_for(hvit), variant="residual", seed=3)
    bake(hvit, residual)
    for path in ("direct", "stream"):
        with pytest.raises(MismatchError, match=r"with other weights .*so does bake"), residual.attached(hvit, path):
            pass
    with pytest.raises(MismatchError, match=r"with other weights"):
        bake(hvit, residual)
    unbake(hvit.source)
    with residual.attached(hvit):
        assert hvit(images).isfinite().all()


@torch.no_grad()
def test_the_shipped_model_is_baked_saved_and_loaded_by_its_name(tmp_path: Path):
    hvit = HookedViT.from_pretrained("attribute-clip")
    images = torch.randn(2, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(1))
    edit = scale(hvit, {"L3": 2.0, "L5H2": 0.0}, path="stream")
    with edit:
        expected = hvit(images)
    clip = bake(hvit, edit)
    folder = tmp_path / "baked"
    shutil.copytree(attribute_clip_path(), folder)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    loaded = open_clip.create_model(f"local-dir:{folder}", precision="fp32", require_pretrained=True).eval()
    assert_close(loaded.encode_image(images), expected, FLOAT32_TOL)
    assert_close(HookedViT.from_pretrained(f"open_clip:local-dir:{folder}")(images), expected, FLOAT32_TOL)


@torch.no_grad()
def test_a_whole_clip_is_baked_through_the_wrapper_of_either():
    clip = tiny_clip("ViT-B-16")
    images, before = tiny_images(clip), bits(clip)
    hvit = HookedViT.wrap(clip)
    edit = drawn_edit(hvit, ["L0H1"])
    with in_force(hvit, edit):
        expected = hvit(images)
    of_tower = HookedViT.wrap(clip.visual)
    assert bake(of_tower, edit) is clip.visual
    assert_close(clip.encode_image(images), expected, FLOAT32_TOL)
    with pytest.raises(InputError, match=r"Nothing is baked into this CLIP"):
        unbake(clip)
    unbake(clip.visual)
    assert bake(hvit, edit) is clip
    unbake(clip)
    assert same_bits(clip, before)
