"""The baselines that ResiDual is compared with, as adapters of the same kind."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions import Adapter, Path


class Coarse(Adapter):
    """One learned factor per head on its direct contribution: the paper's coarse baseline.

    On the stream path the factor multiplies what the head writes into the stream.

    Example:
        >>> Coarse(n_layers=24, n_heads=16).parameter_count()
        384
    """

    def __init__(self, n_layers: int, n_heads: int) -> None:
        """Start with all factors 1: the unedited model."""
        super().__init__()
        self.scales = nn.Parameter(torch.ones(n_layers, n_heads))

    def hooks(self, hvit: HookedViT, path: Path) -> list[Hook]:
        if self.scales.shape != (hvit.cfg.n_layers, hvit.cfg.n_heads):
            raise MismatchError(
                f"These factors are for {list(self.scales.shape)} layers × heads, {hvit.cfg.model_name} has "
                f"[{hvit.cfg.n_layers}, {hvit.cfg.n_heads}]."
            )
        point = "hook_direct" if path == "direct" else "hook_result"
        return [(f"blocks.{layer}.attn.{point}", self._scale(layer)) for layer in range(len(self.scales))]

    def _scale(self, layer: int) -> Callable[[Tensor, object], Tensor]:
        def scale(values: Tensor, hook: object) -> Tensor:
            return values * self.scales[layer].to(values)[:, None]

        return scale


class LinearAdapter(Adapter):
    """A learned affine map of the image embedding, `W e + b`.

    Example:
        >>> LinearAdapter(d_out=512).parameter_count()
        262656
    """

    def __init__(self, d_out: int) -> None:
        """Start at the identity: the unedited model."""
        super().__init__()
        self.weight = nn.Parameter(torch.eye(d_out))
        self.bias = nn.Parameter(torch.zeros(d_out))

    def hooks(self, hvit: HookedViT, path: Path) -> list[Hook]:
        if path != "direct":
            raise InputError("A map of the embedding has no stream path: use path='direct'.")
        if len(self.bias) != hvit.cfg.d_out:
            raise MismatchError(
                f"This map takes embeddings of {len(self.bias)} dimensions, {hvit.cfg.model_name} has {hvit.cfg.d_out}."
            )

        def apply(embedding: Tensor, hook: object) -> Tensor:
            return embedding @ self.weight.to(embedding).mT + self.bias.to(embedding)

        return [("hook_image_embed", apply)]
