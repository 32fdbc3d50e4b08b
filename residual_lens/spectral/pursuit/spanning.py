"""TextSpan: the atoms along which data vary most, inside the data's own span."""

import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.spectral.pursuit.dictionary import INDEPENDENT, Atoms, check, coarser
from residual_lens.spectral.pursuit.result import Pursuit, of_directions
from residual_lens.spectral.pursuit.samples import Samples
from residual_lens.spectral.pursuit.search import NOTHING_LEFT, TIE_TOL

# Variances below this share of the total are rounding of float64 moments.
MOMENTS_TOL = 1e-13


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def text_span(
    x: Float[Tensor, "sample rank"],
    atoms: Float[Tensor, "atom d_out"],
    n_picks: int,
    *,
    frame: Float[Tensor, "_ _"] | None = None,
    rank: int | None = None,
) -> Pursuit:
    """TextSpan (Gandelsman et al. 2024, arXiv 2310.05916, Algorithm 1).

    The dictionary is projected on the span of the data: `rank` right singular vectors of the *centred* data, so that a
    shift of all samples changes nothing. Then, again and again, the atom of largest variance `Σ_n ⟨x_n, p_j⟩²` is
    picked (longer projections have more of it: they are not normalised), and its direction is taken off data *and*
    dictionary. The data are read twice, for their scatter and for their coordinates along the picks.

    Args:
        x: samples in the space of the atoms, or their coordinates in `frame`; float32 or float64, any mean.
        atoms: unit-norm rows.
        n_picks: how many atoms to pick at most. There are fewer if no atom has a part in what is left of the data.
        frame: `[rank d_out]`, orthonormal rows: the data are `x @ frame`.
        rank: dimensions of the span; all in which the data vary by default, and never more.

    Returns:
        `weights` and `atoms` of the result are of the projected atoms.

    Raises:
        InputError: empty, half precision, not finite, atoms that are not unit-norm, a frame that is not orthonormal, or
            `n_picks` or `rank` below 1.
        MismatchError: another space in x, atoms and frame, or another device.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 3.0])
        >>> text_span(x, torch.eye(3), 3, rank=2).indices.tolist()
        [1, 2]
    """
    check(x, atoms, n_picks, frame)
    if rank is not None and rank < 1:
        raise InputError(f"rank must be at least 1, or None for all; got {rank}.")
    dtype, rounded = torch.promote_types(x.dtype, atoms.dtype), coarser(x, atoms)
    samples, dictionary = Samples(x, center=True), Atoms(atoms, frame, rounded)
    span, variances = _span(samples, rounded, rank)
    projected = dictionary.seen(atoms.double()) @ span
    left, picked = projected.clone(), []
    directions = left.new_zeros(0, span.shape[1])
    while len(picked) < n_picks:
        scores = left.square() @ variances
        scores.masked_fill_(torch.linalg.vector_norm(left, dim=1) <= INDEPENDENT[rounded], 0.0)
        largest = scores.max()
        if largest <= 0:
            break
        picked.append(int((scores >= largest * (1 - TIE_TOL)).nonzero()[0, 0]))
        # What is left of an atom is orthogonal to the earlier directions up to rounding, which is taken off as well.
        direction = left[picked[-1]] - (directions @ left[picked[-1]]) @ directions
        directions = torch.cat([directions, direction[None] / torch.linalg.vector_norm(direction)])
        left -= (left @ directions[-1])[:, None] * directions[-1]
    triangle = projected[picked] @ directions.mT
    parts = projected[picked] @ span.mT
    parts = parts if frame is None else parts @ frame.double()
    return of_directions(samples, picked, directions @ span.mT, triangle, parts.to(dtype), frame)


def _span(
    samples: Samples, dtype: torch.dtype, rank: int | None
) -> tuple[Float[Tensor, "rank component"], Float[Tensor, "component"]]:
    """Directions in which the data vary, as columns, largest variance first, and the sums of squares along them."""
    scatter = samples.exact_scatter()
    variances, vectors = torch.linalg.eigh(scatter)
    variances, vectors = variances.flip(0), vectors.flip(1)
    noise = (NOTHING_LEFT[dtype] * samples.given) ** 2 / len(samples) + MOMENTS_TOL * float(variances.sum())
    kept = min(int((variances > noise).sum()), len(variances) if rank is None else rank)
    return vectors[:, :kept], variances[:kept]
