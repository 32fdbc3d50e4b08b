"""Simple measures of how alike two units are, to compare the spectral cosine with."""

from collections.abc import Iterator

import torch
from beartype import beartype
from jaxtyping import Float, Int, jaxtyped
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.spectral.moments import CONSTANT_SPREAD

# Float64 numbers of one block of samples: 64 MB.
BLOCK_ENTRIES = 2**23
# How far `X Xᵀ` of components stored in half precision may be from the identity.
ORTHONORMAL_TOL = 1e-2


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def mean_cosine(
    x: Float[Tensor, "sample_x unit_x feature"], y: Float[Tensor, "sample_y unit_y _"]
) -> Float[Tensor, "unit_x unit_y"]:
    """Cosine of mean vectors, `⟨μ_x, μ_y⟩ / (‖μ_x‖ ‖μ_y‖)`, of every unit of one set with every unit of another.

    Samples need not be the same. A unit with mean 0 has 0; a mean that is 0 but for rounding has no meaning.

    Args:
        x: contributions, not centred.
        y: the same, of the same space.

    Returns:
        Values in [-1, 1], in the wider dtype of the two.

    Raises:
        InputError: no samples, or values that are not finite.
        MismatchError: other features in `y` than in `x`.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])
        >>> mean_cosine(x, torch.tensor([[[1.0, 1.0]]]))
        tensor([[0.7071]])
    """
    _check(x, y, at_least=1, same_samples=False)
    _check_features(x, y)
    x_mean, y_mean = (_directions(side.mean(dim=0, dtype=torch.float64)) for side in (x, y))
    return (x_mean @ y_mean.mT).to(torch.promote_types(x.dtype, y.dtype))


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def correlation(
    x: Float[Tensor, "sample unit_x feature"], y: Float[Tensor, "_ unit_y _"]
) -> Float[Tensor, "unit_x unit_y"]:
    """Pearson correlation of all entries of two units' centred contributions to the same samples, all with all.

    `Σ_n ⟨x_n − μ_x, y_n − μ_y⟩ / √(Σ_n ‖x_n − μ_x‖² · Σ_n ‖y_n − μ_y‖²)`. A unit that does not vary has 0.

    Args:
        x: contributions, need not be centred.
        y: those of other units to the same samples, in the same space.

    Returns:
        Values in [-1, 1], in the wider dtype of the two.

    Raises:
        InputError: fewer than two samples, or values that are not finite.
        MismatchError: other samples or features in `y` than in `x`.

    Example:
        >>> x = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
        >>> correlation(x, 5 - 2 * x[:, :1])[0]
        tensor([-1.])
    """
    _check(x, y, at_least=2, same_samples=True)
    _check_features(x, y)
    x_mean, y_mean = x.mean(dim=0, dtype=torch.float64), y.mean(dim=0, dtype=torch.float64)
    products = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    x_squares, y_squares = products.new_zeros(x.shape[1]), products.new_zeros(y.shape[1])
    for x_rows, y_rows in _sample_blocks(x, y, x.shape[-1]):
        x_flat = (x_rows - x_mean).transpose(0, 1).flatten(1)
        y_flat = (y_rows - y_mean).transpose(0, 1).flatten(1)
        products += x_flat @ y_flat.mT
        x_squares += x_flat.square().sum(dim=1)
        y_squares += y_flat.square().sum(dim=1)
    varies = (x_squares > _rounding(x_mean, len(x)))[:, None] & (y_squares > _rounding(y_mean, len(y)))
    norms = x_squares.sqrt()[:, None] * y_squares.sqrt()
    return torch.where(varies, products / norms.where(varies, 1.0), 0.0).to(torch.promote_types(x.dtype, y.dtype))


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def relative_cosine(
    x: Float[Tensor, "sample unit_x feature_x"],
    y: Float[Tensor, "_ unit_y feature_y"],
    anchors: Int[Tensor, "anchor"],
) -> Float[Tensor, "unit_x unit_y"]:
    """Mean cosine of relative representations of the same samples (Moschella et al. 2023), all with all.

    A sample's relative representation in a unit is `r(n) = (cos(x_n, x_a))_a` over the anchor samples `a` (arXiv
    2209.15430); the result is the mean over samples of `cos(r_x(n), r_y(n))`. Spaces need not be the same. A
    zero vector has cosine 0 with everything.

    Args:
        x: contributions; they are taken as they come, so centre them where the mean is no part of the question.
        y: those of other units to the same samples.
        anchors: indices of the samples to measure against.

    Returns:
        Values in [-1, 1], in the wider dtype of the two.

    Raises:
        InputError: no samples, no anchors, anchors that are no samples, or values that are not finite.
        MismatchError: other samples in `y` than in `x`.

    Example:
        >>> x = torch.randn(20, 1, 4, generator=torch.Generator().manual_seed(0))
        >>> rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
        >>> relative_cosine(x, 3 * x @ rotation, torch.arange(5))
        tensor([[1.]])
    """
    _check(x, y, at_least=1, same_samples=True)
    if len(anchors) == 0 or int(anchors.min()) < 0 or int(anchors.max()) >= len(x):
        raise InputError(f"anchors must be indices of the {len(x)} samples, at least one, got {anchors.tolist()}.")
    x_anchors, y_anchors = _directions(x[anchors]), _directions(y[anchors])
    total = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for x_rows, y_rows in _sample_blocks(x, y, max(x.shape[-1], y.shape[-1], len(anchors))):
        x_relative = _directions(torch.einsum("sud,aud->usa", _directions(x_rows), x_anchors))
        y_relative = _directions(torch.einsum("sud,aud->usa", _directions(y_rows), y_anchors))
        total += x_relative.flatten(1) @ y_relative.flatten(1).mT
    return (total / len(x)).to(torch.promote_types(x.dtype, y.dtype))


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def principal_angles(
    x: Float[Tensor, "*pair component_x feature"], y: Float[Tensor, "... component_y _"]
) -> Float[Tensor, "*pair angle"]:
    """Angles between the subspaces that bases span, pair by pair (Björck & Golub 1973).

    `cos θ_i = σ_i(X Yᵀ)`; angles below π/4 come from `sin θ_i`, the singular values of `Y − Y Xᵀ X`, since a cosine
    near 1 has lost them. `principal_angles(x, y).cos().mean(-1)` is the overlap of the subspaces as one number.

    Args:
        x: orthonormal rows.
        y: orthonormal rows, in the same space.

    Returns:
        Radians in [0, π/2], smallest first, `min(component_x, component_y)` of them, in the wider dtype of the two.

    Raises:
        InputError: rows that are not orthonormal: drop the components of a unit that does not vary.
        MismatchError: other pairs or features in `y` than in `x`.

    Example:
        >>> principal_angles(torch.eye(3)[:2], torch.eye(3)[1:])
        tensor([0.0000, 1.5708])
    """
    if x.shape[:-2] != y.shape[:-2]:
        raise MismatchError(f"x has pairs {list(x.shape[:-2])} and y {list(y.shape[:-2])}: pass one y for each x.")
    _check_features(x, y)
    for name, basis in (("x", x.double()), ("y", y.double())):
        gap = (basis @ basis.mT - torch.eye(basis.shape[-2], dtype=basis.dtype, device=basis.device)).abs()
        if not (gap <= ORTHONORMAL_TOL).all():
            raise InputError(
                f"Rows of {name} must be orthonormal, `{name} @ {name}.mT` is off by {float(gap.max()):.3g}."
            )
    dtype = torch.promote_types(x.dtype, y.dtype)
    large, small = (x.double(), y.double()) if x.shape[-2] >= y.shape[-2] else (y.double(), x.double())
    overlap = small @ large.mT
    cosines = torch.linalg.svdvals(overlap).clamp(max=1.0)
    sines = torch.linalg.svdvals(small - overlap @ large).flip(-1).clamp(max=1.0)
    return torch.where(cosines.square() < 0.5, cosines.acos(), sines.asin()).to(dtype)


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def linear_cka(
    x: Float[Tensor, "sample unit_x feature_x"], y: Float[Tensor, "_ unit_y feature_y"]
) -> Float[Tensor, "unit_x unit_y"]:
    """Linear centred kernel alignment on the same samples (Kornblith et al. 2019, arXiv 1905.00414), all with all.

    `‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F)` of centred contributions, which equals `⟨XXᵀ, YYᵀ⟩ / (‖XXᵀ‖_F ‖YYᵀ‖_F)`: whichever
    product is smaller is taken, in float64. It does not change under rotations: pass low-rank coordinates where there
    are some. Few samples against features make everything alike (two samples always give 1). A unit that does not vary
    has 0.

    Args:
        x: contributions, need not be centred.
        y: those of other units to the same samples; features may differ.

    Returns:
        Values in [0, 1], in the wider dtype of the two.

    Raises:
        InputError: fewer than two samples, or values that are not finite.
        MismatchError: other samples in `y` than in `x`.

    Example:
        >>> x = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
        >>> linear_cka(x, 2 * x.flip(-1)).diagonal()
        tensor([1., 1.])
    """
    _check(x, y, at_least=2, same_samples=True)
    result = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    y_norms = [_alignment(unit, unit).sqrt() for unit in map(_centred, y.unbind(1))]
    for row, x_unit in enumerate(map(_centred, x.unbind(1))):
        x_norm = _alignment(x_unit, x_unit).sqrt()
        for column, y_unit in enumerate(map(_centred, y.unbind(1))):
            norms = x_norm * y_norms[column]
            result[row, column] = _alignment(x_unit, y_unit) / norms if norms > 0 else 0.0
    return result.to(torch.promote_types(x.dtype, y.dtype))


def _alignment(x: Float[Tensor, "sample feature_x"], y: Float[Tensor, "sample feature_y"]) -> Float[Tensor, ""]:
    """`‖XᵀY‖²_F`, through the smaller of the two products."""
    if len(x) ** 2 < x.shape[1] * y.shape[1]:
        return ((x @ x.mT) * (y @ y.mT)).sum()
    return (x.mT @ y).square().sum()


def _centred(unit: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample feature"]:
    """Without its mean, in float64; zeros if what is left is rounding."""
    mean = unit.mean(dim=0, dtype=torch.float64)
    centred = unit - mean
    return centred * (centred.square().sum() > _rounding(mean, len(unit)))


def _rounding(mean: Float[Tensor, "*unit feature"], n_samples: int) -> Float[Tensor, "*unit"]:
    """Sum of squares that centring equal samples leaves behind."""
    return n_samples * (CONSTANT_SPREAD * mean).square().sum(dim=-1)


def _directions(x: Float[Tensor, "*sample feature"]) -> Float[Tensor, "*sample feature"]:
    """Unit vectors in float64; a zero vector stays one."""
    norms = torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True)
    return x / norms.where(norms > 0, 1.0)


def _sample_blocks(x: Tensor, y: Tensor, features: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same rows of both, few enough that `features` float64 numbers a unit and row stay within a block."""
    rows = max(1, BLOCK_ENTRIES // max(1, features * max(x.shape[1], y.shape[1])))
    return zip(x.split(rows), y.split(rows), strict=True)


def _check(x: Float[Tensor, "..."], y: Float[Tensor, "..."], *, at_least: int, same_samples: bool) -> None:
    for name, side in (("x", x), ("y", y)):
        if len(side) < at_least:
            raise InputError(f"{name} must have at least {at_least} samples, got {len(side)}.")
        if not side.isfinite().all():
            raise InputError(f"{name} has NaN or infinite values: find the samples they come from first.")
    if same_samples and len(x) != len(y):
        raise MismatchError(
            f"x has {len(x)} samples and y {len(y)}: pass contributions to the same samples, in one order."
        )


def _check_features(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> None:
    if x.shape[-1] != y.shape[-1]:
        raise MismatchError(f"x has {x.shape[-1]} features and y {y.shape[-1]}: both must be of the same space.")
