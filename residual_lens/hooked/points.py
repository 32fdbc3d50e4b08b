"""The hook point of this library: TransformerLens', safe between threads, and strict about what hooks return."""

import threading
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint, LensHandle

from residual_lens.errors import InputError

# Of the module and not of a point, so that points can be copied. It may be taken again by the thread that holds it,
# because garbage collection can end an abandoned context in the middle of anything.
HOOKS_LOCK = threading.RLock()

HOOK_DICTS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where torch keeps the hooks of a module."""


class Point(HookPoint):
    """A hook point that knows whether anything listens, and holds hooks to the shape that they saw.

    A result of another shape would often broadcast against what follows and give wrong numbers in silence. Copies and
    pickles of a point come without hooks, which belong to the context that added them.
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
        # Another dtype would spread to all that follows, or meet weights that it cannot be multiplied by.
        out = out.to(x.dtype)
        return out.clone() if self._watches_gradients else out

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The activation; a copy where gradients are hooked, since autograd forbids writing into what it hands over."""
        return x.clone() if self._watches_gradients else x

    @property
    def _watches_gradients(self) -> bool:
        return bool(self._backward_hooks or self._backward_pre_hooks)

    def on_copy(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The same as a call, for a result that autograd keeps for the backward pass: hooks may write into a copy."""
        return self(x.clone() if x.requires_grad and self.is_hooked else x)

    def add_hook(self, *args: Any, **kwargs: Any) -> LensHandle:
        """TransformerLens' `add_hook`, one thread at a time."""
        with HOOKS_LOCK:
            return super().add_hook(*args, **kwargs)

    def remove_hooks(self, *args: Any, **kwargs: Any) -> None:
        """TransformerLens' `remove_hooks`, one thread at a time."""
        with HOOKS_LOCK:
            super().remove_hooks(*args, **kwargs)

    def remove(self, handle: LensHandle) -> None:
        """Remove one hook, if it is still there."""
        with HOOKS_LOCK:
            handle.hook.remove()
            for listed in (self.fwd_hooks, self.bwd_hooks):
                with suppress(ValueError):
                    listed.remove(handle)

    def __getstate__(self) -> dict[str, Any]:
        """What `copy.deepcopy` and `pickle` take along: everything but the hooks and their `ctx`."""
        hooks = {name: OrderedDict() for name, value in vars(self).items() if _holds_hooks(name, value)}
        return vars(self) | hooks | {"fwd_hooks": [], "bwd_hooks": [], "ctx": {}}


def _holds_hooks(name: str, value: object) -> bool:
    """Whether an attribute is one of torch's dictionaries of hooks on calls (it has one more for each option)."""
    return isinstance(value, OrderedDict) and name.startswith(HOOK_DICTS)
