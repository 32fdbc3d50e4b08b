"""Upper bounds of all atoms' scores, which follow every pick at the price of two products with a vector."""

import copy
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.spectral.pursuit.dictionary import Atoms
from residual_lens.spectral.pursuit.samples import Samples

# Atoms multiplied with the scatter at once.
BLOCK = 1024


class Bounds:
    """Bounds of `s_j = Σ_n |⟨x_n, p_j⟩|`, `p_j` being the atom beside the picked ones.

    Two hold, and the smaller is kept. By Cauchy-Schwarz `s_j ≤ √n (p_jᵀ S p_j)^½`, with the scatter `S` of the samples.
    And a pick with direction `q` moves a score by `|⟨d_j, q⟩| Σ_n |⟨x_n, q⟩|` at most, so that a score that was
    computed once bounds the later ones.

    Attributes:
        values: `[atom]`, float64; rounding of working precision is allowed for.
        struck: `[atom]`: picked, or in the span of the picked ones.
    """

    def __init__(self, samples: Samples, atoms: Atoms) -> None:
        self._samples = samples
        self._scatter, self._slack = samples.scatter()
        self._whole = atoms.given.to(self._scatter.dtype)
        self._seen = self._whole if atoms.frame is None else self._whole @ atoms.frame.to(self._whole).mT
        products = [(part @ self._scatter).mul_(part).sum(dim=1) for part in self._seen.split(BLOCK)]
        # p_jᵀ S p_j, and what it is updated with: ⟨d_j, q⟩ for every picked direction.
        self._squares = torch.cat(products).double()
        self._shares = self._squares.new_zeros(len(self._squares), 0)
        self.struck = torch.zeros_like(self._squares, dtype=torch.bool)
        self.values = self._by_scatter()
        # Scores as shares of their bound by the scatter, which change slowly; before one is known, a Gaussian's.
        self._ratios = torch.full_like(self.values, math.sqrt(2 / math.pi))

    def copy(self) -> "Bounds":
        """One that goes its own way."""
        twin = copy.copy(self)
        for name in ("_squares", "_ratios", "struck", "values"):
            setattr(twin, name, getattr(self, name).clone())
        return twin

    def tighten(
        self, block: Int[Tensor, "chosen"], scores: Float[Tensor, "chosen"], slack: Float[Tensor, "chosen"]
    ) -> None:
        """Take in scores and how far they may be off."""
        self.values[block] = torch.minimum(self.values[block], scores + slack)
        self._ratios[block] = scores / self._by_scatter()[block].clamp_min(torch.finfo(torch.float64).tiny)

    def guesses(self) -> Float[Tensor, "atom"]:
        """Likely scores."""
        return torch.minimum(self._ratios * self._by_scatter(), self.values)

    def take_off(self, atom: int, atoms: Atoms) -> None:
        """Follow a pick, whose direction is the last of `atoms.directions`."""
        direction, seen = atoms.directions[-1], atoms.seen(atoms.directions)
        image = self._scatter @ seen[-1].to(self._scatter)
        shares = (self._whole @ direction.to(self._whole)).double()
        overlaps = (self._seen @ image).double() - self._shares @ (seen[:-1] @ image.double())
        self._squares += shares * (shares * (seen[-1] @ image.double()) - 2 * overlaps)
        self._shares = torch.cat([self._shares, shares[:, None]], dim=1)
        # Σ_n |⟨x_n, q⟩| is the picked atom's score over the length of what was left of it.
        spread = self.values[atom] / atoms.triangle[-1, -1]
        # What working precision may have lost of the shares.
        moved = shares.abs() + self._samples.gamma(len(direction) + 2)
        self.values = torch.minimum(self.values + moved * spread, self._by_scatter())
        self.struck[atom] = True

    def _by_scatter(self) -> Float[Tensor, "atom"]:
        return (len(self._samples) * (self._squares.clamp_min(0.0) + self._slack)).sqrt_()
