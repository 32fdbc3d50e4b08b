"""TransformerLens' root module, with contexts that remove exactly the hooks they added."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, cast

from transformer_lens import HookedRootModule
from transformer_lens.hook_points import LensHandle

from residual_lens.errors import InputError
from residual_lens.hooked.points import HOOKS_LOCK, Point

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

        Hooks belong to the model and not to a thread: whoever runs the model while they are in force runs into them.
        Contexts may be entered and left by several threads at once; for edits that must not meet, give each thread a
        wrapper of its own (`HookedViT.wrap(hvit.source)` shares the weights). A copy or pickle of the model comes
        without hooks.

        Args:
            fwd_hooks: `(name, function)` pairs; a name is a hook point's or a predicate on names, a function is
                `f(activation, hook)` and may return a replacement.
            bwd_hooks: the same for gradients: the function is given the gradient of what leaves the point, edits of
                forward hooks included, and what it returns goes on to what comes before the point. They must still be
                in force when `backward()` runs.
            reset_hooks_end: remove them at the end (as TransformerLens spells it; `False` keeps them until
                `reset_hooks`).
            clear_contexts: clear the `ctx` of the hook points used as well.

        Raises:
            InputError: no hook point is called that; the closest names are listed, and nothing is left attached.
        """
        wanted = [(point, function, "fwd") for name, function in fwd_hooks for point in self._points(name)]
        wanted += [(point, function, "bwd") for name, function in bwd_hooks for point in self._points(name)]
        added: list[tuple[Point, LensHandle]] = []
        level = self._change_level(1)
        try:
            with HOOKS_LOCK:
                for point, function, direction in wanted:
                    added.append((point, point.add_hook(function, direction, level=level)))
            yield self
        finally:
            self._change_level(-1)
            for point, handle in added if reset_hooks_end else ():
                point.remove(handle)
                if clear_contexts:
                    point.clear_context()

    def _change_level(self, step: int) -> int:
        """How many contexts are open after one more or less."""
        with HOOKS_LOCK:
            self.context_level += step
            return self.context_level

    def __getstate__(self) -> dict[str, Any]:
        """What `copy.deepcopy` and `pickle` take along: no open context."""
        return vars(self) | {"context_level": 0}

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

    def hooked_points(self) -> list[str]:
        """Names of the hook points with hooks in force."""
        return [name for name, point in self.hook_dict.items() if cast(Point, point).is_hooked]

    def _points(self, name: str | Callable[[str], bool]) -> list[Point]:
        by_name = cast(dict[str, Point], self.hook_dict)
        if not isinstance(name, str):
            points = [point for point_name, point in by_name.items() if name(point_name)]
            if not points:
                raise InputError("No hook point's name satisfies the predicate: hvit.hook_dict lists the names.")
            return points
        if name not in by_name:
            close = get_close_matches(name, by_name, n=3)
            hint = f"Did you mean {', '.join(close)}?" if close else "hvit.hook_dict lists them."
            raise InputError(f"There is no hook point {name!r}. {hint}")
        return [by_name[name]]
