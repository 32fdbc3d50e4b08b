"""The table of all rows: in the terminal, and in the page between its markers. Figures come from results alone."""

import re
import sys
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from residual_lens.files import write_atomically
from scripts.benchmark.catalogue import selected
from scripts.benchmark.results import Results, outdated
from scripts.benchmark.rows import HEADS, Row

SHORT = {
    "forward-decompose": "`decompose`, beside a plain forward pass",
    "bridge-z": "every head's `z` at the pooled token, beside TransformerLens' bridge",
    "pca-sklearn": "PCA of all heads of a ViT-B/16, beside scikit-learn's",
    "twonn-dadapy": "intrinsic dimension of a head, beside DADApy",
    "pursuit-head": "SOMP of a head, beside a refit of all at every pick",
    "train-many": "a training step on cached coordinates, beside unit tensors through hooks",
}
"""Rows of the README, in its words."""
SHORT_COLUMNS = [HEADS.index(head) for head in ("times as fast", "range", "MiB", "the other's")]
MARKERS = ("<!-- benchmark: begin -->", "<!-- benchmark: end -->")


def sections(results: Results) -> list[tuple[str, list[Row]]]:
    """What neighbours share, and their rows, in the order of the catalogue."""
    rows = [results.rows[name] for name in selected([]) if name in results.rows]
    return [(section, list(of_section)) for section, of_section in groupby(rows, key=lambda row: row.section)]


def show(results: Results) -> None:
    """Print the table and what belongs to it."""
    table = Table()
    for head in HEADS:
        table.add_column(head, justify="left" if head in HEADS[:2] else "right", overflow="fold")
    for section, rows in sections(results):
        table.add_row(f"[bold]{section}[/bold]")
        for row in rows:
            table.add_row(*row.cells())
        table.add_section()
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for paragraph in about(results):
        console.print(paragraph, markup=False, highlight=False)


def markdown(results: Results) -> str:
    """The same for a page."""
    lines = [list(HEADS), ["---", "---", *["--:"] * (len(HEADS) - 2)]]
    for section, rows in sections(results):
        lines.append([f"**{section}**", *[""] * (len(HEADS) - 1)])
        lines.extend(row.cells() for row in rows)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([table, *about(results)])


def short(results: Results) -> str:
    """A few rows for the README."""
    lines = [["what", *(HEADS[place] for place in SHORT_COLUMNS)], ["---", *["--:"] * len(SHORT_COLUMNS)]]
    for name, what in SHORT.items():
        if name in results.rows:
            cells = results.rows[name].cells()
            lines.append([what, *(cells[place] for place in SHORT_COLUMNS)])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n[All rows, on what, and how they are measured](docs/benchmarks.md)."


def about(results: Results) -> list[str]:
    """Paragraphs: where it was measured, with what, how often; and what is missing."""
    versions = dict(results.machine)
    hardware = [f"{what}: {versions.pop(what)}" for what in ("CPU", "cores", "threads", "memory", "GPU")]
    rounds = [len(row.ours) for row in results.rows.values()] or [0]
    paragraphs = [
        f"{'; '.join(hardware)}. {', '.join(f'{library} {number}' for library, number in versions.items())}. "
        f"{min(rounds)} to {max(rounds)} rounds a row."
    ]
    for reason in dict.fromkeys(results.skipped.values()):
        names = [name for name, given in results.skipped.items() if given == reason]
        paragraphs.append(f"Not measured, because {reason}: {', '.join(names)}.")
    if older := [row.name for row in results.rows.values() if outdated(row)]:
        paragraphs.append(f"The code has changed since these were measured: {', '.join(older)}.")
    return paragraphs


def put_between_markers(table: str, page: Path) -> None:
    """Fill a page; the rest of it stays.

    Raises:
        SystemExit: the page has no such markers.
    """
    begin, end = MARKERS
    text = page.read_text(encoding="utf-8")
    filled, found = re.subn(
        f"{begin}\n.*{end}",
        lambda _: f"{begin}\n\n{table}\n\n{end}",
        text,
        flags=re.DOTALL,
    )
    if found != 1:
        raise SystemExit(f"{page.name} must hold {begin}, a line break and {end}.")
    write_atomically(page, filled.encode())
