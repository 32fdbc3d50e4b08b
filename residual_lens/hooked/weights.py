"""TransformerLens' names for the weights of all layers together."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.block import HookedBlock


class WeightViews(nn.Module):
    """`W_Q`, `W_K`, `W_V`, `W_O`, `b_*`, `W_in`, `W_out` stacked over layers, as TransformerLens has them.

    A stack is a copy: change weights through the views of one block, `hvit.blocks[3].attn.W_Q`, or in the source.
    LayerScale is folded into `W_O`, `b_O`, `W_out`, `b_out`.
    """

    blocks: nn.ModuleList

    def _stacked(self, module: str, name: str) -> Tensor:
        blocks = cast(Sequence[HookedBlock], self.blocks)
        return torch.stack([getattr(getattr(block, module), name) for block in blocks])

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights."""
        return self._stacked("attn", "W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights."""
        return self._stacked("attn", "W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights."""
        return self._stacked("attn", "W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights."""
        return self._stacked("attn", "W_O")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases."""
        return self._stacked("attn", "b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases."""
        return self._stacked("attn", "b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases."""
        return self._stacked("attn", "b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """Output biases."""
        return self._stacked("attn", "b_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """MLP weights in."""
        return self._stacked("mlp", "W_in")

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """Weights of the MLPs' gates (in gated MLPs only)."""
        return self._stacked("mlp", "W_gate")

    @property
    def b_gate(self) -> Float[Tensor, "layer d_mlp"]:
        """Biases of the MLPs' gates (in gated MLPs only)."""
        return self._stacked("mlp", "b_gate")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """MLP biases in."""
        return self._stacked("mlp", "b_in")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """MLP weights out."""
        return self._stacked("mlp", "W_out")

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """MLP biases out."""
        return self._stacked("mlp", "b_out")
