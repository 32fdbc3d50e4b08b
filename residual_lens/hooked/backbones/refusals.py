"""What every adapter refuses in the same words."""

from collections.abc import Sequence

from torch import nn

from residual_lens.errors import UnsupportedModelError


def refuse_overrides(module: nn.Module, base: type[nn.Module], methods: Sequence[str], model_name: str) -> None:
    """Refuse a subclass that computes something else than the wiring that is rebuilt here.

    Raises:
        UnsupportedModelError: with the method.
    """
    for method in methods:
        if getattr(type(module), method, None) is not getattr(base, method, None):
            raise UnsupportedModelError(
                f"{model_name}: {type(module).__name__} overrides {base.__name__}.{method}, so that it computes "
                f"something else than a {base.__name__}; only {base.__module__.partition('.')[0]}'s own is supported."
            )


def refuse_head(head: bool, model_name: str) -> None:
    """Refuse a head that the model does not have.

    Raises:
        UnsupportedModelError: a head was asked for.
    """
    if head:
        raise UnsupportedModelError(f"{model_name} has no linear head of its own: leave out head=True.")
