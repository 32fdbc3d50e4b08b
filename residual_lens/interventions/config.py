"""What a ResiDual is besides its tensors: of which units and how many components, and for which model."""

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from residual_lens.bases import Bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.interventions.adapter import Origin
from residual_lens.interventions.components import components_to_reach
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

    @classmethod
    def of_bases(cls, bases: Bases, *, variant: str, explained_variance: float, keep_mean: bool) -> "ResiDualConfig":
        """Of what a variant rescales of the units that bases cover (see `ResiDual.from_bases`).

        Raises:
            InputError: no such variant or share, bases without such units, or that do not reach the share.
        """
        if variant != "residual*" and variant != "residual":
            raise InputError(f"variant must be 'residual*' or 'residual', got {variant!r}.")
        if not 0 < explained_variance <= 1:
            raise InputError(f"explained_variance is a share in (0, 1], got {explained_variance}.")
        kinds = ("head",) if variant == "residual*" else ("head", "mlp")
        units = [Unit.named(name) for name in bases if Unit.named(name).kind in kinds]
        if not units:
            raise InputError(
                f"The bases cover no {' or '.join(kinds)} (they cover {', '.join(bases)}): nothing to scale."
            )
        counts = []
        for unit in units:
            basis = bases[unit.name]
            available = len(basis.components)
            if variant == "residual*":
                counts.append(components_to_reach(basis, explained_variance, unit.name))
            else:
                counts.append(min(bases.d_head, available) if unit.kind == "head" else available)
        return cls(
            variant=variant,
            keep_mean=keep_mean,
            units=tuple(unit.name for unit in units),
            counts=tuple(counts),
            d_out=bases[units[0].name].components.shape[1],
            center=bases.center,
            scale=bases.scale,
            model_name=bases.model_name,
            fingerprint=bases.fingerprint,
        )

    def require(self, origin: Origin) -> None:
        """Refuse contributions of a model that the bases were not fitted on.

        Raises:
            MismatchError: other units, another width, centring or weights.
        """
        remedy = "Fit bases on this model with fit_bases and make a new ResiDual from them."
        made_for = f"This ResiDual was made for {self.model_name}"
        foreign = [name for name in self.units if name not in origin.units.names]
        if foreign:
            layers, heads = len(origin.units.select("mlps")), len(origin.units.select("heads"))
            raise MismatchError(
                f"{made_for} and rescales {foreign[0]}, which {origin.model_name} does not have "
                f"({layers} layers × {heads // layers} heads). {remedy}"
            )
        if self.d_out != origin.d_out:
            raise MismatchError(
                f"{made_for}, whose embedding has {self.d_out} dimensions; {origin.model_name}'s has "
                f"{origin.d_out}. {remedy}"
            )
        if self.center != origin.center:
            raise MismatchError(
                f"{made_for} with center={self.center!r}, the wrapper has center={origin.center!r}: wrap the model "
                f"with HookedViT.wrap(model, center={self.center!r}), or fit bases anew."
            )
        if origin.fingerprint not in (None, self.fingerprint):
            raise MismatchError(
                f"{made_for} with other weights (fingerprint {self.fingerprint[:12]}…, this {origin.model_name} "
                f"has {origin.fingerprint[:12]}…; a cast to another dtype counts, and so does bake). {remedy}"
            )
