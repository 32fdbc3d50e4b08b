"""The parity matrix as the table of docs/backbones.md.

python -m tests.backbones.table            # print it (about two minutes)
python -m tests.backbones.table --write    # put it between the markers of docs/backbones.md
"""

import sys
from pathlib import Path

import torch

from tests.backbones.backbone import Backbone
from tests.backbones.measuring import MODES, Gaps, measure
from tests.backbones.models import BACKBONES

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
BEGIN, END = "<!-- parity matrix: begin -->", "<!-- parity matrix: end -->"
HEAD = (
    *("source", "model", "special", "pooling"),
    *("float32: embedding", "float32: sum", "bfloat16: embedding", "bfloat16: sum", "dropout in train mode"),
)


def row(backbone: Backbone) -> str:
    """One line: the largest gaps over evaluation and both train modes."""
    cells = [backbone.source, f"`{backbone.model}`", backbone.special, backbone.pooling]
    if backbone.head:
        cells[2] += ", head=True"
    for dtype in (torch.float32, torch.bfloat16):
        gaps = [measure(backbone, dtype, mode) for mode in MODES]
        cells += [_largest([gap.embedding for gap in gaps]), _largest(_totals(gaps))]
    refused = "" if backbone.sums_under_dropout else "; `decompose` refuses"
    return _line([*cells, backbone.dropout + refused])


def table() -> str:
    """The whole table."""
    torch.set_num_threads(1)
    return "\n".join([_line(HEAD), _line(["---"] * len(HEAD)), *map(row, BACKBONES)])


def listed() -> list[tuple[str, ...]]:
    """Source, model, special and pooling of every row that the page has."""
    text = PAGE.read_text(encoding="utf-8")
    lines = text[text.index(BEGIN) : text.index(END)].strip().splitlines()[3:]
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")[:4]) for line in lines]


def _totals(gaps: list[Gaps]) -> list[float]:
    return [gap.total for gap in gaps if gap.total is not None]


def _largest(values: list[float]) -> str:
    largest = max(values)
    return "0" if largest == 0 else f"{largest:.0e}"


def _line(cells: "list[str] | tuple[str, ...]") -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    printed = table()
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(f"{page[: page.index(BEGIN)]}{BEGIN}\n{printed}\n{page[page.index(END) :]}", encoding="utf-8")
    else:
        sys.stdout.write(printed + "\n")
