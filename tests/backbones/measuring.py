"""How far the wrapper is from its source, with guards that the wrapper's own path ran."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from residual_lens.errors import MismatchError
from residual_lens.hooked.vit import HookedViT
from tests.backbones.backbone import Backbone, images_of
from tests.tolerances import relative_gap

Mode = Literal["eval", "train", "dropout"]
"""Evaluation; train mode without dropout; train mode with all dropout that the class has."""
MODES: tuple[Mode, ...] = ("eval", "train", "dropout")


@dataclass(frozen=True)
class Gaps:
    """Largest differences from the source's embedding, relative to its largest entry."""

    embedding: float
    """Of `hvit(images)`."""
    total: float | None
    """Of the units' sum; `None` where `decompose` refuses, because dropout lies behind output projections."""
    rounding: float
    """In half precision: what the sum holds beyond its terms (in the unit `bias`)."""


@contextmanager
def counted(hvit: HookedViT, module: nn.Module, blocks: Any) -> Iterator[list[int]]:
    """Positions at which each of our blocks ran; asserts that no block of the source ran, nor what holds one."""
    positions: list[int] = []
    ran: list[str] = []
    inside = set(blocks)
    handles = [
        block.register_forward_hook(lambda module, args, run: positions.append(run.resid_post.shape[1]))
        for block in hvit.blocks
    ]
    handles += [
        part.register_forward_hook(lambda part, args, out: ran.append(type(part).__name__))
        for part in module.modules()
        if not inside.isdisjoint(part.modules())
    ]
    try:
        yield positions
    finally:
        for handle in handles:
            handle.remove()
    assert not ran, f"the source's own {ran[0]} ran"


@torch.no_grad()
def measure(backbone: Backbone, dtype: torch.dtype, mode: Mode) -> Gaps:
    """Both gaps of one model, random numbers drawn alike on both sides."""
    module = backbone.build(dropout=mode == "dropout").to(dtype).train(mode != "eval")
    hvit = HookedViT.wrap(module, head=backbone.head)
    images = images_of(hvit.cfg.image_size).to(dtype)
    torch.manual_seed(3)
    expected = backbone.embedding(module, images)
    blocks = backbone.blocks(module)
    assert len(blocks) == hvit.cfg.n_layers
    with counted(hvit, module, blocks) as positions:
        torch.manual_seed(3)
        actual = hvit(images)
    assert len(positions) == len(blocks)
    with counted(hvit, module, blocks) as positions:
        torch.manual_seed(3)
        try:
            terms = hvit.extract(images)
        except MismatchError:
            assert mode == "dropout"
            terms = None
    assert len(positions) == (0 if terms is None else len(blocks))
    embedding = relative_gap(actual, expected)
    if terms is None:
        return Gaps(embedding, None, 0.0)
    total = terms.contributions().sum(dim=1)
    rounding = 0.0 if terms.rounding is None else float(terms.rounding.abs().max() / expected.abs().max())
    return Gaps(embedding, relative_gap(total, expected), rounding)
