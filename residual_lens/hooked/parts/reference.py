"""Borrowing: parameters read through their owners, and linear layers that are what they seem."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.errors import UnsupportedModelError


@dataclass(frozen=True)
class Ref:
    """An attribute read through its owner each time, so that replacing it there is seen here."""

    owner: nn.Module
    """Module that holds it."""
    name: str
    """Attribute name."""

    def __call__(self) -> Any:
        return getattr(self.owner, self.name)


def plain_linear(module: object, what: str, model_name: str) -> nn.Linear:
    """The module, if it is a linear layer whose weight and bias tell its whole output.

    Raises:
        UnsupportedModelError: anything else, such as a layer wrapped by an adapter library or quantised.
    """
    if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
        if "forward" not in vars(module) and not (module._forward_hooks or module._forward_pre_hooks):
            return module
        raise UnsupportedModelError(
            f"{model_name}: {what} carries torch hooks or a forward of its own (old-style weight norm, pruning, "
            "offloading), so its weight does not tell what it computes. Remove them, or make them permanent, first."
        )
    raise UnsupportedModelError(
        f"{model_name}: {what} is {type(module).__module__}.{type(module).__name__}, not a plain nn.Linear, so its "
        "weight does not tell what it computes. Merge adapters (LoRA) into the weights or load the model unquantised."
    )


def bias_of(layer: nn.Linear) -> Float[Tensor, "d"]:
    """The bias of a linear layer, zeros where it has none."""
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
