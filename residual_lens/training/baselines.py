"""The baselines that ResiDual is compared with, as adapters of the same kind."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions import Adapter, Path
from residual_lens.interventions.adapter import heads_in_stream


class Coarse(Adapter):
    """One learned factor per head on its direct contribution: the paper's coarse baseline.

    On the stream path the factor multiplies what the head adds to the stream, its share of the output bias included.

    Example:
        >>> Coarse(n_layers=24, n_heads=16).parameter_count()
        384
    """

    # The paper's.
    learning_rate = 0.8

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
        layers = range(hvit.cfg.n_layers)
        if path == "stream":
            return [heads_in_stream(hvit, layer, partial(self._scaled, layer)) for layer in layers]
        return [(f"blocks.{layer}.attn.hook_direct", self._direct_edit(layer)) for layer in layers]

    def _direct_edit(self, layer: int) -> Callable[[Tensor, object], Tensor]:
        return lambda values, hook: self._scaled(layer, values)

    def _scaled(self, layer: int, values: Float[Tensor, "*batch head d"]) -> Float[Tensor, "*batch head d"]:
        return values * self.scales[layer].to(values)[:, None]


class LinearAdapter(Adapter):
    """A learned affine map of the image embedding, `W e + b`.

    Example:
        >>> LinearAdapter(d_out=512).parameter_count()
        262656
    """

    # The paper's 1e-3 leaves the map untrained within 30 epochs of a thousand images; see docs/decisions.md.
    learning_rate = 0.03

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
