"""What every adapter refuses in the same words."""

from collections.abc import Sequence

from torch import nn

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.parts.vit import ViTParts


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


def check_regular(parts: ViTParts) -> None:
    """Refuse what no adapter can see from where the parts are.

    Raises:
        UnsupportedModelError: no blocks, heads that differ between layers, or a module whose `forward` was replaced.
    """
    heads = {(block.attention.n_heads, block.attention.out.in_features) for block in parts.blocks}
    if len(heads) != 1:
        raise UnsupportedModelError(
            f"{parts.model_name} has {len(parts.blocks)} blocks with {len(heads)} different numbers or widths of "
            "heads; units need at least one block, and the same heads in all."
        )
    for name, module in parts.tower.named_modules():
        if "forward" in vars(module):
            raise UnsupportedModelError(
                f"{parts.model_name}: the forward of {name or 'the tower'} was replaced on the instance, so that it "
                "computes something else than its class: undo that first."
            )
