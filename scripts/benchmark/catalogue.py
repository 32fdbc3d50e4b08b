"""All groups, in the order of the table, and the rows that a name selects."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

GROUPS = {
    "forward": "forward",
    "bridge": "bridge",
    "pca": "components",
    "twonn": "dimensions",
    "cosine": "similarity",
    "pursuit": "pursuits",
    "store": "stores",
    "train": "training",
    "gpu": "gpu",
}
"""What the names of a group's rows begin with, and its module, which has a `TITLE` and `CASES`."""


def group(name: str) -> ModuleType:
    """A group's module, loaded when it is first asked for: a process that measures loads no other."""
    return import_module(f"scripts.benchmark.groups.{GROUPS[name]}")


def group_of(row: str) -> str:
    """The group that a row belongs to."""
    return row.split("-")[0]


def selected(names: Sequence[str]) -> list[str]:
    """Rows of groups and rows by name, in the order of the table; all of them where no name is given.

    Raises:
        SystemExit: a name that is neither.
    """
    every = [row for name in GROUPS for row in group(name).CASES]
    if unknown := [name for name in names if name not in GROUPS and name not in every]:
        raise SystemExit(
            f"No group or row is called {', '.join(unknown)}. Groups: {', '.join(GROUPS)}. Rows: {', '.join(every)}."
        )
    return [row for row in every if not names or row in names or group_of(row) in names]
