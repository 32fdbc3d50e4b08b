"""What all trainable edits have in common: parameters, and hooks that put them into a forward pass."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions.saving import HubAdapter
from residual_lens.text import ZeroShotClassifier
from residual_lens.units import Units

Path = Literal["direct", "stream"]
"""Where an edit acts: on direct contributions alone, or in the residual stream."""


def heads_in_stream(
    hvit: HookedViT,
    layer: int,
    edit: Callable[[Float[Tensor, "batch pos head d_model"]], Float[Tensor, "batch pos head d_model"]],
) -> Hook:
    """A hook that edits what the heads of a layer add to the stream, each with its even share of the output bias.

    `hook_result` leaves that share out, while the direct contribution of a head includes it.
    """
    attention = hvit.attention(layer)

    def hook_function(results: Tensor, hook: object) -> Tensor:
        share = attention.b_O / results.shape[-2]
        return edit(results + share) - share

    return f"blocks.{layer}.attn.hook_result", hook_function


def embedding_maps(
    hvit: HookedViT, *, is_pool: bool = False
) -> tuple[Float[Tensor, "d d_out"], Float[Tensor, "d_out d"]]:
    """The map `G` of a stream term's direct contribution `c G / σ`, and its pseudo-inverse, float64.

    Args:
        hvit: the model.
        is_pool: of what the MLP of an attention pooling writes instead, behind which stands no norm.
    """
    to_embedding = hvit.parts.projection_matrix(torch.float64).detach() if is_pool else hvit.direct_map()
    # Directions that float32 weights hardly reach are left alone instead of being blown up.
    return to_embedding, torch.linalg.pinv(to_embedding, rtol=1e-6)


@dataclass(frozen=True)
class Origin:
    """The model that contributions come from."""

    model_name: str
    """Its name."""
    units: Units
    """Its units, for its centring."""
    d_out: int
    """Width of its embedding."""
    fingerprint: str | None = None
    """Digest of its weights; `None` where only its contributions are known."""

    @classmethod
    def of_model(cls, hvit: HookedViT) -> "Origin":
        """Of a model at hand."""
        return cls(hvit.cfg.model_name, hvit.units, hvit.cfg.d_out, hvit.fingerprint())

    @property
    def center(self) -> str:
        """Centring of its contributions: even shares leave no unit `bias`."""
        return "own" if "bias" in self.units else "uniform"


@dataclass(frozen=True, eq=False)
class ScaledUnit:
    """What an adapter's scales multiply of one unit's direct contribution `x`."""

    first: int
    """Place of the unit's first scale in `Adapter.scales`."""
    directions: Float[Tensor, "component d_out"] | None = None
    """Φ: coordinates are `(x − μ) Φᵀ`, each with a scale of its own. `None`: one scale multiplies all of `x`."""
    mean: Float[Tensor, "d_out"] | None = None
    """μ, if one is taken away first."""


@dataclass(frozen=True, eq=False)
class CachedForm:
    """An edit of the direct path as `mapped(rest + constant + Σ_u coordinates_u diag(scales_u) Φ_u)`."""

    units: Mapping[str, ScaledUnit]
    """By unit, in the order of the model; none for a map of the embedding."""
    rest_passes: bool = True
    """The rest is what coordinates leave of the embedding; or else it is dropped."""
    constant: Float[Tensor, "d_out"] | None = None
    """The same for every sample: means that stay or go."""


class Adapter(HubAdapter, nn.Module, ABC):
    """A trainable edit of a `HookedViT`, in force inside `with adapter.attached(hvit):`."""

    learning_rate: ClassVar[float]
    """What schedule-free AdamW trains it with unless told otherwise."""
    scales: nn.Parameter
    """What multiplies the coordinates of its cached form, in any shape; adapters without coordinates have none."""

    @abstractmethod
    def hooks(self, hvit: HookedViT, path: Path) -> list[Hook]:
        """The hooks that make the edit.

        Raises:
            MismatchError: the adapter does not belong to this model.
        """

    @contextmanager
    def attached(self, hvit: HookedViT, path: str = "direct") -> Iterator[HookedViT]:
        """The edit in force inside a `with` block, on every path through the model that fires its hooks.

        Args:
            hvit: the model.
            path: `"direct"`: only the units' direct contributions to the embedding change. `"stream"`: the edit is
                written into the residual stream, so that later layers respond to it.

        Raises:
            InputError: no such path.
            MismatchError: the adapter does not belong to this model.
        """
        if path != "direct" and path != "stream":
            raise InputError(f"path must be 'direct' or 'stream', got {path!r}.")
        with hvit.hooks(fwd_hooks=self.hooks(hvit, path)):
            yield hvit

    def cached_form(self, origin: Origin) -> CachedForm | None:
        """What the scales multiply on the direct path, for training on what a frozen model gave once.

        Args:
            origin: of the contributions.

        Returns:
            `None` for an edit without such a form, which is trained live.

        Raises:
            MismatchError: the adapter does not belong to the model that the contributions are of.
        """
        return None

    def mapped(self, embedding: Float[Tensor, "batch d_out"]) -> Float[Tensor, "batch d_out"]:
        """What the edit makes of the embedding after all units are scaled: nothing, but for output adapters."""
        return embedding

    def logits(
        self, embedding: Float[Tensor, "batch d_out"], classifier: ZeroShotClassifier
    ) -> Float[Tensor, "batch class"]:
        """What edited embeddings score: the classifier's logits, but for adapters with a classifier of their own."""
        return classifier.logits(embedding)

    def cross_entropy(
        self, embedding: Float[Tensor, "batch d_out"], classifier: ZeroShotClassifier, labels: Int[Tensor, "batch"]
    ) -> Float[Tensor, ""]:
        """Of `logits`, summed over the batch: what training minimises."""
        if type(self).logits is Adapter.logits:
            # The same in a third of the operations.
            return classifier.cross_entropy(embedding, labels)
        return cross_entropy(self.logits(embedding, classifier), labels.long(), reduction="sum")

    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
