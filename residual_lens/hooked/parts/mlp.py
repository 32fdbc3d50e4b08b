"""The MLP of one block, by reference, cut where `hook_pre` and `hook_post` look in."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.parts.attention import scaled_and_dropped
from residual_lens.hooked.parts.reference import Ref, bias_of


class MLPInput(ABC):
    """From the normalised stream to what the activation sees, and to what it gates."""

    is_gated: bool = False
    """Whether the activation's output multiplies a second projection."""

    @abstractmethod
    def __call__(
        self, x: Float[Tensor, "batch *pos d_model"]
    ) -> tuple[Float[Tensor, "batch *pos d_mlp"], Float[Tensor, "batch *pos d_mlp"] | None]:
        """Before the activation; and what it multiplies in a gated MLP."""

    @abstractmethod
    def weights(self) -> tuple[Float[Tensor, "d_model d_mlp"], Float[Tensor, "d_model d_mlp"] | None]:
        """`W_in` and, in a gated MLP, `W_gate`, under TransformerLens' names, as views."""

    @abstractmethod
    def biases(self) -> tuple[Float[Tensor, "d_mlp"], Float[Tensor, "d_mlp"] | None]:
        """`b_in` and, in a gated MLP, `b_gate`; zeros where there is none."""


@dataclass(frozen=True)
class PlainInput(MLPInput):
    """One linear layer."""

    linear: nn.Linear
    """The layer."""

    def __call__(self, x: Float[Tensor, "batch *pos d_model"]) -> tuple[Float[Tensor, "batch *pos d_mlp"], None]:
        return self.linear(x), None

    def weights(self) -> tuple[Float[Tensor, "d_model d_mlp"], None]:
        return self.linear.weight.mT, None

    def biases(self) -> tuple[Float[Tensor, "d_mlp"], None]:
        return bias_of(self.linear), None


@dataclass(frozen=True)
class GatedInput(MLPInput):
    """Two linear layers (SwiGLU and its like)."""

    gate: nn.Linear
    """What the activation sees."""
    linear: nn.Linear
    """What its output multiplies."""
    is_gated = True

    def __call__(
        self, x: Float[Tensor, "batch *pos d_model"]
    ) -> tuple[Float[Tensor, "batch *pos d_mlp"], Float[Tensor, "batch *pos d_mlp"]]:
        return self.gate(x), self.linear(x)

    def weights(self) -> tuple[Float[Tensor, "d_model d_mlp"], Float[Tensor, "d_model d_mlp"]]:
        return self.linear.weight.mT, self.gate.weight.mT

    def biases(self) -> tuple[Float[Tensor, "d_mlp"], Float[Tensor, "d_mlp"]]:
        return bias_of(self.linear), bias_of(self.gate)


@dataclass(frozen=True)
class PackedInput(MLPInput):
    """Both projections of a gated MLP in one linear layer."""

    both: nn.Linear
    """The layer."""
    gate_last: bool
    """Whether the second half of its output is what the activation sees."""
    is_gated = True

    def __call__(
        self, x: Float[Tensor, "batch *pos d_model"]
    ) -> tuple[Float[Tensor, "batch *pos d_mlp"], Float[Tensor, "batch *pos d_mlp"]]:
        linear, gate = self._halves(self.both(x))
        return gate, linear

    def weights(self) -> tuple[Float[Tensor, "d_model d_mlp"], Float[Tensor, "d_model d_mlp"]]:
        return self._halves(self.both.weight.mT)

    def biases(self) -> tuple[Float[Tensor, "d_mlp"], Float[Tensor, "d_mlp"]]:
        return self._halves(bias_of(self.both))

    def _halves(
        self, x: Float[Tensor, "*batch d"]
    ) -> tuple[Float[Tensor, "*batch half"], Float[Tensor, "*batch half"]]:
        """What is gated and the gate. Slices, not chunk: autograd lets hooks write into slices in place."""
        width = x.shape[-1] // 2
        first, second = x[..., :width], x[..., width:]
        return (first, second) if self.gate_last else (second, first)


@dataclass(frozen=True)
class MLPParts:
    """The MLP of one block: `gain ⊙ drops(out(inner(activation(pre) [⊙ pre_linear])))`."""

    inputs: MLPInput
    """Projection in."""
    activation: Callable[[Tensor], Tensor]
    """The non-linearity."""
    out: nn.Linear
    """Projection out."""
    inner: tuple[nn.Module, ...] = ()
    """Dropout and norm between the activation and the projection out."""
    gain: Ref | None = None
    """LayerScale's factors."""
    drops: tuple[nn.Module, ...] = ()
    """Dropout and stochastic depth behind the projection out."""

    def post(
        self, pre: Float[Tensor, "batch *pos d_mlp"], linear: Float[Tensor, "batch *pos d_mlp"] | None
    ) -> Float[Tensor, "batch *pos d_mlp"]:
        """What the projection out is given."""
        x = self.activation(pre)
        x = x if linear is None else x * linear
        for module in self.inner:
            x = module(x)
        return x

    def output(self, post: Float[Tensor, "batch *pos d_mlp"]) -> Float[Tensor, "batch *pos d_model"]:
        """What the MLP writes into the stream: output projection, its bias, LayerScale."""
        return scaled_and_dropped(self.out(post), self.gain, self.drops)

    def output_weight(self) -> Float[Tensor, "d_mlp d_model"]:
        """`W_out`, LayerScale folded in."""
        return self.out.weight.mT if self.gain is None else self.out.weight.mT * self.gain()

    def output_bias(self) -> Float[Tensor, "d_model"]:
        """`b_out`, LayerScale folded in."""
        bias = bias_of(self.out)
        return bias if self.gain is None else bias * self.gain()
