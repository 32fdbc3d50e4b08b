"""Low-rank coordinates of heads' direct contributions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from beartype import beartype
from einops import einsum, rearrange
from jaxtyping import Float, jaxtyped
from torch import Tensor

from residual_lens.decomposition.readout import Center, with_bias
from residual_lens.errors import MismatchError
from residual_lens.spectral.moments import for_each_unit


def feature_rows(
    w_o: Float[Tensor, "head d_head d_model"],
    b_o: Float[Tensor, "d_model"],
    maps: Float[Tensor, "route d_model d_out"],
    constant_rows: Float[Tensor, "constant d_out"],
    center: Center,
    n_layers: int,
) -> Float[Tensor, "head feature d_out"]:
    """The matrix `A` of every head of a layer: its direct contribution is `features @ A`.

    Args:
        w_o: `W_O`, LayerScale folded in.
        b_o: `b_O`, likewise.
        maps: the readout's.
        constant_rows: the readout's; heads have a share of them for "uniform".
        center: centring.
        n_layers: layers of the model, by which that share goes.

    Returns:
        In float64.
    """
    written = with_bias(w_o.detach().double(), b_o.detach().double())
    by_route = einsum(written, maps.detach().double(), "head d d_model, route d_model d_out -> head route d d_out")
    rows = rearrange(by_route, "head route d d_out -> head (route d) d_out")
    if center == "own":
        return rows
    share = constant_rows.detach().double() / ((2 * n_layers + 1) * len(rows))
    return torch.cat([rows, share.expand(len(rows), -1, -1)], dim=1)


@dataclass(frozen=True, eq=False)
class HeadFrames:
    """Isometric low-rank coordinates of heads' direct contributions.

    A head's contribution is `u = f A` with features `f = [z/σ, 1/σ]`. With `Aᵀ = Q R` the coordinates `f Rᵀ` have the
    norms, distances and inner products of `u`, and `u = coordinates Qᵀ`. So PCA, neighbours and pursuit on coordinates
    are those on contributions, exactly, for a fraction of the cost.

    The rank is at most `d_head + 1` for centring "own" and two more for "uniform" (whose features have `m/σ` and 1 as
    well); attention pooling has `d_head + 1` features for each of its heads. It is never more than `d_out`.
    """

    units: tuple[str, ...]
    """Heads along the `unit` axis."""
    frames: Float[Tensor, "unit rank d_out"]
    """`Qᵀ`: orthonormal rows, float64."""
    mixing: Float[Tensor, "unit feature rank"]
    """`Rᵀ`: features to coordinates, float64."""

    @classmethod
    def of_weights(
        cls,
        output_weights: Sequence[Float[Tensor, "head d_head d_model"]],
        output_biases: Sequence[Float[Tensor, "d_model"]],
        maps: Float[Tensor, "route d_model d_out"],
        constant_rows: Float[Tensor, "constant d_out"],
        center: Center,
    ) -> "HeadFrames":
        """Frames from weights alone; the QR is done in float64, once for all heads."""
        n_layers, n_heads = len(output_weights), output_weights[0].shape[0]
        features = torch.cat(
            [
                feature_rows(w_o, b_o, maps, constant_rows, center, n_layers)
                for w_o, b_o in zip(output_weights, output_biases, strict=True)
            ]
        )
        factors = for_each_unit(len(features), lambda head: torch.linalg.qr(features[head].mT))
        names = tuple(f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads))
        return cls(names, torch.stack([f.Q.mT for f in factors]), torch.stack([f.R.mT for f in factors]))

    @jaxtyped(typechecker=beartype)
    def coordinates(self, features: Float[Tensor, "batch unit feature"]) -> Float[Tensor, "batch unit rank"]:
        """Features (`UnitTerms.head_features`) to coordinates, in the features' dtype.

        Raises:
            MismatchError: features of another centring or model.
        """
        if features.shape[1:] != self.mixing.shape[:2]:
            raise MismatchError(
                f"These frames take [unit feature] {list(self.mixing.shape[:2])}, got {list(features.shape[1:])}: "
                "features and frames must come from the same model with the same centring."
            )
        mixing = self.mixing.to(features)
        return einsum(features, mixing, "batch unit feature, unit feature rank -> batch unit rank")

    @jaxtyped(typechecker=beartype)
    def lift(self, coordinates: Float[Tensor, "*batch unit rank"]) -> Float[Tensor, "*batch unit d_out"]:
        """Coordinates back to contributions."""
        return torch.einsum("...ur,urd->...ud", coordinates, self.frames.to(coordinates))
