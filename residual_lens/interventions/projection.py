"""Projecting out: units that contribute nothing along given directions of the embedding."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions.adapter import Path, embedding_maps
from residual_lens.interventions.affine import AffineMap
from residual_lens.interventions.directions import Component, Difference, Direction, unit_vector
from residual_lens.interventions.edit import (
    Edit,
    by_point,
    changing,
    checked_path,
    edited_units,
    result_point,
    share_of_bias,
)
from residual_lens.units import Unit

# Of unit vectors: what is smaller than float32 text embeddings and weights tell apart counts as nothing.
RANK_TOL = 1e-6


def project_out(
    hvit: HookedViT,
    units: str | Unit | Iterable[str | Unit],
    directions: Direction | Sequence[Direction] | Float[Tensor, "direction d_out"],
    *,
    path: str = "direct",
) -> Edit:
    """Take directions of the embedding out of what units contribute, while a `with` block runs.

    With orthonormal rows `D` that span the directions, the direct path gives `u − u Dᵀ D` for a contribution `u`. The
    stream path takes the smallest change of a term `c`, at every token, whose direct effect is that: `c − c G Dᵀ D G⁺`,
    `G` (`hvit.direct_map`) being the map to the direct contribution `c G / σ` and `D` the directions as far as `G`
    reaches them. With attention pooling `G` is the sum of the pooling heads' maps, and the direct effect is that in
    tendency only.

    Args:
        hvit: the model.
        units: which units (`Units.select`), each by itself.
        directions: one or several, as for `steer`: vectors `[d_out]` of any length (or all of them as one tensor),
            texts, `Component` or `Difference`. They need not be orthogonal.
        path: `"direct"` or `"stream"`.

    Raises:
        InputError: no or unknown units, no directions or unusable ones, no such path, `bias` in the stream, or
            directions that no stream term contributes to.
        MismatchError: see `Component`.
        UnsupportedModelError: a text for a model without text tower.

    Example:
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(8, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> with project_out(hvit, "heads", ["a red star", "a blue star"]):
        ...     heads = hvit.decompose(images).select("heads")
        >>> red = hvit.encode_text(["a red star"])[0]
        >>> bool((heads @ red).abs().max() < 1e-5)
        True
    """
    checked = checked_path(path)
    chosen = edited_units(hvit, units, checked)
    vectors = torch.stack([unit_vector(hvit, direction) for direction in _several(directions)]).double()
    if checked == "direct":
        span = orthonormal(vectors)
        return ProjectionEdit(hvit, chosen, checked, dict.fromkeys(chosen, Removed(span.mT, span)))
    of_kind = {kind: _in_stream(hvit, vectors, is_pool=kind == "pool") for kind in {unit.kind for unit in chosen}}
    return ProjectionEdit(hvit, chosen, checked, {unit: of_kind[unit.kind] for unit in chosen})


class Removed(NamedTuple):
    """What is taken away: `x reading writing`."""

    reading: Float[Tensor, "d rank"]
    """To coordinates along the directions."""
    writing: Float[Tensor, "rank d"]
    """And back."""


class ProjectionEdit(Edit):
    """`x ↦ x − x R W` for what each unit contributes, or adds to the stream at every token."""

    def __init__(self, hvit: HookedViT, units: Sequence[Unit], path: Path, removed: dict[Unit, Removed]) -> None:
        rank = max(len(each.writing) for each in removed.values())
        super().__init__(hvit, units, path, f"projection of {rank} direction{'' if rank == 1 else 's'} out")
        self._removed = removed

    def hooks(self) -> list[Hook]:
        return [changing(point, units, self._changed) for point, units in by_point(self._chosen, self._point_of)]

    def _point_of(self, unit: Unit) -> str:
        return unit.direct_hook_name if self.path == "direct" else result_point(unit)

    def _changed(self, unit: Unit, part: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        reading, writing = (each.to(part) for each in self._removed[unit])
        # `hook_result` leaves out a head's share of the output bias.
        has_share = unit.kind == "head" and self.path == "stream"
        whole = part + share_of_bias(self.hvit, unit) if has_share else part
        return part - whole @ reading @ writing

    def _stream_map(self, unit: Unit) -> AffineMap:
        reading, writing = self._removed[unit]
        matrix = torch.eye(len(reading), dtype=torch.float64, device=reading.device) - reading @ writing
        return AffineMap(matrix, matrix.new_zeros(len(reading)))


def orthonormal(rows: Float[Tensor, "direction d"]) -> Float[Tensor, "rank d"]:
    """Orthonormal rows with the span of rows of length up to 1, in float64."""
    _, sizes, span = torch.linalg.svd(rows.double(), full_matrices=False)
    return span[sizes > RANK_TOL]


def _several(directions: Direction | Sequence[Direction] | Float[Tensor, "direction d_out"]) -> list[Direction]:
    """One direction or several, as several."""
    if isinstance(directions, str | Component | Difference) or (isinstance(directions, Tensor) and directions.ndim < 2):
        return [directions]
    several = list(directions)
    if not several:
        raise InputError("No directions were given: give at least one vector, text, Component or Difference.")
    return several


def _in_stream(hvit: HookedViT, vectors: Float[Tensor, "direction d_out"], *, is_pool: bool) -> Removed:
    """What to take from a stream term, in float64."""
    to_embedding, from_embedding = embedding_maps(hvit, is_pool=is_pool)
    span = orthonormal(vectors @ from_embedding @ to_embedding)
    if not len(span):
        raise InputError("No term in the stream contributes to these directions: use path='direct'.")
    return Removed(to_embedding @ span.mT, span @ from_embedding)
