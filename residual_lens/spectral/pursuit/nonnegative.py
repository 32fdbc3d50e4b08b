"""Simultaneous pursuit with weights that are not negative."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.spectral.pursuit.dictionary import Atoms
from residual_lens.spectral.pursuit.least_squares import nonnegative_weights
from residual_lens.spectral.pursuit.result import Pursuit
from residual_lens.spectral.pursuit.samples import Samples
from residual_lens.spectral.pursuit.search import LARGEST_BLOCK, Stage, decided

# Samples whose weights are computed together.
BLOCK = 1024


def nonnegative_somp(samples: Samples, atoms: Atoms, n_picks: int, dtype: torch.dtype, nothing: float) -> Pursuit:
    """`somp` by positive correlations, with non-negative weights: residuals are not orthogonal to the picked atoms.

    What is left of a sample, `r_n = x_n − Σ_s w_ns d_s`, is held as its coordinates and its weights. All atoms are
    looked at for each pick, one block after the other. Scores below a share `nothing` of the samples' norms are
    rounding.
    """
    data = torch.cat(list(samples.exact()))
    norms = torch.linalg.vector_norm(data, dim=1)
    weights = data[:, :0]
    explained, cosines = [], []
    while len(atoms.picked) < n_picks:
        left = Samples(torch.cat([data, weights], dim=1), center=False, positive=True)
        atom = _best(left, atoms, nothing * samples.given / left.scale)
        if atom is None:
            break
        atoms.pick(atom)
        along = data @ atoms.seen(atoms.directions).mT
        weights = torch.cat(
            [nonnegative_weights(atoms.triangle.expand(len(part), -1, -1), part) for part in along.split(BLOCK)]
        )
        reached = weights @ atoms.triangle
        # |x − reached|² differs from |x|² by what lies in the span alone.
        explained.append((along.square() - (along - reached).square()).sum())
        lengths = torch.linalg.vector_norm(reached, dim=1) * norms
        cosines.append(((along * reached).sum(dim=1) / lengths.where(lengths > 0, 1.0)).mean())
    total = norms.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    mean = samples.mean if atoms.frame is None else samples.mean @ atoms.frame
    return Pursuit(
        indices=torch.tensor(atoms.picked, dtype=torch.int64, device=data.device),
        weights=(weights * samples.scale).to(dtype),
        mean=mean.to(dtype),
        explained_variance=torch.stack(explained) / total if explained else norms[:0],
        cosine=torch.stack(cosines) if cosines else norms[:0],
        atoms=atoms.given[list(atoms.picked)].to(dtype),
    )


def _best(left: Samples, atoms: Atoms, nothing: float) -> int | None:
    """The atom of largest `Σ_n max(⟨r_n, d_j⟩, 0)`; those in the span of the picked ones have none."""
    picked = atoms.given[list(atoms.picked)].double()

    def parts(block: Int[Tensor, "chosen"]) -> Float[Tensor, "chosen feature"]:
        given = atoms.given[block].double()
        inside = ~atoms.deflated(block).any(dim=1, keepdim=True)
        return torch.cat([atoms.seen(given), -given @ picked.mT], dim=1).masked_fill_(inside, 0.0)

    everything = torch.arange(len(atoms.given), device=picked.device)
    found = [left.scores(parts(block)) for block in everything.split(LARGEST_BLOCK)]
    scores, slack = (torch.cat(each) for each in zip(*found, strict=True))
    return decided(left, Stage(everything, scores, slack), atoms.factors, nothing, parts)
