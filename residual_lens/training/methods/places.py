"""Where the weights of an image tower lie, by name."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from residual_lens.hooked import HookedViT
from residual_lens.hooked.parts.attention import FusedProjections, InputProjections, SeparateProjections
from residual_lens.hooked.parts.mlp import GatedInput, MLPInput, PackedInput, PlainInput


class Place(NamedTuple):
    """A weight, as its module holds it."""

    owner: nn.Module
    """The module."""
    name: str
    """The attribute."""

    def read(self) -> nn.Parameter:
        """The weight."""
        return self.owner.get_parameter(self.name)


class Matrix(NamedTuple):
    """A weight that is one matrix, or several on top of each other."""

    place: Place
    """Where it lies: `[part · out, in]`."""
    parts: int
    """How many matrices: three where queries, keys and values lie together."""


def places_of(hvit: HookedViT) -> dict[str, list[Place]]:
    """Every place of each weight of the image tower and its projection; tied weights have several.

    Returns:
        By the weight's name in the tower; `projection` and `projection_bias` where they lie outside of it.
    """
    found: dict[int, tuple[str, list[Place]]] = {}
    for prefix, module in hvit.parts.tower.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            found.setdefault(id(parameter), (full, []))[1].append(Place(module, name))
    projection = hvit.parts.projection
    if projection is not None:
        refs = {"projection": projection.weight, "projection_bias": projection.bias}
        for name, ref in refs.items():
            if ref is not None and id(ref()) not in found:
                found[id(ref())] = (name, [Place(ref.owner, ref.name)])
    return dict(found.values())


def block_matrices(hvit: HookedViT) -> Iterator[Matrix]:
    """The weights of attention and MLP in every block, in order."""
    for block in hvit.parts.blocks:
        attention, mlp = block.attention, block.mlp
        yield from _of_attention_inputs(attention.inputs)
        if attention.gate is not None:
            yield _of(attention.gate)
        yield _of(attention.out)
        yield from _of_mlp_inputs(mlp.inputs)
        yield _of(mlp.out)


def _of(linear: nn.Linear, parts: int = 1) -> Matrix:
    return Matrix(Place(linear, "weight"), parts)


def _of_attention_inputs(inputs: InputProjections) -> Iterator[Matrix]:
    if isinstance(inputs, SeparateProjections):
        yield from map(_of, (inputs.q, inputs.k, inputs.v))
    elif isinstance(inputs, FusedProjections):
        yield Matrix(Place(inputs.weight.owner, inputs.weight.name), 3)
    else:
        raise TypeError(f"{type(inputs).__name__} are input projections that training does not know.")


def _of_mlp_inputs(inputs: MLPInput) -> Iterator[Matrix]:
    if isinstance(inputs, PlainInput):
        yield _of(inputs.linear)
    elif isinstance(inputs, GatedInput):
        yield from map(_of, (inputs.gate, inputs.linear))
    elif isinstance(inputs, PackedInput):
        yield _of(inputs.both, 2)
    else:
        raise TypeError(f"{type(inputs).__name__} is an MLP's input that training does not know.")
