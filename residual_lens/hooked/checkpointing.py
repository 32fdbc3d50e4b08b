"""Gradient checkpointing of a block that hooks may act on."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from residual_lens.errors import MismatchError
from residual_lens.hooked.points import HOOK_DICTS, Point


def checkpointed(block: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
    """A run of the block that keeps its inputs only and is repeated in the backward pass.

    The repetition must meet the hooks that the forward pass met, or gradients would be those of another computation.

    Raises:
        MismatchError: in the backward pass, if hooks came or went since.
    """
    before = _hooks_in_force(block)

    def repeated(*inputs: Any) -> Any:
        if _hooks_in_force(block) != before:
            raise MismatchError(
                "Hooks in a checkpointed block changed between the forward and the backward pass, which runs the block "
                "once more: call backward() inside the hooks' context (run_with_cache leaves its own before it "
                "returns), or switch checkpointing off with set_grad_checkpointing(False)."
            )
        return run(*inputs)

    def call(*inputs: Any) -> Any:
        return checkpoint(repeated, *inputs, use_reentrant=False)

    return call


def _hooks_in_force(block: nn.Module) -> list[list[Callable[..., Any]]]:
    """All hooks themselves, point by point: held, so that another hook cannot take a dead one's identity."""
    points = [module for module in block.modules() if isinstance(module, Point)]
    return [[hook for name in HOOK_DICTS for hook in getattr(point, name).values()] for point in points]
