"""Obvious twins of edits, in float64: a sum with some terms replaced, and a forward pass that edits what is written."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests.reference import sources
from tests.reference.readouts import units_of
from tests.reference.streams import Block, Stream, run_head

EditTerm = Callable[[str, Tensor], Tensor]
"""A unit's name and what it writes into the stream, `[batch pos d_model]`, to what it writes under the edit."""


def replaced_and_summed(values: Tensor, names: tuple[str, ...], by_name: dict[str, Tensor]) -> Tensor:
    """The embedding `[batch d_out]` when the contributions `[batch unit d_out]` of some units are others."""
    total = torch.zeros(len(values), values.shape[-1], dtype=torch.float64)
    for place, name in enumerate(names):
        total = total + (by_name[name].double() if name in by_name else values[:, place].double())
    return total


def run_edited(blocks: list[Block], x: Tensor, *, edit: EditTerm) -> Stream:
    """`run_blocks`, every term edited before anything reads it."""
    x = edit("embed", x)
    stream = Stream(x, {"embed": x})
    for layer, block in enumerate(blocks):
        before, normed = stream.x, block.ln1(stream.x)
        names = [f"L{layer}H{head}" for head in range(block.n_heads)]
        for head, name in enumerate(names):
            run_head(stream, block, normed, name, head)
            stream.terms[name] = edit(name, stream.terms[name])
        stream.x = before + sum(stream.terms[name] for name in names)
        name = f"{layer}_mlp_out"
        stream.terms[name] = edit(name, block.mlp(block.ln2(stream.x)) * block.gains[1])
        stream.x = stream.x + stream.terms[name]
    return stream


def edited(
    model: nn.Module, images: Tensor, embed: Callable[[Any, Tensor], Tensor], edit: EditTerm, **options: Any
) -> tuple[Tensor, sources.Plain]:
    """The embedding under an edit of the stream, and everything that led to it (arguments as for `plain`)."""
    with patch.object(sources, "run_blocks", partial(run_edited, edit=edit)):
        run = sources.plain(model, images, embed, **options)
    return sum(units_of(run.stream, run.frozen).values()), run
