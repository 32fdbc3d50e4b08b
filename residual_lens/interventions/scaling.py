"""Scaling: units that give more, less, or the opposite."""

from collections.abc import Mapping

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions.edit import AffineEdit, Edit, checked_number, checked_path, edited_units
from residual_lens.units import Unit


def scale(
    hvit: HookedViT, factors: Mapping[str | Unit, float | int] | Mapping[str, float | int], *, path: str = "direct"
) -> Edit:
    """Multiply what units contribute, while a `with` block runs.

    Args:
        hvit: the model.
        factors: selectors (`Units.select`) with the factor of each of their units: 1 leaves a unit as it is, 0 is zero
            ablation, −1 turns it round.
        path: `"direct"`: the contribution to the embedding is multiplied. `"stream"`: what the unit adds to the stream,
            at every token, a head's even share of the output bias included.

    Raises:
        InputError: no or unknown units, a unit that two selectors name, a factor that is no finite number, no such
            path, or `bias` in the stream.

    Example:
        >>> import torch
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(8, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> before = hvit.decompose(images)
        >>> with scale(hvit, {"L3H5": 3.0, "mlps": 1.0}):
        ...     scaled = hvit(images)
        >>> torch.allclose(scaled, before.total() + 2 * before["L3H5"], atol=1e-4)
        True
    """
    checked = checked_path(path)
    if not isinstance(factors, Mapping) or not factors:
        raise InputError(f"factors must map selectors to numbers, such as {{'L3H5': 2.0}}, got {factors!r}.")
    by_unit: dict[Unit, float] = {}
    for selector, factor in factors.items():
        number = checked_number(factor, f"The factor of {selector!r}")
        for unit in edited_units(hvit, selector, checked):
            if unit in by_unit:
                raise InputError(f"{unit.name} is named twice, by {selector!r} too: give it one factor.")
            by_unit[unit] = number
    return AffineEdit(hvit, checked, "scaling", factors=by_unit)
