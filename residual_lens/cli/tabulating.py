"""`residual-lens table`: what training runs found, as the paper's table."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from residual_lens.cli.places import require_files, require_folders
from residual_lens.errors import InputError


def table(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    markdown: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
    figures: Path | None = None,
) -> None:
    """Gather the results of training runs: methods in rows, data sets in columns, a table for each model.

    Accuracy in percent ± standard deviation over seeds, the average over data sets, numbers trained, seconds of
    training. Missing runs are shown and counted, and no average is taken over fewer data sets than the others'.

    In a shell:
        residual-lens table runs
        residual-lens table runs --markdown table.md --csv table.csv --latex table.tex

    Args:
        runs: folders of runs, or folders that hold them, at any depth.
        markdown: write the tables to this file as well.
        csv: and to this one.
        latex: and to this one, for the package booktabs.
        figures: draw accuracy against the numbers trained into this folder, a figure for each model.
    """
    require_files(markdown=markdown, csv=csv, latex=latex)
    require_folders(figures=figures)
    written = [path for path in (markdown, csv, latex) if path is not None]
    if len({path.resolve() for path in written}) < len(written):
        raise InputError("Two tables would go to one file: give each its own.")
    from residual_lens.figures import save
    from residual_lens.files import write_atomically
    from residual_lens.report.training_figure import training_figure
    from residual_lens.report.training_formats import training_csv, training_latex, training_markdown, training_rich
    from residual_lens.report.training_table import training_tables
    from residual_lens.training.methods import METHODS
    from residual_lens.training.runs.config import file_name
    from residual_lens.training.runs.sweep import PAPER_DATA, finished_runs

    tables = training_tables(finished_runs(runs), methods=tuple(METHODS), data=PAPER_DATA)
    texts = {
        markdown: "\n".join(training_markdown(one) for one in tables),
        csv: training_csv(tables),
        latex: "\n".join(training_latex(one) for one in tables),
    }
    for path in written:
        write_atomically(path, texts[path].encode())
    if figures is not None:
        for one in tables:
            save(training_figure(one), figures / f"{file_name(one.model)}.png", dpi=110)
    console = Console()
    for one in tables:
        # In a pipe or file rows stay on one line.
        (console if console.is_terminal else Console(width=200)).print(training_rich(one))
