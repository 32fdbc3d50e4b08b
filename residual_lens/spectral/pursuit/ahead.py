"""Looking several picks ahead, so that one product with the samples serves them all."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual_lens.spectral.pursuit.bounds import Bounds
from residual_lens.spectral.pursuit.dictionary import Atoms
from residual_lens.spectral.pursuit.samples import Samples

# Atoms that guesses are taken from; their products with the samples are held, and take no more than the samples do.
FEWEST, MOST = 64, 512
# Atoms and rows that are multiplied at once, and taken through all stages while in cache.
BLOCK, ROWS = 256, 1024


@dataclass(frozen=True)
class Stage:
    """Scores of all atoms that could be the best before a pick, and how far they may be off."""

    guess: int | None
    atoms: Int[Tensor, "chosen"]
    scores: Float[Tensor, "chosen"]
    slack: Float[Tensor, "chosen"]


def look_ahead(samples: Samples, atoms: Atoms, bounds: Bounds, n_picks: int, nothing: float) -> list[Stage]:
    """Guess picks from the most promising atoms, and compute the scores that tell whether the guesses are right.

    A product `⟨x_n, p_j⟩` costs as many operations as samples have dimensions, and two to follow a pick with direction
    `q`: `⟨x_n, q⟩ ⟨q, d_j⟩` is taken off. Block by block, products are therefore computed once and taken through all
    the guessed picks.

    Returns:
        One a guessed pick; none where no score is above `nothing`.
    """
    start, guessed = len(atoms.picked), copy.copy(atoms)
    along, could_be_best = _guess(samples, guessed, bounds, n_picks, nothing)
    guesses, directions = guessed.picked[start:], guessed.directions[start:]
    chosen = could_be_best.nonzero()[:, 0]
    blocks = [_through_all(samples, atoms, block, directions, along) for block in chosen.split(BLOCK) if guesses]
    if not blocks:
        return []
    scores, slack = (torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True))
    return [Stage(*stage) for stage in zip(guesses, [chosen] * len(guesses), scores, slack, strict=True)]


def _guess(
    samples: Samples, atoms: Atoms, bounds: Bounds, n_picks: int, nothing: float
) -> tuple[list[Float[Tensor, "sample"]], Bool[Tensor, "atom"]]:
    """Pick among few atoms; samples along each pick, and the atoms that by their bounds may beat one of the picks."""
    bounds = bounds.copy()
    n_held = min(max(FEWEST, min(MOST, samples.rows.shape[1])), len(atoms.given))
    held = (bounds.guesses() * atoms.factors).masked_fill_(bounds.struck, -1.0).topk(n_held).indices
    left = atoms.deflated(held)
    products = samples.rows @ atoms.seen(left).to(samples.rows).mT
    lengths = torch.linalg.vector_norm(left, dim=1)
    along, could_be_best = [], torch.zeros_like(bounds.struck)
    for _ in range(n_picks):
        scores = samples.summed(products)
        slack = samples.slack(scores, lengths, len(along))
        bounds.tighten(held, scores, slack)
        lower = (scores - slack) * atoms.factors[held]
        best = int(lower.masked_fill_(bounds.struck[held], -1.0).argmax())
        if lower[best] <= nothing:
            break
        could_be_best |= (bounds.values * atoms.factors >= lower[best]) & ~bounds.struck
        atoms.pick(int(held[best]))
        bounds.take_off(int(held[best]), atoms)
        along.append(samples.rows @ atoms.seen(atoms.directions[-1:])[0].to(samples.rows))
        shares = left @ atoms.directions[-1]
        products.addr_(along[-1], shares.to(products), alpha=-1)
        lengths += shares.abs()
    return along, could_be_best


def _through_all(
    samples: Samples,
    atoms: Atoms,
    block: Int[Tensor, "chosen"],
    directions: Float[Tensor, "pick d_out"],
    along: list[Float[Tensor, "sample"]],
) -> tuple[Float[Tensor, "pick chosen"], Float[Tensor, "pick chosen"]]:
    """Scores of a block of atoms before each of the guessed picks, and their slack."""
    left = atoms.deflated(block)
    columns = atoms.seen(left).to(samples.rows).mT.contiguous()
    shares = directions @ left.mT
    factors = shares.to(columns)
    scores = torch.zeros_like(shares)
    for first in range(0, len(samples), ROWS):
        rows = slice(first, first + ROWS)
        products = samples.rows[rows] @ columns
        for stage, coordinates in enumerate(along):
            scores[stage] += samples.summed(products)
            products.addr_(coordinates[rows], factors[stage], alpha=-1)
    lengths = torch.linalg.vector_norm(left, dim=1) + shares.abs().cumsum(dim=0) - shares.abs()
    slack = [samples.slack(scores[stage], lengths[stage], stage) for stage in range(len(along))]
    return scores, torch.stack(slack)
