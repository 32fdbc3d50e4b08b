"""Results for people: tables and figures."""

from residual_lens.report.descriptions import descriptions_markdown, descriptions_table
from residual_lens.report.dimensions import dimensions_figure
from residual_lens.report.figure import demo_figure
from residual_lens.report.ground_truth import effect_figure, interval_figure
from residual_lens.report.selection import selection_figure
from residual_lens.report.similarity import similarity_figure
from residual_lens.report.table import results_table

__all__ = [
    "demo_figure",
    "descriptions_markdown",
    "descriptions_table",
    "dimensions_figure",
    "effect_figure",
    "interval_figure",
    "results_table",
    "selection_figure",
    "similarity_figure",
]
