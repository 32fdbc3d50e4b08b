"""The hook point of this library: TransformerLens', with two things more."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from residual_lens.errors import InputError


class Point(HookPoint):
    """A hook point that knows whether anything listens, and holds hooks to the shape that they saw.

    A result of another shape would often broadcast against what follows and give wrong numbers in silence.
    """

    @property
    def is_hooked(self) -> bool:
        """Whether anything listens, TransformerLens' hooks or plain torch ones."""
        return bool(self._forward_hooks or self._backward_hooks or self._forward_pre_hooks or self._backward_pre_hooks)

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The activation after all hooks.

        Raises:
            InputError: a hook returned something else than a tensor of the activation's shape.
        """
        out: Any = super().__call__(x)
        if not isinstance(out, Tensor) or out.shape != x.shape:
            got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise InputError(f"A hook at {self.name} returned {got}; it must keep the shape {list(x.shape)}.")
        return out

    def on_copy(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The same for a result that autograd keeps for the backward pass: hooks may write into their copy."""
        return self(x.clone() if x.requires_grad and self.is_hooked else x)
