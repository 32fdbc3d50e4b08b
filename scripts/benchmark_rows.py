"""What the benchmarks of analyses, pursuits and training share: lines of a table, seconds, peaks of memory."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


@dataclass
class Row:
    """A line of the table: ours against something else, in the same rounds."""

    what: str
    ours: list[float] = field(default_factory=list)
    """Seconds, one a round."""
    twin: list[float] = field(default_factory=list)
    """Of the other side, in the same rounds; none where there is no other side."""
    difference: float | None = None
    """Between what both give."""
    mib: tuple[float, ...] = ()
    """Peaks of memory: ours, the other side's."""

    def cells(self) -> list[str]:
        """As the table has them."""
        ratios = [twin / ours for twin, ours in zip(self.twin, self.ours, strict=False)]
        return [
            self.what,
            f"{statistics.median(self.ours):.3g}",
            f"{statistics.median(self.twin):.3g}" if ratios else "",
            f"{statistics.median(ratios):.3g}" if ratios else "",
            f"{min(ratios):.3g}–{max(ratios):.3g}" if ratios else "",
            "" if self.difference is None else f"{self.difference:.2g}",
            *(f"{one:.0f}" for one in self.mib),
        ]


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Result and seconds."""
    started = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - started


def peak(script: str, *arguments: object) -> float:
    """The number that a script prints last, of a process of its own: MiB that what it runs needs."""
    # glibc then maps every tensor by itself and unmaps it when it is freed, so that resident is what is alive.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return float(done.stdout.splitlines()[-1])


def show(rows: Sequence[Row], *, rounds: int, markdown: bool, difference: str = "difference") -> None:
    """Print the table.

    Args:
        rows: its lines.
        rounds: timed runs of each side, for the title.
        markdown: for a page, not for a terminal.
        difference: what that column is called.
    """
    heads = ["what", "ours, s", "twin, s", "times faster", "range", difference, "MiB", "twin's"]
    cells = [row.cells() for row in rows]
    width = max(map(len, cells), default=0)
    heads, cells = heads[:width], [[*row, *[""] * (width - len(row))] for row in cells]
    title = f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}, medians of {rounds} rounds"
    if markdown:
        rules = ["---", *["--:"] * (width - 1)]
        print(f"{title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in [heads, rules, *cells]) + "\n")
        return
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head == heads[0] else "right")
    for row in cells:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
