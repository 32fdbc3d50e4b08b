"""The atom of largest score, found by looking at few of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.spectral.pursuit.bounds import Bounds
from residual_lens.spectral.pursuit.dictionary import Atoms
from residual_lens.spectral.pursuit.samples import Samples

# Atoms looked at together: few at first, since the best often is among them.
FIRST_BLOCK, LARGEST_BLOCK = 32, 128
# Scores this close, relative to the best, are equal up to rounding of float64: the lowest index is picked.
TIE_TOL = 1e-11
# A score below this share of the samples' norms is rounding of the data: nothing is left to explain.
NOTHING_LEFT = {torch.float32: 1e-6, torch.float64: 1e-14}


@dataclass(frozen=True)
class Stage:
    """Scores of all atoms that could be the best before a pick, and how far they may be off."""

    atoms: Int[Tensor, "chosen"]
    scores: Float[Tensor, "chosen"]
    slack: Float[Tensor, "chosen"]


class Search:
    """Atoms by the score `s_j = Σ_n |⟨r_n, d_j⟩|` of what the picked ones leave of the samples.

    Residuals are never formed: with the picked atoms' span taken off the atom instead, `⟨r_n, d_j⟩ = ⟨x_n, p_j⟩`. Atoms
    are looked at in blocks, likely ones and then largest bounds first, until the best score beats all bounds that are
    left.
    """

    def __init__(self, samples: Samples, atoms: Atoms, dtype: torch.dtype) -> None:
        self._samples, self._atoms = samples, atoms
        self._nothing = NOTHING_LEFT[dtype] * samples.given
        self._bounds = Bounds(samples, atoms)

    def pick(self) -> bool:
        """Pick the atom of largest score, the first of equal ones; False where no score is above rounding."""
        stage = self._look_around()
        atom = decided(self._samples, stage, self._atoms.factors, self._nothing, self._atoms.left_of)
        if atom is None:
            return False
        self._atoms.pick(atom)
        self._bounds.take_off(self._atoms)
        return True

    def _look_around(self) -> Stage:
        """Scores of those atoms whose bounds are not beaten."""
        factors, bounds = self._atoms.factors, self._bounds
        limits = (bounds.values() * factors).masked_fill_(bounds.struck, -1.0)
        likely = (bounds.likely() * factors).masked_fill_(bounds.struck, -1.0)
        # The largest bound as well, so that the search does not end while one is above all that is likely.
        block = torch.cat([likely.topk(min(FIRST_BLOCK, len(likely))).indices, limits.argmax()[None]]).unique()
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        beaten, size = self._nothing, FIRST_BLOCK
        while True:
            block = block[limits[block] > beaten * (1 - TIE_TOL)]
            if not len(block):
                break
            left = self._atoms.deflated(block)
            bounds.struck[block] = torch.linalg.vector_norm(left, dim=1) == 0
            scores, slack = self._samples.scores(self._atoms.seen(left))
            bounds.tighten(block, scores, slack)
            limits[block] = -1.0
            beaten = max(beaten, float(((scores - slack) * factors[block]).max()))
            found.append((block, scores, slack))
            size = min(2 * size, LARGEST_BLOCK)
            block = limits.topk(min(size, len(limits))).indices
        parts = found or [(limits[:0].long(), limits[:0], limits[:0])]
        return Stage(*(torch.cat(each) for each in zip(*parts, strict=True)))


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
