"""Spectral cosine of many pairs of bases beside a greedy loop in Python."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.spectral import spectral_cosine
from scripts.benchmark.rows import Cases, Sides
from scripts.benchmark.sizes import Sizes
from tests.reference.similarity import naive_spectral_cosine

COMPONENTS = 64


def case(features: int) -> Callable[[Sizes], Sides]:
    """The same head's bases on two data sets, in its own coordinates or in the space of the embedding."""

    def sides(sizes: Sizes) -> Sides:
        generator = torch.Generator().manual_seed(0)

        def bases() -> tuple[Float[Tensor, "unit component feature"], Float[Tensor, "unit component"]]:
            normal = torch.randn(sizes.pairs, features, COMPONENTS, generator=generator)
            weights = torch.rand(sizes.pairs, COMPONENTS, generator=generator)
            return torch.linalg.qr(normal).Q.mT, weights.sort(descending=True).values

        (x, wx), (y, wy) = bases(), bases()
        return Sides(
            f"in {features} dimensions, `spectral_cosine`",
            lambda: spectral_cosine(x, y, x_weights=wx, y_weights=wy),
            lambda: torch.tensor(list(map(naive_spectral_cosine, x, y, wx, wy))),
            "a greedy loop in Python",
            lambda ours, twin: float(((ours - twin).abs() / twin).max()),
        )

    return sides


def section(sizes: Sizes) -> str:
    """What the rows share."""
    return f"Spectral cosine of {sizes.pairs} pairs of bases, {COMPONENTS} components each"


CASES: Cases = {"cosine-head": case(65), "cosine-embedding": case(512)}
