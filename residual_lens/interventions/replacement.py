"""Edits that put what a reference gave in the place of what units give: its mean, or another sample's value."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions.adapter import Path
from residual_lens.interventions.affine import AffineMap
from residual_lens.interventions.edit import Edit, by_point, changing, result_point, share_of_bias
from residual_lens.units import Unit

Value = Callable[[Unit], Float[Tensor, "*leading d"]]
"""What stands in for a unit at its hook point of the path, `z` of a head in the stream."""


class MeanEdit(Edit):
    """Every unit gives its mean."""

    def __init__(
        self, hvit: HookedViT, units: Sequence[Unit], path: Path, means: Mapping[str, Float[Tensor, "*pos d"]]
    ) -> None:
        super().__init__(hvit, units, path, "mean ablation")
        self._means = dict(means)

    def hooks(self) -> list[Hook]:
        return replacing(self.hvit, self._chosen, self.path, lambda unit: self._means[unit.name])

    def _stream_map(self, unit: Unit) -> AffineMap:
        mean = self._means[unit.name].double()
        if mean.ndim > 1:
            raise InputError(
                f"{self!r} writes another mean at every token position, which is no affine map of a term: take "
                "by_position=False."
            )
        if unit.kind == "head":
            weight = self.hvit.attention(cast(int, unit.layer)).W_O[cast(int, unit.index)].detach().double()
            mean = mean @ weight + share_of_bias(self.hvit, unit).detach().double()
        return AffineMap(mean.new_zeros(len(mean), len(mean)), mean)


class ResampleEdit(Edit):
    """Every image takes the units' values from a sample of the reference, drawn anew in each forward pass."""

    def __init__(
        self,
        hvit: HookedViT,
        units: Sequence[Unit],
        path: Path,
        samples: Mapping[str, Float[Tensor, "sample *pos d"]] | Store,
        seed: int,
    ) -> None:
        """From values by unit name, or from a store, which is read when the model runs (direct path only)."""
        super().__init__(hvit, units, path, "resample ablation")
        self._samples = samples if isinstance(samples, Store) else dict(samples)
        self._n_samples = len(samples) if isinstance(samples, Store) else len(samples[units[0].name])
        self._seed = seed
        if self._n_samples < 2:
            raise InputError(f"Resampling draws from at least 2 samples, this reference has {self._n_samples}.")

    def hooks(self) -> list[Hook]:
        drawing = _Drawing(self._n_samples, self._seed)
        hooks = replacing(self.hvit, self._chosen, self.path, lambda unit: self._values(unit, drawing.rows))
        # In every pass that meets the edit, once, before it, and outside of what gradient checkpointing repeats.
        first = self._chosen[0].direct_hook_name if self.path == "direct" else "hook_embed"
        return [(first, drawing.draw), *hooks]

    def _values(self, unit: Unit, rows: Int[Tensor, "batch"]) -> Float[Tensor, "batch *pos d"]:
        if isinstance(self._samples, Store):
            return self._samples.decompose(rows, unit.name).values[:, 0]
        samples = self._samples[unit.name]
        return samples[rows.to(samples.device)]

    def _stream_map(self, unit: Unit) -> AffineMap:
        raise InputError(f"{self!r} writes what is drawn at random, which is no affine map of a term.")


class _Drawing:
    """Which reference sample each image takes, the same one for all units of an edit."""

    def __init__(self, n_samples: int, seed: int) -> None:
        self._n_samples = n_samples
        self._generator = torch.Generator().manual_seed(seed)
        self.rows = torch.empty(0, dtype=torch.int64)

    def draw(self, values: Tensor, hook: object) -> None:
        """A hook that changes nothing."""
        self.rows = torch.randint(self._n_samples, (len(values),), generator=self._generator)


def replacing(hvit: HookedViT, units: Sequence[Unit], path: Path, value: Value) -> list[Hook]:
    """Hooks that put `value(unit)` in the place of each unit's part.

    In the stream a head's `z` is replaced, which is cheap, unless something listens at `hook_result`, behind it: an
    edit that was entered earlier would then act on the replacement, so that what the replacement writes is put there.
    """

    def point_of(unit: Unit) -> str:
        if path == "direct":
            return unit.direct_hook_name
        if unit.kind == "head" and not hvit.hook_dict[result_point(unit)].is_hooked:
            return cast(str, unit.hook_name)
        return result_point(unit)

    def change_at(point: str) -> Callable[[Unit, Tensor], Tensor]:
        def change(unit: Unit, part: Tensor) -> Tensor:
            values = value(unit).to(part)
            if path == "stream" and part.ndim == 3 and values.ndim > 1 and values.shape[-2] != part.shape[-2]:
                raise InputError(
                    f"The reference has {values.shape[-2]} token positions, these images have {part.shape[-2]}: give "
                    "reference images of their size, or, for means, by_position=False."
                )
            if point.endswith("hook_result"):
                values = values @ hvit.attention(cast(int, unit.layer)).W_O[cast(int, unit.index)]
            # A copy, because hooks that follow may write in place.
            return values.expand_as(part).clone()

        return change

    return [changing(point, group, change_at(point)) for point, group in by_point(units, point_of)]
