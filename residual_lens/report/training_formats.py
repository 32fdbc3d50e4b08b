"""The table of training runs for terminals, pages, papers and spreadsheets."""

import csv
import io
from collections.abc import Iterable, Mapping
from functools import partial

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from residual_lens.report.training_table import Cell, TrainingTable

MARKDOWN = {character: f"\\{character}" for character in r"\`*_|<[]"}
LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
}
"""What stands for characters that mean something else there."""


def training_rich(table: TrainingTable) -> Table:
    """For the terminal.

    Args:
        table: of `training_tables`.
    """
    shown = Table(title=escape(table.model), caption=escape(table.note), title_justify="left", caption_justify="left")
    shown.box, shown.padding, shown.pad_edge = SIMPLE_HEAD, (0, 1, 0, 0), False
    for place, name in enumerate(table.header):
        shown.add_column(escape(name), justify="left" if place == 0 else "right", overflow="fold")
    for cells in table.body(escape, "[bold]{}[/bold]".format):
        shown.add_row(*cells)
    return shown


def training_markdown(table: TrainingTable) -> str:
    """For pages.

    Args:
        table: of `training_tables`.
    """
    written = partial(_escaped, MARKDOWN)
    lines = [map(written, table.header), ["---", *["--:"] * (len(table.header) - 1)]]
    lines += table.body(written, "**{}**".format)
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{written(table.model)}\n\n{rows}\n\n{written(table.note)}\n"


def training_latex(table: TrainingTable) -> str:
    """For papers; takes the package booktabs.

    Args:
        table: of `training_tables`.
    """
    written = partial(_escaped, LATEX)
    lines = [[*map(written, table.header)], *table.body(written, r"\textbf{{{}}}".format)]
    head, *rows = (rf"{' & '.join(cells)} \\" for cells in lines)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{written(table.model)}. {written(table.note)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            *(r"\toprule", head, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def training_csv(tables: Iterable[TrainingTable]) -> str:
    """All models in one table, with all digits; accuracies in percent, nothing where runs are missing.

    Args:
        tables: of `training_tables`.
    """
    tables = list(tables)
    columns = [*dict.fromkeys(name for table in tables for name in table.data), "average"]
    lines = [["model", "method"]]
    lines[0] += [f"{name}{kind}" for name in columns for kind in ("", " sd", " seeds")]
    lines[0] += ["fewest parameters", "most parameters", "seconds"]
    for table in tables:
        for row in table.rows:
            cells = dict(zip((*table.data, "average"), row.cells, strict=True))
            numbers = [text for name in columns for text in _numbers(cells.get(name))]
            lines.append([table.model, row.label, *numbers, *map(str, row.parameters), str(row.seconds)])
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def _numbers(cell: Cell | None) -> tuple[str, str, str]:
    """Mean, standard deviation and seeds."""
    if cell is None:
        return "", "", ""
    return str(100 * cell.mean), "" if cell.sd is None else str(100 * cell.sd), str(cell.n_seeds)


def _escaped(characters: Mapping[str, str], text: str) -> str:
    return "".join(characters.get(character, character) for character in text)
