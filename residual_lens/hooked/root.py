"""TransformerLens' root module, with contexts that remove exactly the hooks they added."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint, LensHandle

from residual_lens.errors import InputError

Hook = tuple[str | Callable[[str], bool], Callable[..., Any]]


class HookedRoot(HookedRootModule):
    """A `HookedRootModule` whose `hooks` contexts may nest, overlap and fail without leaving anything behind.

    TransformerLens removes hooks by nesting level, which takes another context's hooks when two overlap (generators,
    threads); here each context holds the handles of its own.
    """

    @contextmanager
    def hooks(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        fwd_hooks: Sequence[Hook] = (),
        bwd_hooks: Sequence[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["HookedRoot"]:
        """Hooks in force inside a `with` block.

        Args:
            fwd_hooks: `(name, function)` pairs; a name is a hook point's or a predicate on names, a function is
                `f(activation, hook)` and may return a replacement.
            bwd_hooks: the same for gradients.
            reset_hooks_end: remove them at the end (as TransformerLens spells it; `False` keeps them until
                `reset_hooks`).
            clear_contexts: clear the `ctx` of the hook points used as well.

        Raises:
            InputError: no hook point is called that; the closest names are listed, and nothing is left attached.
        """
        added: list[tuple[HookPoint, LensHandle]] = []
        self.context_level += 1
        level = self.context_level
        try:
            for name, function in fwd_hooks:
                for point in self._points(name):
                    added.append((point, point.add_hook(function, "fwd", level=level)))
            for name, function in bwd_hooks:
                for point in self._points(name):
                    added.append((point, point.add_hook(function, "bwd", level=level)))
            yield self
        finally:
            self.context_level -= 1
            for point, handle in added if reset_hooks_end else ():
                handle.hook.remove()
                point.fwd_hooks = [kept for kept in point.fwd_hooks if kept is not handle]
                point.bwd_hooks = [kept for kept in point.bwd_hooks if kept is not handle]
                if clear_contexts:
                    point.clear_context()

    def add_hook(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, name: str | Callable[[str], bool], hook: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """TransformerLens' `add_hook` (it stays until `reset_hooks`); unknown names are refused.

        Raises:
            InputError: no hook point is called that.
        """
        names = {point.name for point in self._points(name)}
        super().add_hook(names.__contains__, hook, *args, **kwargs)

    def names_of(self, names_filter: str | Iterable[str] | Callable[[str], bool] | None) -> list[str]:
        """Names of the hook points that a TransformerLens `names_filter` means; `None` means all.

        Raises:
            InputError: a name is unknown, or nothing matches.
        """
        if names_filter is None:
            return list(self.hook_dict)
        filters = [names_filter] if isinstance(names_filter, str) or callable(names_filter) else names_filter
        wanted = {point.name for name in filters for point in self._points(name)}
        return [name for name in self.hook_dict if name in wanted]

    def _points(self, name: str | Callable[[str], bool]) -> list[HookPoint]:
        if not isinstance(name, str):
            points = [point for point_name, point in self.hook_dict.items() if name(point_name)]
            if not points:
                raise InputError("No hook point's name satisfies the predicate: hvit.hook_dict lists the names.")
            return points
        if name not in self.hook_dict:
            close = get_close_matches(name, self.hook_dict, n=3)
            hint = f"Did you mean {', '.join(close)}?" if close else "hvit.hook_dict lists them."
            raise InputError(f"There is no hook point {name!r}. {hint}")
        return [self.hook_dict[name]]
