"""What cannot be baked is refused with the reason, and nothing is changed."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from residual_lens.errors import InputError, MismatchError, ResidualLensError, UnsupportedModelError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ResiDual, ablate, scale
from residual_lens.interventions.bake import bake, unbake
from residual_lens.training import LinearAdapter
from tests.interventions.drawn_edits import bits, drawn_edit, same_bits
from tests.interventions.tiny_bases import bases_for, wrapped
from tests.tiny_models import tiny_images, tiny_tower


class Quantised(torch.Tensor):
    """A tensor that stands for others, as quantised and sharded weights do."""


def refused(hvit, edit, error: type[ResidualLensError], match: str) -> None:
    """`bake` raises, and the model is as it was."""
    before, attributes = bits(hvit.source), set(vars(hvit.source))
    with pytest.raises(error, match=match):
        bake(hvit, edit)
    assert same_bits(hvit.source, before)
    assert set(vars(hvit.source)) == attributes


def uniform(hvit):
    return ResiDual.from_bases(bases_for(wrapped(center="uniform")), variant="residual")


EDITS = {
    "direct": (
        lambda hvit, images: ablate(hvit, "L1", path="direct"),
        InputError,
        r"changes direct contributions .*path='stream'",
    ),
    "resample": (
        lambda hvit, images: ablate(hvit, "L1", "resample", reference=images, path="stream"),
        InputError,
        r"drawn at random",
    ),
    "mean by position": (
        lambda hvit, images: ablate(hvit, "L1", "mean", reference=images, path="stream"),
        InputError,
        r"by_position=False",
    ),
    "embed": (
        lambda hvit, images: scale(hvit, {"embed": 2.0, "L1": 0.5}, path="stream"),
        InputError,
        r"embed is not written by one linear layer: heads and MLPs can be baked",
    ),
    "residual*": (
        lambda hvit, images: ResiDual.from_bases(bases_for(hvit), variant="residual*"),
        InputError,
        r"'residual\*' takes MLPs, embed and bias out .*variant='residual'",
    ),
    "uniform": (lambda hvit, images: uniform(hvit), MismatchError, r"center='uniform'"),
    "another model's ResiDual": (
        lambda hvit, images: ResiDual.from_bases(bases_for(wrapped(seed=1)), variant="residual"),
        MismatchError,
        r"other weights",
    ),
    "another model's edit": (
        lambda hvit, images: scale(wrapped(), {"L1": 0.5}, path="stream"),
        MismatchError,
        r"another model object: make it with the wrapper",
    ),
    "an adapter": (
        lambda hvit, images: LinearAdapter(20),
        InputError,
        r"bake takes a ResiDual, .* got LinearAdapter: attach it",
    ),
    "no edit": (lambda hvit, images: [], InputError, r"no edit to bake"),
    "a good one before a bad one": (
        lambda hvit, images: [drawn_edit(hvit, ["L0H0"]), ablate(hvit, "L1", path="direct")],
        InputError,
        r"changes direct contributions",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_that_no_weights_compute(edit):
    hvit = wrapped()
    make, error, match = EDITS[edit]
    refused(hvit, make(hvit, tiny_images(hvit.source)), error, match)


def tie_parameters(blocks) -> None:
    blocks[1].attn.out_proj.weight = blocks[0].attn.out_proj.weight


def tie_memory(blocks) -> None:
    blocks[1].attn.out_proj.weight.data = blocks[0].attn.out_proj.weight.data


def overlap(blocks) -> None:
    memory = torch.randn(24 * 24 + 24)
    blocks[1].attn.out_proj.weight.data = memory[24:].view(24, 24)
    blocks[0].attn.out_proj.bias.data = memory[16:40]


def share_module(blocks) -> None:
    blocks[1].attn.out_proj = blocks[0].attn.out_proj


def view_in_a_buffer(blocks) -> None:
    blocks[2].register_buffer("seen", blocks[1].attn.out_proj.bias.detach()[3:5])


def parametrize(blocks) -> None:
    register_parametrization(blocks[1].attn.out_proj, "bias", nn.Tanh())


def quantise(blocks) -> None:
    layer = blocks[1].attn.out_proj
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised))


def make_integer(blocks) -> None:
    layer = blocks[1].attn.out_proj
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)


def offload(blocks) -> None:
    blocks[1].attn.out_proj.to("meta")


def make_in_inference_mode(blocks) -> None:
    with torch.inference_mode():
        blocks[1].attn.out_proj.weight = nn.Parameter(torch.randn(24, 24))


WEIGHTS = {
    tie_parameters: r"weight of its output projection is used 2 times .*resblocks.0.attn.out_proj.weight.*Untie",
    tie_memory: r"weight of its output projection is used 2 times",
    overlap: r"used 2 times \(\S+resblocks.0.attn.out_proj.bias, \S+resblocks.1.attn.out_proj.weight\)",
    share_module: r"weight of its output projection is used 2 times",
    view_in_a_buffer: r"bias of its output projection is used 2 times .*resblocks.2.seen",
    parametrize: r"bias of its output projection is computed from others",
    quantise: r"weight of its output projection is Quantised, not a plain parameter",
    make_integer: r"weight of its output projection is torch.int8 on cpu: it cannot be written to",
    offload: r"is torch.float32 on meta: it cannot be written to",
    make_in_inference_mode: r"made in inference mode: it cannot be written to",
}


@pytest.mark.parametrize("change", WEIGHTS, ids=lambda change: change.__name__)
def test_weights_that_cannot_be_written(change):
    tower = tiny_tower("ViT-B-16")
    change(tower.transformer.resblocks)
    hvit = HookedViT.wrap(tower)
    meta = any(parameter.is_meta for parameter in tower.parameters())
    edit = drawn_edit(hvit, ["L0H1", "L1H1", "2_mlp_out"] if change is not share_module else ["L1H1"])
    before = {} if meta else bits(tower)
    with pytest.raises(InputError, match=WEIGHTS[change]):
        bake(hvit, edit)
    assert meta or same_bits(tower, before)
    with pytest.raises(InputError, match=r"Nothing is baked"):
        unbake(tower)


def test_neighbours_in_one_memory_are_written():
    tower = tiny_tower("ViT-B-16")
    layers = [block.attn.out_proj for block in tower.transformer.resblocks[:2]]
    memory = torch.randn(2, 24, 24)
    for layer, weight in zip(layers, memory, strict=True):
        layer.weight.data = weight
    first = memory[0].clone()
    bake(HookedViT.wrap(tower), drawn_edit(HookedViT.wrap(tower), ["L1H1"]))
    assert torch.equal(memory[0], first)


def test_layers_with_torch_hooks_and_models_rebuilt_after_wrapping():
    hvit = wrapped()
    handle = hvit.source.transformer.resblocks[1].mlp.c_proj.register_forward_hook(lambda *args: None)
    refused(hvit, drawn_edit(hvit, ["0_mlp_out", "1_mlp_out"]), UnsupportedModelError, r"carries torch hooks")
    handle.remove()
    hvit.source.transformer.resblocks[1].mlp.c_proj = nn.Linear(96, 24)
    refused(hvit, drawn_edit(hvit, ["0_mlp_out"]), MismatchError, r"c_proj in .* was replaced.*wrap the model again")


def test_hooks_in_force():
    hvit = wrapped()
    edit = scale(hvit, {"L1H1": 2.0}, path="stream")
    for context in (edit, hvit.hooks([("hook_pooled", lambda values, hook: None)])):
        with context:
            refused(hvit, edit, InputError, r"Hooks are in force at \S+: .*Leave their contexts")
    bake(hvit, edit)


@torch.no_grad()
def test_a_layerscale_through_which_nothing_can_be_written():
    hvit = wrapped("layerscale")
    blocks = hvit.source.transformer.resblocks
    blocks[1].ls_1.gamma[3] = 0
    match = r"blocks.1.attn: LayerScale is 0 in 1 coordinates, so that no weights let L1H2 write there"
    refused(hvit, drawn_edit(hvit, ["L0H0", "L1H2"]), InputError, match)
    blocks[1].ls_1.gamma[3] = 1e-42
    refused(hvit, drawn_edit(hvit, ["L0H0", "L1H2"]), InputError, r"do not fit into torch.float32 .*a wider dtype")
    hvit.source.double()
    bake(hvit, drawn_edit(hvit, ["L0H0", "L1H2"]))
