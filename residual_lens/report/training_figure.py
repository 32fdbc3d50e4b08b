"""Accuracy against the numbers that were trained."""

from matplotlib.figure import Figure

from residual_lens.errors import InputError
from residual_lens.figures.look import new_figure
from residual_lens.figures.parameters import Trained, accuracy_by_parameters
from residual_lens.report.training_table import TrainingTable


def training_figure(table: TrainingTable) -> Figure:
    """The average over data sets of each method, with its standard deviation over seeds, by the numbers trained.

    Of a method whose numbers differ between data sets the most are shown. Zero stands left of one.

    Args:
        table: of `training_tables`.

    Raises:
        InputError: no method has an average.
    """
    methods = {
        row.label: Trained(row.parameters[1], average.mean, average.sd or 0.0)
        for row in table.rows
        if (average := row.cells[-1]) is not None
    }
    if not methods:
        raise InputError(f"No method of {table.model} has all its data sets: there is no average to draw.")
    figure = new_figure(8.0, 4.5)
    label = "test accuracy (%), average over data sets"
    accuracy_by_parameters(methods, label=label, title=table.model, axes=figure.subplots())
    return figure
