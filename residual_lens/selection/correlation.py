"""Correlation of units with the whole output, from moments: no `[sample unit d_out]` is ever made."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.selection.axes import ROUNDINGS, Axes
from residual_lens.selection.features import UnitFeatures
from residual_lens.spectral.moments import for_each_unit, moments_of_pieces

EPS = torch.finfo(torch.float64).eps
BLOCK_ROWS = 1024
Block = TypeVar("Block")


@torch.no_grad()
def unit_output_correlation(
    values: Float[Tensor, "sample unit d_out"],
    output: Float[Tensor, "_ _"],
    basis: Float[Tensor, "component _"] | None = None,
) -> Float[Tensor, "unit"]:
    """Mean Pearson correlation between every unit's and the whole output's coordinates.

    `mean_b corr(⟨u, b⟩, ⟨o, b⟩)` over an orthonormal basis `b` (Basile et al. 2024, arXiv 2411.00246, coarse
    selection). A coordinate along which the unit or the output does not vary counts 0.

    Args:
        values: units' contributions, in any scale.
        output: `[sample d_out]`, what they are compared with, such as their sum.
        basis: `[component d_out]`, orthonormal rows; by default the principal axes of the output along which it varies.

    Returns:
        Float64, in [−1, 1], on the CPU.

    Raises:
        InputError: fewer than two samples, no units, values that are not finite, or a basis that is not orthonormal.
        MismatchError: other samples or dimensions.

    Example:
        >>> values = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
        >>> values[:, 0] *= 9
        >>> [round(score, 2) for score in unit_output_correlation(values, values.sum(dim=1)).tolist()]
        [0.99, 0.17]
    """
    if values.shape[::2] != output.shape:
        raise MismatchError(f"values {list(values.shape)} and output {list(output.shape)} differ in samples or d_out.")
    if len(output) < 2 or not values.numel():
        raise InputError(f"A correlation needs at least two samples of something, got values {list(values.shape)}.")
    if not (values.isfinite().all() and output.isfinite().all()):
        raise InputError("Some values are NaN or infinite: find the samples they come from first.")
    rows = [slice(start, start + BLOCK_ROWS) for start in range(0, len(output), BLOCK_ROWS)]
    moments = moments_of_pieces(1, rows, lambda _, at: output[at].double().cpu())
    if basis is None:
        axes = Axes.principal(moments, output.dtype)
    else:
        axes = Axes.given(moments, output.dtype, _checked_basis(basis, output.shape[1]))
    readers = [lambda at, unit=unit: values[at, unit].double().cpu() for unit in range(values.shape[1])]
    return mean_correlations(rows, axes, lambda at: output[at].double().cpu(), list(map(UnitFeatures, readers)))


def mean_correlations(
    blocks: Sequence[Block],
    axes: Axes,
    read_output: Callable[[Block], Float[Tensor, "sample d_out"]],
    units: Sequence[UnitFeatures],
) -> Float[Tensor, "unit"]:
    """Mean over the axes of the correlation of every unit with the output, in one pass over blocks of rows.

    Args:
        blocks: what the readers take.
        axes: of the output, over the same rows.
        read_output: rows of it, float64.
        units: readers of units, over the same rows.
    """
    sums = [_Coordinates(unit, axes) if unit.mixing is None else _Features(unit, axes) for unit in units]
    of_output = torch.zeros(len(axes.directions), dtype=torch.float64)
    for block in blocks:
        # The output's coordinates lie along rows, which makes every unit's product with them twice as fast.
        y = axes.directions @ (read_output(block) - axes.mean).mT
        of_output += y.square().sum(dim=1)
        for_each_unit(len(sums), lambda unit, block=block, y=y: sums[unit].read(block, y))
    totals = for_each_unit(len(sums), lambda unit: sums[unit].total_correlation(of_output))
    return torch.stack(totals) / max(axes.count, 1)


class _Sums(ABC):
    """What is summed over the samples of one unit, whose features are shifted by its first sample's.

    A feature that does not vary is then exactly zero. The shift costs no digits worth speaking of: a sample lies within
    `√n` standard deviations of the mean. The output is centred, so that products with it need no correction.
    """

    def __init__(self, unit: UnitFeatures, axes: Axes) -> None:
        self.unit, self.axes = unit, axes
        self.count = 0
        self.first: Tensor | None = None

    def read(self, block: Any, y: Float[Tensor, "axis sample"]) -> None:
        """Add a block of rows, given the output's coordinates there."""
        x = self.unit.read(block)
        if self.first is None:
            self.first = x[0].clone()
        self.count += len(x)
        self.add(x - self.first, y)

    @abstractmethod
    def add(self, x: Float[Tensor, "sample feature"], y: Float[Tensor, "axis sample"]) -> None:
        """Add samples, shifted."""

    @abstractmethod
    def total_correlation(self, of_output: Float[Tensor, "axis"]) -> Float[Tensor, ""]:
        """Sum over the axes, given the output's sum of squares along each."""


class _Features(_Sums):
    """Of a unit `u = f A`: its moments with the output follow from those of its features, `⟨u, b⟩ = f (A b)`."""

    def __init__(self, unit: UnitFeatures, axes: Axes) -> None:
        super().__init__(unit, axes)
        features = unit.onto(axes.directions[:0]).shape[0]
        self.sum, self.scatter = torch.zeros(features).double(), torch.zeros(features, features).double()
        self.cross = torch.zeros(len(axes.directions), features).double()

    def add(self, x: Float[Tensor, "sample feature"], y: Float[Tensor, "axis sample"]) -> None:
        self.sum += x.sum(dim=0)
        self.scatter.addmm_(x.mT, x)
        self.cross.addmm_(y, x)

    def total_correlation(self, of_output: Float[Tensor, "axis"]) -> Float[Tensor, ""]:
        scatter = self.scatter - torch.outer(self.sum, self.sum / self.count)
        mapped = self.unit.onto(self.axes.directions)
        squares = ((scatter @ mapped) * mapped).sum(dim=0)
        products = (mapped * self.cross.mT).sum(dim=0)
        # That of a quadratic form, relative to its terms.
        return _total(products, squares, of_output, rounding=len(scatter) * EPS * self.unit.size(scatter))


class _Coordinates(_Sums):
    """Of a unit whose features are its contribution: its coordinates on the axes are summed themselves."""

    def __init__(self, unit: UnitFeatures, axes: Axes) -> None:
        super().__init__(unit, axes)
        self.sum, self.squares, self.products = torch.zeros(3, len(axes.directions)).double()
        self.size = torch.zeros(()).double()

    def add(self, x: Float[Tensor, "sample d_out"], y: Float[Tensor, "axis sample"]) -> None:
        self.size += x.square().sum()
        x = self.axes.directions @ x.mT
        self.sum += x.sum(dim=1)
        self.squares += x.square().sum(dim=1)
        self.products += x.mul_(y).sum(dim=1)

    def total_correlation(self, of_output: Float[Tensor, "axis"]) -> Float[Tensor, ""]:
        squares = self.squares - self.sum.square() / self.count
        # That of products with a direction at a right angle to the unit.
        rounding = (self.axes.directions.shape[1] * EPS) ** 2 * self.size
        return _total(self.products, squares, of_output, rounding=rounding)


def _total(
    products: Float[Tensor, "axis"],
    squares: Float[Tensor, "axis"],
    of_output: Float[Tensor, "axis"],
    *,
    rounding: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Sum of correlations over the axes along which the unit's spread is more than rounding."""
    varies = squares > rounding
    return (products[varies] / (squares[varies] * of_output[varies]).sqrt()).clamp(-1, 1).sum()


def _checked_basis(basis: Float[Tensor, "component _"], d_out: int) -> Float[Tensor, "component d_out"]:
    if basis.shape[1] != d_out:
        raise MismatchError(f"The basis has {basis.shape[1]} dimensions, the output {d_out}.")
    rows = basis.double().cpu()
    gap = (rows @ rows.mT - torch.eye(len(rows)).double()).abs().max() if len(rows) else torch.inf
    # A NaN is no small gap.
    if not gap <= ROUNDINGS * len(basis.mT) * torch.finfo(basis.dtype).eps:
        raise InputError(
            f"The rows of a basis must be orthonormal, these {len(rows)} are not: take torch.linalg.qr(vectors.T).Q.T."
        )
    return rows
