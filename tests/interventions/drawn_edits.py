"""Affine edits of the stream with drawn maps, the hooks that make them one unit at a time, and comparing of bits."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from residual_lens.hooked import HookedViT
from residual_lens.interventions import Edit, ResiDual
from residual_lens.interventions.affine import AffineMap
from residual_lens.units import Unit


class DrawnEdit(Edit):
    """`c ↦ c M + t` for each unit, heads with their even share of the bias."""

    def __init__(self, hvit: HookedViT, maps: Mapping[str, AffineMap], path: str = "stream") -> None:
        super().__init__(hvit, hvit.units.select(maps), path, "drawn maps")
        self.maps = maps

    def _stream_map(self, unit: Unit) -> AffineMap:
        return self.maps[unit.name]

    def hooks(self) -> list:
        return [self._hook(unit) for unit in self._chosen]

    def _hook(self, unit: Unit) -> tuple:
        matrix, offset = self.maps[unit.name]

        def term(values: Tensor, hook: object) -> Tensor:
            return values @ matrix.to(values) + offset.to(values)

        def head(values: Tensor, hook: object) -> Tensor:
            share = self.hvit.blocks[unit.layer].attn.b_O / self.hvit.cfg.n_heads
            values[:, :, unit.index] = term(values[:, :, unit.index] + share, hook) - share
            return values

        if unit.kind == "head":
            return f"blocks.{unit.layer}.attn.hook_result", head
        return unit.hook_name, term


def drawn_edit(hvit: HookedViT, units: Sequence[str], *, constant: bool = True, seed: int = 0) -> DrawnEdit:
    """Maps near enough to the identity that embeddings stay of their size."""
    generator = torch.Generator().manual_seed(seed)
    width = hvit.cfg.d_model
    maps = {}
    for name in units:
        noise = torch.randn(width + 1, width, generator=generator, dtype=torch.float64) * width**-0.5
        maps[name] = AffineMap(torch.eye(width, dtype=torch.float64) + noise[:-1], float(constant) * 2 * noise[-1])
    return DrawnEdit(hvit, maps)


@contextmanager
def in_force(hvit: HookedViT, *edits: Edit | ResiDual):
    """Several edits of the stream as nested contexts."""
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.attached(hvit, path="stream") if isinstance(edit, ResiDual) else edit)
        yield hvit


def bits(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a module's state holds."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bits(module: nn.Module, before: Mapping[str, Tensor]) -> bool:
    """Whether nothing of it has changed, names and types included."""
    state = module.state_dict()
    if list(state) != list(before):
        return False
    return all(value.dtype == before[name].dtype and torch.equal(value, before[name]) for name, value in state.items())
