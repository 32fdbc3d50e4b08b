"""Which components ResiDual keeps, and where their factors start."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.bases import Basis
from residual_lens.errors import InputError


def components_to_reach(basis: Basis, share: float, unit: str) -> int:
    """The first k whose cumulative share of the total variance reaches `share`; 0 for a unit that does not vary.

    Raises:
        InputError: the components that the basis holds do not reach it.
    """
    if basis.total_variance <= 0:
        return 0
    cumulative = basis.variances.double().cumsum(0) / basis.total_variance
    # Rounding must not keep a complete basis from reaching its own total.
    reached = (cumulative >= share - 1e-6).nonzero()
    if len(reached) == 0:
        held = float(basis.variances.double().sum()) / basis.total_variance
        raise InputError(
            f"The basis of {unit} holds {len(basis.variances)} components with {held:.1%} of the "
            f"variance, which does not reach {share:.1%}: fit bases with more components, or ask for less."
        )
    return int(reached[0]) + 1


def initial_scales(scales: str, bases: Sequence[Basis], counts: Sequence[int], seed: int) -> Float[Tensor, "total"]:
    """Where λ starts, one factor a component, unit after unit (see `ResiDual.from_bases`).

    Raises:
        InputError: no start is called that.
    """
    total = sum(counts)
    if scales == "ones":
        return torch.ones(total)
    if scales == "randn":
        return 1 + torch.randn(total, generator=torch.Generator().manual_seed(seed))
    if scales == "spectrum":
        deviations = [basis.variances[:count].cpu().sqrt() for basis, count in zip(bases, counts, strict=True)]
        return torch.cat([d / d[0] if len(d) and d[0] > 0 else torch.ones_like(d) for d in deviations])
    raise InputError(f"scales must be 'randn', 'ones' or 'spectrum', got {scales!r}.")
