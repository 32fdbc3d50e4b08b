"""The atom of largest score, found by looking at few of them."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.spectral.pursuit.ahead import Stage, look_ahead
from residual_lens.spectral.pursuit.bounds import Bounds
from residual_lens.spectral.pursuit.dictionary import Atoms
from residual_lens.spectral.pursuit.samples import FEW, Samples

# Atoms looked at together: few at first, since the best often is among them.
FIRST_BLOCK, LARGEST_BLOCK = 32, 128
# Where a pick takes a look at more atoms than this, the next picks are looked for together.
MANY = 512
# Scores this close, relative to the best, are equal up to rounding of float64: the lowest index is picked.
TIE_TOL = 1e-11
# A score below this share of the samples' norms is rounding of the data: nothing is left to explain.
NOTHING_LEFT = {torch.float32: 1e-6, torch.float64: 1e-14}


class Search:
    """Atoms by the score `s_j = Σ_n |⟨r_n, d_j⟩|` of what the picked ones leave of the samples.

    Residuals are never formed: with the picked atoms' span taken off the atom instead, `⟨r_n, d_j⟩ = ⟨x_n, p_j⟩`. Atoms
    are looked at in blocks, largest bound first, until the best score beats all bounds that are left. Where bounds
    exclude few atoms, several picks are guessed and checked together.
    """

    def __init__(self, samples: Samples, atoms: Atoms, dtype: torch.dtype) -> None:
        self._samples, self._atoms = samples, atoms
        self._nothing = NOTHING_LEFT[dtype] * samples.given
        self._bounds = Bounds(samples, atoms)
        self._ahead: list[Stage] = []
        self._many, self._reach = False, math.inf

    def pick(self, n_picks: int) -> bool:
        """Pick the atom of largest score, the first of equal ones; False where no score is above rounding.

        Args:
            n_picks: how many picks are wanted, this one included.
        """
        if self._many and not self._ahead:
            n_guesses = int(min(n_picks, self._reach))
            self._ahead = look_ahead(self._samples, self._atoms, self._bounds, n_guesses, self._nothing)
            self._reach = 2.0
        stage = self._ahead.pop(0) if self._ahead else self._look_around()
        self._bounds.tighten(stage.atoms, stage.scores, stage.slack)
        self._many = len(stage.atoms) > MANY and len(self._samples.mean) > FEW
        atom = decided(self._samples, stage, self._atoms.factors, self._nothing, self._atoms.left_of)
        if atom is None:
            return False
        if atom == stage.guess:
            self._reach += 2
        else:
            self._ahead = []
        self._atoms.pick(atom)
        self._bounds.take_off(atom, self._atoms)
        return True

    def _look_around(self) -> Stage:
        """Scores of those atoms whose bounds are not beaten."""
        factors, bounds = self._atoms.factors, self._bounds
        limits, order = (bounds.values * factors).masked_fill_(bounds.struck, -1.0).sort(descending=True)
        limits = limits.tolist()
        found: list[tuple[Tensor, Tensor]] = []
        beaten, at, size = self._nothing, 0, FIRST_BLOCK
        while at < len(limits) and limits[at] > beaten * (1 - TIE_TOL):
            block = order[at : at + size]
            left = self._atoms.deflated(block)
            bounds.struck[block] = ~left.any(dim=1)
            scores, slack = self._samples.scores(self._atoms.seen(left))
            beaten = max(beaten, float(((scores - slack) * factors[block]).max()))
            found.append((scores, slack))
            at, size = at + len(block), min(2 * size, LARGEST_BLOCK)
        scores, slack = (
            (torch.cat(parts) for parts in zip(*found, strict=True)) if found else (factors[:0], factors[:0])
        )
        return Stage(None, order[:at], scores, slack)


def decided(
    samples: Samples,
    stage: Stage,
    factors: Float[Tensor, "atom"],
    nothing: float,
    parts: Callable[[Int[Tensor, "chosen"]], Float[Tensor, "chosen rank"]],
) -> int | None:
    """The best atom of a stage; what working precision cannot tell apart is computed in float64.

    Args:
        samples: what scores are of.
        stage: scores of all atoms that could be the best.
        factors: what scores are multiplied by.
        nothing: a score up to this is rounding.
        parts: what samples are multiplied with to have the scores of a block of atoms.
    """
    weighted = factors[stage.atoms]
    beaten = max([nothing, *((stage.scores - stage.slack) * weighted).tolist()])
    close = stage.atoms[(stage.scores + stage.slack) * weighted > beaten * (1 - TIE_TOL)].sort().values
    if len(close) == 1 and beaten > nothing:
        return int(close)
    exact = [samples.exact_scores(parts(block)) * factors[block] for block in close.split(LARGEST_BLOCK)]
    largest = max((float(scores.max()) for scores in exact if len(scores)), default=0.0)
    if largest <= nothing:
        return None
    return int(close[torch.cat(exact) >= largest * (1 - TIE_TOL)][0])
