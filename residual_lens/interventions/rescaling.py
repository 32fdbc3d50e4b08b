"""Rescaling principal coordinates of the units at one hook point: the arithmetic of ResiDual."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.bases import Basis
from residual_lens.interventions.affine import AffineMap
from residual_lens.units import Unit


@dataclass(frozen=True, eq=False)
class Frame:
    """A basis as seen from the space in which an edit happens."""

    reading: Float[Tensor, "unit d component"]
    """Values to coordinates: Φᵀ, or its like in the stream."""
    writing: Float[Tensor, "unit component d"]
    """Coordinates back to values: Φ, or its like in the stream."""
    offset: Float[Tensor, "unit component"]
    """Coordinates of the mean."""
    mean: Float[Tensor, "unit d"]
    """The mean."""


class Rescaling(nn.Module):
    """`RD(x) = Φᵀ diag(λ) Φ (x − μ)` for the units that share a hook point, bases held as buffers.

    Units may keep different numbers of components: the missing rows of Φ are zero, so that they neither read nor write
    and get no gradient.
    """

    mean: Tensor
    components: Tensor
    index: Tensor

    def __init__(self, units: Sequence[Unit], counts: Sequence[int], first: int, d_out: int) -> None:
        """Empty buffers for `units`, whose scales start at `first` in the vector of all scales."""
        super().__init__()
        self.units = tuple(units)
        self.counts = tuple(counts)
        index = torch.zeros(len(units), max(counts), dtype=torch.int64)
        for row, count in enumerate(counts):
            index[row, :count] = torch.arange(first, first + count)
            first += count
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("mean", torch.zeros(len(units), d_out))
        self.register_buffer("components", torch.zeros(len(units), max(counts), d_out))

    def fill(self, bases: Sequence[Basis]) -> None:
        """Copy means and leading components in."""
        for row, (basis, count) in enumerate(zip(bases, self.counts, strict=True)):
            self.mean[row] = basis.mean
            self.components[row, :count] = basis.components[:count]

    def direct_frame(self) -> Frame:
        """The frame for direct contributions."""
        offset = torch.einsum("ud,ukd->uk", self.mean, self.components)
        return Frame(self.components.mT, self.components, offset, self.mean)

    def stream_frame(
        self,
        to_embedding: Float[Tensor, "d_model d_out"],
        from_embedding: Float[Tensor, "d_out d_model"],
        scale: float,
    ) -> Frame:
        """The frame for stream terms.

        A stream term `c` contributes `u = c G / σ` directly. The edit of the stream is the smallest one whose direct
        effect is RD: coordinates `(c G − σ̄ μ) Φᵀ`, written back through the pseudo-inverse of `G`. The final σ of the
        sample is not known yet at this depth, so the mean is brought to the stream's size by its typical value σ̄.

        Args:
            to_embedding: `G`, float64.
            from_embedding: its pseudo-inverse, float64.
            scale: σ̄.
        """
        components, mean = self.components.double(), self.mean.double() * scale
        frame = (
            torch.einsum("md,ukd->umk", to_embedding, components),
            torch.einsum("ukd,dm->ukm", components, from_embedding),
            torch.einsum("ud,ukd->uk", mean, components),
            mean @ from_embedding,
        )
        return Frame(*(part.to(self.components.dtype) for part in frame))

    def rescale(
        self,
        values: Float[Tensor, "*batch unit d"],
        frame: Frame,
        scales: Float[Tensor, "total"],
        *,
        pass_rest: bool,
        keep_mean: bool,
    ) -> Float[Tensor, "*batch unit d"]:
        """Edited values.

        Args:
            values: contributions or stream terms of this point's units.
            frame: the basis in their space.
            scales: λ of all units.
            pass_rest: what lies outside the basis passes with factor 1 instead of being dropped.
            keep_mean: add the mean back.
        """
        factors = scales[self.index].to(values)
        frame = Frame(*(part.to(values) for part in (frame.reading, frame.writing, frame.offset, frame.mean)))
        coordinates = torch.einsum("...ud,udk->...uk", values, frame.reading) - frame.offset
        if pass_rest:
            changed = values + torch.einsum("...uk,ukd->...ud", (factors - 1) * coordinates, frame.writing)
            return changed if keep_mean else changed - frame.mean
        rebuilt = torch.einsum("...uk,ukd->...ud", factors * coordinates, frame.writing)
        return rebuilt + frame.mean if keep_mean else rebuilt

    def stream_map(self, row: int, frame: Frame, scales: Float[Tensor, "total"], *, keep_mean: bool) -> AffineMap:
        """What `rescale` with `pass_rest` does to the terms of one unit, in float64.

        With reading `R`, writing `W`, the mean's coordinates `o` and the mean `μ`, all in the stream,
        `c + (c R − o) diag(λ − 1) W − μ` is `c (I + R diag(λ − 1) W) − o diag(λ − 1) W − μ`.

        Args:
            row: which of this point's units.
            frame: the basis in the stream.
            scales: λ of all units.
            keep_mean: add `μ` back.
        """
        reading, writing, offset, mean = (
            part[row].double() for part in (frame.reading, frame.writing, frame.offset, frame.mean)
        )
        changed = (scales[self.index[row]].double() - 1)[:, None] * writing
        identity = torch.eye(len(reading), dtype=torch.float64, device=reading.device)
        return AffineMap(identity + reading @ changed, -offset @ changed if keep_mean else -offset @ changed - mean)
