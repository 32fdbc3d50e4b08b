"""What all groups share: a row of the table before it is measured (`Sides`), and after (`Row`)."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scripts.benchmark.sizes import Sizes


class Skipped(Exception):  # noqa: N818 - nothing went wrong
    """A row that cannot be measured here; the message says why."""


class Timed(NamedTuple):
    """What a side returns that has a clock of its own."""

    result: Any
    seconds: float
    mib: float | None = None
    """Where it knows its peak of memory, too."""


@dataclass(frozen=True)
class Sides:
    """What a row compares: ours, and what a user would do otherwise."""

    what: str
    ours: Callable[[], Any]
    other: Callable[[], Any]
    """Both return their result, or `Timed`."""
    the_other_way: str
    difference: Callable[[Any, Any], float] | None = None
    """Between the results of the two."""
    counted: str = ""
    """What the difference counts; by default it is relative."""
    images: int | None = None
    """Of one run of a side, where the table is to give images a second."""


Cases = dict[str, Callable[[Sizes], Sides]]
"""Rows of a group by their names, which begin with the group's."""


@dataclass
class Row:
    """A row of the table, as it was measured."""

    name: str
    section: str
    """What it shares with its neighbours."""
    what: str
    the_other_way: str
    ours: list[float] = field(default_factory=list)
    """Seconds, one a round."""
    other: list[float] = field(default_factory=list)
    """Of the other way, in the same rounds."""
    difference: float | None = None
    counted: str = ""
    mib: tuple[float | None, float | None] = (None, None)
    """Peak memory beyond what was resident before: ours, the other's."""
    images: int | None = None
    sources: list[str] = field(default_factory=list)
    """Files of this repository that were measured."""
    code: str = ""
    """Their digest."""

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours was, round by round."""
        return [other / ours for ours, other in zip(self.ours, self.other, strict=True)]

    def cells(self) -> list[str]:
        """As the table has them."""
        ratios = self.ratios
        return [
            self.what,
            self.the_other_way,
            self._speed(self.ours),
            self._speed(self.other),
            digits(statistics.median(ratios), 3),
            f"{digits(min(ratios), 3)}–{digits(max(ratios), 3)}",
            self._difference(),
            *("" if mib is None else f"{mib:,.0f}" for mib in self.mib),
        ]

    def _speed(self, seconds: list[float]) -> str:
        middle = statistics.median(seconds)
        return f"{digits(middle, 2)} s" if self.images is None else f"{self.images / middle:,.0f} images/s"

    def _difference(self) -> str:
        if self.difference is None:
            return ""
        if self.counted:
            return f"{self.difference:.0f} {self.counted}"
        return f"{self.difference:.0e}" if self.difference else "0"


def digits(number: float, count: int) -> str:
    """That many, and all of those before the point."""
    return f"{number:,.0f}" if number >= 10**count else f"{number:.{count}g}"


HEADS = ("what", "the other way", "ours", "the other", "times as fast", "range", "difference", "MiB", "the other's")
