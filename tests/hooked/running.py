"""What really ran: counts and shapes that tell the wrapper's own path from the source's."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

from residual_lens.hooked.vit import HookedViT


@contextmanager
def counted_blocks(hvit: HookedViT) -> Iterator[list[int]]:
    """Positions at which each of our blocks ran, in order; asserts that no block or tower of the source ran whole."""
    positions: list[int] = []
    source_calls: list[nn.Module] = []
    tower = hvit.parts.tower
    handles = [
        block.register_forward_hook(lambda module, args, run: positions.append(run.resid_post.shape[1]))
        for block in hvit.blocks
    ]
    handles += [
        module.register_forward_hook(lambda module, args, out: source_calls.append(module))
        for module in (tower, tower.transformer, *tower.transformer.resblocks)
    ]
    try:
        yield positions
    finally:
        for handle in handles:
            handle.remove()
    assert not source_calls, "the source's own forward ran"


@contextmanager
def counted_attention() -> Iterator[Counter]:
    """How often attention ran fused, and how often its softmax was spelled out."""
    counts: Counter = Counter()
    fused, softmax = F.scaled_dot_product_attention, torch.softmax

    def count_fused(*args, **kwargs):
        counts["fused"] += 1
        return fused(*args, **kwargs)

    def count_softmax(*args, **kwargs):
        counts["unfused"] += 1
        return softmax(*args, **kwargs)

    with patch.object(F, "scaled_dot_product_attention", count_fused), patch("torch.softmax", count_softmax):
        yield counts


def unchanged(activation, hook):
    """A hook that only looks."""


def listening(hvit: HookedViT, *names: str):
    """A context in which something listens at these points and changes nothing."""
    return hvit.hooks([(name, unchanged) for name in names])
