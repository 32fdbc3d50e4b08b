"""What every pursuit gives."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.spectral.pursuit.samples import Samples


@dataclass(frozen=True, eq=False)
class Pursuit:
    """Atoms that were picked to describe samples, in order.

    `x ≈ mean + Σ_pick weights · atom`. Where a pursuit ended early it has fewer picks than were asked for.
    """

    indices: Int[Tensor, "*sample pick"]
    """Rows of the dictionary, in the order of picking. Of `omp` one list a sample, -1 where a sample's ended."""
    weights: Float[Tensor, "sample pick"]
    """Of the picked atoms, in the units of the data; 0 where the index is -1."""
    mean: Float[Tensor, "d_out"]
    """What was taken off the samples before; zeros with `center=False`."""
    explained_variance: Float[Tensor, "pick"]
    """Share of `Σ_n |x_n − mean|²` that is explained after each pick; float64."""
    cosine: Float[Tensor, "pick"]
    """Mean over samples of the cosine between `x_n − mean` and what stands for it after each pick; float64. It is 0 for
    a sample where one of them is zero."""
    atoms: Float[Tensor, "atom d_out"]
    """What weights refer to: the picked atoms in order (of `text_span`, their parts in the data's span); of `omp` the
    dictionary."""

    @torch.no_grad()
    def reconstruction(self) -> Float[Tensor, "sample d_out"]:
        """`mean + Σ_pick weights · atom`, in the dtype of the weights."""
        atoms, total = self.atoms.to(self.weights), self.mean.to(self.weights).expand(len(self.weights), -1)
        if self.indices.ndim == 1:
            return total + self.weights @ atoms
        for weights, indices in zip(self.weights.mT, self.indices.mT, strict=True):
            total = total + weights[:, None] * atoms[indices]
        return total


def of_directions(
    samples: Samples,
    picked: list[int],
    directions: Float[Tensor, "pick rank"],
    triangle: Float[Tensor, "pick pick"],
    atoms: Float[Tensor, "pick d_out"],
    frame: Float[Tensor, "rank d_out"] | None,
) -> Pursuit:
    """What projecting samples on the span of the picked atoms gives.

    Args:
        samples: centred.
        picked: rows of the dictionary.
        directions: what the data can see of the picked atoms after orthonormalising them in order.
        triangle: the picked atoms are `triangle @ directions`.
        atoms: the picked atoms, in the dtype of the result.
        frame: of the samples' coordinates.
    """
    coordinates, norms = samples.along(directions), samples.norms
    explained = coordinates.square().cumsum(dim=1)
    total = norms.square().sum()
    weights = torch.linalg.solve_triangular(triangle, coordinates, upper=False, left=False)
    return Pursuit(
        indices=torch.tensor(picked, dtype=torch.int64, device=norms.device),
        weights=(weights * samples.scale).to(atoms),
        mean=(samples.mean if frame is None else samples.mean @ frame.double()).to(atoms),
        explained_variance=explained.sum(dim=0) / total.where(total > 0, 1.0),
        cosine=(explained.sqrt() / norms.where(norms > 0, 1.0)[:, None]).mean(dim=0),
        atoms=atoms,
    )
