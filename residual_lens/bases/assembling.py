"""The last steps that every source of moments shares: from what was seen of units to their bases."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from residual_lens.bases.basis import Bases, Basis
from residual_lens.decomposition import Center, HeadFrames
from residual_lens.errors import InputError
from residual_lens.spectral import StreamingPCA
from residual_lens.units import Unit, Units


def analysed_units(units: Units, which: str | Iterable[str]) -> tuple[Unit, ...]:
    """The units that bases are fitted for.

    Raises:
        InputError: none, unknown ones, or `bias` by name.
    """
    selectors = [which] if isinstance(which, str) else list(which)
    chosen = tuple(unit for unit in units.select(selectors) if unit.kind != "bias" or "bias" in selectors)
    if not chosen:
        raise InputError("No units were named: give 'heads', 'mlps', a layer like 'L3' or units' names.")
    if any(unit.kind == "bias" for unit in chosen):
        raise InputError("The unit 'bias' is what no unit writes, and is not analysed: leave it out.")
    return chosen


def bases_of_moments(
    units: Sequence[Unit],
    *,
    heads: StreamingPCA,
    frames: HeadFrames,
    others: StreamingPCA,
    d_head: int,
    center: Center,
    scale: float,
    model_name: str,
    fingerprint: str,
    provenance: Mapping[str, Any] | None = None,
) -> Bases:
    """Bases from what was seen of the units, wherever it came from.

    Args:
        units: what bases are wanted for, in the order of the model.
        heads: of raw features (`UnitTerms.head_features`) of the heads among `units`, in their order.
        frames: of the model; rotates features into coordinates that are isometric to contributions.
        others: of contributions `[sample unit d_out]` of the other units, in their order.
        d_head: see `Bases`, as all that follow.
        center: centring.
        scale: harmonic mean of σ.
        model_name: model.
        fingerprint: digest of its weights.
        provenance: what is known of the data.

    Returns:
        In float32 on the device of the moments.
    """
    names = [unit.name for unit in units if unit.kind == "head"]
    places = [frames.units.index(name) for name in names]
    by_unit = {}
    if names:
        heads = heads.mapped(frames.mixing[places])
        by_unit |= {name: _basis(heads, i, frames.frames[places[i]]) for i, name in enumerate(names)}
    rest = [unit.name for unit in units if unit.kind != "head"]
    by_unit |= {name: _basis(others, i, None) for i, name in enumerate(rest)}
    return Bases(
        {unit.name: by_unit[unit.name] for unit in units},
        d_head,
        center,
        scale,
        (heads if names else others).n_samples_seen_,
        model_name,
        fingerprint,
        dict(provenance or {}),
    )


def _basis(pca: StreamingPCA, index: int, frame: Float[Tensor, "rank d_out"] | None) -> Basis:
    mean, components = pca.mean_[index], pca.components_[index]
    if frame is not None:
        frame = frame.to(mean)
        mean, components = mean @ frame, components @ frame
    return Basis(
        mean=mean.float(),
        components=components.float(),
        variances=pca.explained_variance_[index].float(),
        total_variance=float(pca.total_variance_[index]),
    )
