"""Steering: a unit that contributes something more, in a direction of the embedding."""

from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions.adapter import embedding_maps
from residual_lens.interventions.directions import Direction, unit_vector
from residual_lens.interventions.edit import AffineEdit, Edit, checked_number, checked_path, edited_units
from residual_lens.interventions.reference import Reference, typical_scale
from residual_lens.units import Unit


def steer(
    hvit: HookedViT,
    unit: str | Unit,
    direction: Direction,
    strength: float | int,
    *,
    path: str = "direct",
    reference: Reference | None = None,
    scale: float | int | None = None,
) -> Edit:
    """Push what a unit contributes in a direction of the embedding, while a `with` block runs.

    On the direct path `strength · d` is added to the unit's contribution, `d` being the direction at unit norm. On the
    stream path a term is added to what the unit adds to the stream, at every token, and later layers respond to it: the
    smallest one whose direct effect is the same vector, `t = σ̄ · strength · d G⁺`. There `G` (`hvit.direct_map`) takes
    a stream term `c` to its direct contribution `c G / σ`; the σ of a sample is known behind the last layer only, so
    that its typical value σ̄ stands in. What no stream term can contribute is left out of `d` (of logits or embeddings
    wider than the stream, for example). With attention pooling `G` is the sum of the pooling heads' maps, and the
    direct effect is `d` in tendency only.

    Args:
        hvit: the model.
        unit: the unit, or its name.
        direction: a vector `[d_out]` of any length, a text, a `Component` or a `Difference`.
        strength: in the scale of the embedding; negative to push away.
        path: `"direct"` or `"stream"`.
        reference: on the stream path, images (one normalised tensor or batches) or a store of the model, for σ̄, the
            harmonic mean of σ.
        scale: σ̄ itself instead, such as `Bases.scale`. Neither is needed for `pool_mlp_out`, behind which stands
            no norm.

    Raises:
        InputError: no such unit, direction or path, a strength or scale that is no finite number, on the stream path
            `bias`, neither or both of `reference` and `scale`, or a direction that no stream term contributes to.
        MismatchError: bases or a store of other weights, or hooks in force that reference images would run into.
        UnsupportedModelError: a text for a model without text tower.

    Example:
        >>> import torch
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(8, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> red, before = hvit.encode_text(["a red star"])[0], hvit(images)
        >>> with steer(hvit, "L4H4", "a red star", 5.0):
        ...     steered = hvit(images)
        >>> torch.allclose(steered, before + 5 * red, atol=1e-4)
        True
        >>> with steer(hvit, "L4H4", "a red star", 5.0, path="stream", reference=images):
        ...     steered = hvit(images)
    """
    checked, size = checked_path(path), checked_number(strength, "strength")
    (chosen,) = edited_units(hvit, [unit if isinstance(unit, Unit) else hvit.units[unit]], checked)
    vector = unit_vector(hvit, direction)
    if checked == "stream":
        vector = _stream_term(hvit, chosen, vector) * _scale(hvit, chosen, reference, scale)
    what = direction if isinstance(direction, str) else type(direction).__name__
    doing = f"steering by {size:g} towards {what!r}"
    return AffineEdit(hvit, checked, doing, factors={chosen: 1.0}, offsets={chosen: size * vector})


def _stream_term(hvit: HookedViT, unit: Unit, vector: Float[Tensor, "d_out"]) -> Float[Tensor, "d"]:
    """The smallest term that contributes a unit vector where the final norm's σ is 1, in float64."""
    to_embedding, from_embedding = embedding_maps(hvit, is_pool=unit.kind == "pool")
    term = vector.to(to_embedding) @ from_embedding
    if not bool((term @ to_embedding).norm() > 1e-6):
        raise InputError(f"No term of {unit.name} in the stream contributes to this direction: use path='direct'.")
    return term


def _scale(hvit: HookedViT, unit: Unit, reference: Reference | None, scale: float | int | None) -> float:
    """The typical σ that stands between a unit's term and the embedding."""
    if unit.kind == "pool":
        return 1.0
    if scale is not None and reference is None:
        if not checked_number(scale, "scale") > 0:
            raise InputError(f"scale is a typical σ of the final norm, above 0, got {scale!r}.")
        return float(scale)
    if reference is not None and scale is None:
        return typical_scale(hvit, reference)
    raise InputError(
        f"On the stream path the size of {unit.name}'s term depends on the final norm's σ: give either reference= "
        "(images or a store, to take its mean) or scale= (such as Bases.scale)."
    )
