"""An MLP with TransformerLens' hook points."""

from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.parts.mlp import MLPParts
from residual_lens.hooked.points import Point


class HookedMLP(nn.Module):
    """Projection in, activation, projection out.

    `hook_pre` sees what the activation is given, `hook_post` what the projection out is given; a gated MLP has
    `hook_pre_linear` as well, for what the activation's output multiplies.
    """

    def __init__(self, parts: MLPParts) -> None:
        super().__init__()
        self.parts = parts
        self.hook_pre = Point()
        if parts.inputs.is_gated:
            self.hook_pre_linear = Point()
        self.hook_post = Point()

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        """Weights in, as a view (in a gated MLP, of what is gated)."""
        return self.parts.inputs.weights()[0]

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"] | None:
        """Weights of the gate, as a view; `None` without one."""
        return self.parts.inputs.weights()[1]

    @property
    def b_in(self) -> Float[Tensor, "d_mlp"]:
        """Bias in; zeros where there is none."""
        return self.parts.inputs.biases()[0]

    @property
    def b_gate(self) -> Float[Tensor, "d_mlp"] | None:
        """Bias of the gate; `None` without one."""
        return self.parts.inputs.biases()[1]

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """Weights out, as a view; a product where a LayerScale is folded in."""
        return self.parts.output_weight()

    @property
    def b_out(self) -> Float[Tensor, "d_model"]:
        """Bias out (LayerScale folded in)."""
        return self.parts.output_bias()

    def forward(self, x: Float[Tensor, "batch *pos d_model"]) -> Float[Tensor, "batch *pos d_model"]:
        pre, linear = self.parts.inputs(x)
        pre = self.hook_pre(pre)
        linear = None if linear is None else self.hook_pre_linear(linear)
        post = self.hook_post(self.parts.post(pre, linear))
        del pre, linear
        return self.parts.output(post)
