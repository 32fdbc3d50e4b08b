"""Directions of the embedding that a unit can be steered in: vectors, texts, components, class differences."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from residual_lens.bases import Bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.text import zero_shot_classifier
from residual_lens.text.encoding import refuse_unknown_words


@dataclass(frozen=True, eq=False)
class Component:
    """A principal component of a unit's direct contributions.

    Its sign is a convention, since a component has none of its own: the coordinate of the embedding that is largest in
    size is positive, as scikit-learn has it.

    Example:
        >>> import torch
        >>> from residual_lens import HookedViT, fit_bases
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(64, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> bases = fit_bases(hvit, hvit.normalize(images), units="L3")
        >>> Component(bases, "L3H5", 0).vector(hvit).shape
        torch.Size([96])
    """

    bases: Bases
    """From `fit_bases`."""
    unit: str
    """Whose component."""
    index: int = 0
    """Which one, largest variance first."""

    def vector(self, hvit: HookedViT) -> Float[Tensor, "d_out"]:
        """The component, of unit norm.

        Raises:
            InputError: the bases have no such unit or component, or the unit does not vary along it.
            MismatchError: bases of other weights.
        """
        basis = self.bases[self.unit]
        count = int((basis.variances > 0).sum())
        if not 0 <= self.index < count:
            raise InputError(f"{self.unit} varies along components 0 to {count - 1} of these bases, got {self.index}.")
        if self.bases.fingerprint != hvit.fingerprint():
            raise MismatchError(
                f"The bases were fitted on {self.bases.model_name} with other weights than this {hvit.cfg.model_name} "
                "has: fit bases on this model with fit_bases."
            )
        component = basis.components[self.index]
        return component * component[component.abs().argmax()].sign()


@dataclass(frozen=True)
class Difference:
    """From one class to another: the difference of their class embeddings.

    A class embedding is the normalised mean of the unit-norm embeddings of its prompts (see `zero_shot_classifier`).

    Example:
        >>> from residual_lens import HookedViT
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> Difference("red", "blue", templates=["a {} star"]).vector(hvit).shape
        torch.Size([96])
    """

    towards: str
    """Class name that the direction points to."""
    away: str
    """Class name that it points away from."""
    templates: Sequence[str] = ("a photo of a {}.",)
    """Prompts, each with one `{}` for the name."""

    def vector(self, hvit: HookedViT) -> Float[Tensor, "d_out"]:
        """The difference, not normalised.

        Raises:
            InputError: equal names, words that the model's tokenizer does not know, or templates without `{}`.
            UnsupportedModelError: the model has no text tower.
        """
        refuse_unknown_words(hvit, {name: [name] for name in (self.towards, self.away)})
        towards, away = zero_shot_classifier(
            hvit.encode_text, [self.towards, self.away], templates=self.templates
        ).weights
        return towards - away


Direction = Float[Tensor, "d_out"] | str | Component | Difference
"""A vector, a text, a principal component, or the difference of two classes."""


def unit_vector(hvit: HookedViT, direction: Direction) -> Float[Tensor, "d_out"]:
    """A direction of the embedding, of unit norm, in the dtype of contributions.

    Raises:
        InputError: it has another shape, is zero or not finite, or has words that the model's tokenizer does not know;
            or see `Component` and `Difference`.
        MismatchError: see `Component`.
        UnsupportedModelError: the model has no text tower.
    """
    if isinstance(direction, str):
        refuse_unknown_words(hvit, {direction: [direction]})
        vector = hvit.encode_text([direction])[0]
    elif isinstance(direction, Component | Difference):
        vector = direction.vector(hvit)
    else:
        vector = direction
    if not isinstance(vector, Tensor) or not vector.is_floating_point() or vector.shape != (hvit.cfg.d_out,):
        got = f"{vector.dtype} {list(vector.shape)}" if isinstance(vector, Tensor) else type(vector).__name__
        raise InputError(
            f"A direction is a float tensor of {hvit.cfg.d_out} coordinates, a text, a Component or a Difference; got "
            f"{got}."
        )
    vector = vector.to(device=hvit.device, dtype=hvit.wide_dtype)
    norm = vector.norm()
    if not bool(norm.isfinite()) or not bool(norm > 0):
        raise InputError(f"A direction needs a finite length above 0, this one has {float(norm)}.")
    return vector / norm
