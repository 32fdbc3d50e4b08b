"""Non-negative least squares of many small problems at once."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# A gradient below this share of the target is rounding.
GRADIENT_TOL = 1e-13


def nonnegative_weights(
    triangle: Float[Tensor, "sample pick pick"], target: Float[Tensor, "sample pick"]
) -> Float[Tensor, "sample pick"]:
    """`argmin_{w ≥ 0} |w T − z|²` for each sample, float64, by active sets (Lawson & Hanson 1974, chapter 23).

    All samples go the same steps, those that are done stand still. The passive sets' least squares are solved by QR, so
    that nearly dependent atoms do not lose twice the digits.

    Args:
        triangle: `T`, rows of norm about 1.
        target: `z`.
    """
    weights = torch.zeros_like(target)
    passive = torch.zeros_like(target, dtype=torch.bool)
    # An entry that rounding lets in and least squares throws out again waits until something else has changed.
    waiting = passive.clone()
    tolerance = GRADIENT_TOL * torch.linalg.vector_norm(target, dim=1)
    while True:
        gradient = times(triangle, target - times(triangle.mT, weights))
        steepest, entry = gradient.masked_fill(passive | waiting, -torch.inf).max(dim=1)
        growing = (steepest > tolerance).nonzero()[:, 0]
        if not len(growing):
            return weights
        entry = entry[growing]
        passive[growing, entry] = True
        solution = _solved(triangle[growing], target[growing], passive[growing])
        refused = solution[torch.arange(len(growing)), entry] <= 0
        passive[growing[refused], entry[refused]] = False
        waiting[growing[refused], entry[refused]] = True
        growing = growing[~refused]
        waiting[growing] = False
        while len(growing):
            solution = _solved(triangle[growing], target[growing], passive[growing])
            below = passive[growing] & (solution <= 0)
            done = ~below.any(dim=1)
            weights[growing[done]] = solution[done]
            growing, solution, below = growing[~done], solution[~done], below[~done]
            # As far towards the solution as no weight becomes negative; whoever reaches zero leaves.
            held = weights[growing]
            steps = (held / (held - solution)).where(below, torch.inf)
            step, leaving = steps.min(dim=1, keepdim=True)
            moved = (held + step * (solution - held)).clamp_min_(0.0).scatter_(1, leaving, 0.0)
            weights[growing] = moved
            passive[growing] &= moved > 0


def times(
    matrices: Float[Tensor, "sample row column"], vectors: Float[Tensor, "sample column"]
) -> Float[Tensor, "sample row"]:
    """One product a sample."""
    return torch.bmm(matrices, vectors[:, :, None])[:, :, 0]


def _solved(
    triangle: Float[Tensor, "sample pick pick"],
    target: Float[Tensor, "sample pick"],
    passive: Bool[Tensor, "sample pick"],
) -> Float[Tensor, "sample pick"]:
    """Least squares on the passive entries, 0 elsewhere."""
    # One more equation `w = 0` for every other entry makes all systems one shape and of full rank.
    system = torch.cat([triangle.mT * passive[:, None], torch.diag_embed((~passive).to(target))], dim=1)
    right = torch.cat([target, torch.zeros_like(target)], dim=1)
    q, r = torch.linalg.qr(system)
    return torch.linalg.solve_triangular(r, times(q.mT, right)[:, :, None], upper=True)[:, :, 0] * passive
