"""What to say when a cache lacks a hook point."""

import re
from collections.abc import Collection, Sequence

from residual_lens.errors import InputError


class NotCachedError(InputError, KeyError):
    """A hook point that exists but was not cached; a `KeyError` as well, because a cache is a mapping."""

    def __str__(self) -> str:
        return ValueError.__str__(self)


def how_to_cache(missing: Sequence[str], needed: Collection[str]) -> str:
    """Message that names what is missing and the `names_filter` that caches all that is needed.

    Args:
        missing: hook points that are needed and were not cached.
        needed: all hook points that are needed.
    """
    listed = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    kinds: dict[str, list[str]] = {}
    for name in needed:
        kinds.setdefault(re.sub(r"^blocks\.\d+(?=\.)", "", name), []).append(name)
    endings = ", ".join(repr(names[0] if len(names) == 1 else kind) for kind, names in sorted(kinds.items()))
    return (
        f"Not cached: {listed}. Cache them: hvit.run_with_cache(images, names_filter=lambda name: "
        f"name.endswith(({endings},))), or leave names_filter out to cache everything."
    )
