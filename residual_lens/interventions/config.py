"""What a ResiDual is besides its tensors."""

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from residual_lens.errors import InputError
from residual_lens.units import Unit

Variant = Literal["residual*", "residual"]


@dataclass(frozen=True)
class ResiDualConfig:
    """Everything about a `ResiDual` besides its tensors."""

    variant: Variant
    """`"residual*"` or `"residual"`."""
    keep_mean: bool
    """Whether the mean is added back."""
    units: tuple[str, ...]
    """Units whose components are rescaled, in the order of the model."""
    counts: tuple[int, ...]
    """Components of each."""
    d_out: int
    """Width of the embedding."""
    center: str
    """Centring of the contributions that the bases were fitted on."""
    scale: float
    """Typical σ of the final norm (see `Bases.scale`)."""
    model_name: str
    """Model that the bases were fitted on."""
    fingerprint: str
    """Digest of its weights."""

    def __post_init__(self) -> None:
        if len(self.units) != len(self.counts):
            raise InputError(f"{len(self.units)} units have {len(self.counts)} counts of components.")
        points = [point for point, _ in groupby(self.units, key=lambda name: Unit.named(name).direct_hook_name)]
        if len(set(points)) != len(points):
            raise InputError("Units that share a hook point must stand together: give bases in the order of the model.")
