"""What all trainable edits have in common: parameters, and hooks that put them into a forward pass."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook

Path = Literal["direct", "stream"]


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


class Adapter(nn.Module, ABC):
    """A trainable edit of a `HookedViT`, in force inside `with adapter.attached(hvit):`."""

    learning_rate: ClassVar[float]
    """What schedule-free AdamW trains it with unless told otherwise."""

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

    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
