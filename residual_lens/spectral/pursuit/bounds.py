"""Upper bounds of all atoms' scores, which follow every pick at the price of two products with a vector."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.spectral.pursuit.dictionary import Atoms
from residual_lens.spectral.pursuit.samples import Samples

# Atoms multiplied with the scatter at once.
BLOCK = 1024
# Squares below this are zero.
TINY = torch.finfo(torch.float64).tiny


class Bounds:
    """Bounds of `s(p_j) = Σ_n |⟨x_n, p_j⟩|`, `p_j` being the atom beside the picked ones.

    With the scatter `S` of the samples and `|p|² = pᵀ S p`, Cauchy-Schwarz says `s(p) ≤ √n |p|`. A score is a norm, so
    that one that was computed when `a` was left of the atom bounds the later ones: what is left after more picks is
    `p = a − v`, and for every `γ` from 0 to 1

        s(p) ≤ (1 − γ) s(a) + √n |γ a − v|.

    The best `γ` is taken. (It is the triangle inequality of angles: `s(p) / (√n |p|)` is the cosine of the angle
    between the products `⟨x_n, p⟩` and the nearest corner of a cube.) The bound grows with what picks took off since,
    not with what they took off of the direction of `a`.

    Attributes:
        struck: `[atom]`: picked, or in the span of the picked ones.
    """

    def __init__(self, samples: Samples, atoms: Atoms) -> None:
        self._n = len(samples)
        self._scatter = samples.scatter()
        self._given = atoms.given.to(samples.rows.dtype)
        # In float64 where there are few dimensions: it costs next to nothing there.
        dtype = self._given.dtype if atoms.frame is None else torch.float64
        scatter = self._scatter.to(dtype)
        parts = [atoms.seen(part.to(dtype)) for part in self._given.split(BLOCK)]
        products = [(part @ scatter).mul_(part).sum(dim=1) for part in parts]
        # `|a|²`, and below an upper bound of `s(a)`: at first of whole atoms, of which no score is known.
        self._squares = torch.cat(products).double().clamp_min_(TINY)
        self._likely = torch.full_like(self._squares, math.sqrt(2 / math.pi))
        # `⟨a, v⟩` and `|v|²` in the same metric, and the picked directions' shares: all of them, and those in `v`.
        self._crossed, self._moved = torch.zeros_like(self._squares), torch.zeros_like(self._squares)
        self._shares = self._squares.new_zeros(len(self._squares), 0)
        self._since = self._shares
        # How far `|a|²` and `⟨a, v⟩` may be off by rounding of products with the scatter, and scores by that of shares.
        self._gamma = samples.gamma(self._given.shape[1] + 4)
        largest = float(torch.linalg.matrix_norm(self._scatter))
        self._off = torch.full_like(self._squares, 2 * samples.gamma(self._given.shape[1] + 4, dtype) * largest)
        self._crossed_off = torch.zeros_like(self._squares)
        self._scores = (self._n * (self._squares + self._off)).sqrt_()
        # Rounding of float64 for every pick, and of the sums that the scatter is made of.
        terms = self._n + self._given.shape[1] + 4
        self._wide_off = samples.gamma(terms, torch.float64) * float(self._scatter.trace())
        self._drift = self._gamma * samples.length
        self.struck = torch.zeros_like(self._squares, dtype=torch.bool)

    def values(self) -> Float[Tensor, "atom"]:
        """The bounds, float64; rounding of working precision is allowed for."""
        along = self._crossed / self._squares
        beside = (self._moved - self._crossed * along).clamp_min_(0.0)
        # The derivative by `γ` vanishes where what lies beside `a` makes the angle that `s(a)` leaves to its bound.
        room = self._squares * (self._n * self._squares - self._scores.square()).clamp_min_(TINY)
        part = along + self._scores * (beside / room.clamp_min_(TINY)).sqrt_()
        # Any part will do for an atom that no sample sees, where this is 0 times infinity.
        part = part.nan_to_num_(nan=0.0).clamp_(0.0, 1.0)
        gap = (part * (part * self._squares - 2 * self._crossed) + self._moved).clamp_min_(0.0)
        gap += part * (part * self._off + 2 * self._crossed_off)
        n_picks = self._shares.shape[1]
        gap += (1 + n_picks) * self._wide_off
        # Picked directions are orthonormal, so that errors of shares add up as their squares do.
        drift = self._drift * (1 + math.sqrt(n_picks))
        return (1 - part) * self._scores + (self._n * gap).sqrt_() + drift * (1 + part)

    def likely(self) -> Float[Tensor, "atom"]:
        """Guesses of the scores: the share that a score has of its first bound changes slowly."""
        return self._likely * (self._n * self._left()).sqrt_()

    def tighten(
        self, block: Int[Tensor, "chosen"], scores: Float[Tensor, "chosen"], slack: Float[Tensor, "chosen"]
    ) -> None:
        """Take in scores and how far they may be off."""
        self._squares[block] = self._left()[block].clamp_min_(TINY)
        self._scores[block] = scores + slack
        self._likely[block] = scores / (self._n * self._squares[block]).sqrt_()
        self._off[block] += 2 * self._crossed_off[block]
        for entries in (self._crossed, self._moved, self._crossed_off, self._since):
            entries[block] = 0.0

    def take_off(self, atoms: Atoms) -> None:
        """Follow a pick, whose direction is the last of `atoms.directions`."""
        directions = atoms.seen(atoms.directions)
        image = self._scatter @ directions[-1]
        whole = image if atoms.frame is None else image @ atoms.frame
        both = torch.stack([atoms.directions[-1], whole]).to(self._given)
        shares, seen = (both @ self._given.mT).double()
        overlaps = directions[:-1] @ image
        before = self._since @ overlaps
        left = seen - self._shares @ overlaps
        self._crossed += shares * (left + before)
        self._moved += shares * (shares * (directions[-1] @ image) + 2 * before)
        self._crossed_off += shares.abs() * (self._gamma * float(torch.linalg.vector_norm(image)))
        self._shares = torch.cat([self._shares, shares[:, None]], dim=1)
        self._since = torch.cat([self._since, shares[:, None]], dim=1)
        self.struck[atoms.picked[-1]] = True

    def _left(self) -> Float[Tensor, "atom"]:
        return (self._squares - 2 * self._crossed + self._moved).clamp_min_(0.0)
