"""The table names every task and method, and the best of each row stands out."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from residual_lens.report import results_table
from tests.report.results import ACCURACIES, METHODS, made_up_results


def rows_of(table: Table) -> dict[str, list[str]]:
    """Cells with their markup, by the first cell of the row."""
    columns = [list(column.cells) for column in table.columns]
    return {row[0]: list(row[1:]) for row in zip(*columns, strict=True)}


def test_every_task_and_method_is_there_with_its_accuracy():
    table = results_table(made_up_results(), title="Accuracy (%)")
    assert [column.header for column in table.columns] == ["task", "chance", *METHODS]
    rows = rows_of(table)
    assert list(rows) == [*ACCURACIES, "average", "parameters", "seconds a task"]
    for task, accuracies in ACCURACIES.items():
        plain = [cell.replace("[bold]", "").replace("[/bold]", "") for cell in rows[task]]
        assert plain[1:] == [f"{100 * accuracy:.1f}" for accuracy in accuracies]
    assert rows["digits"][0] == "10.0"


def test_the_best_of_a_row_is_bold_and_ties_share_it():
    rows = rows_of(results_table(made_up_results(), title=""))
    bold = {task: [cell.startswith("[bold]") for cell in cells[1:]] for task, cells in rows.items()}
    assert bold["digits"] == [False, False, False, True, False]
    assert bold["attributes:colour"] == [False, False, False, False, True]
    assert bold["attributes:shape@sketch"] == [True, False, True, False, False]
    assert bold["average"] == [False, False, False, True, False]
    assert not any(bold["parameters"])


def test_averages_and_ranges_are_over_tasks():
    rows = rows_of(results_table(made_up_results(), title=""))
    assert rows["average"][1:3] == ["51.7", "46.8"]
    assert rows["parameters"][1:] == ["0", "1,000–1,002", "2,000", "3,000", "4,000"]
    assert rows["seconds a task"][1] == "1.0"


@pytest.mark.parametrize("width", [80, 100])
def test_nothing_is_cut_off_in_a_terminal_of_usual_width(width):
    stream = io.StringIO()
    Console(file=stream, width=width).print(results_table(made_up_results(), title="Accuracy (%)"))
    printed = stream.getvalue()
    words = ("Accuracy (%)", "digits", "attributes:colour", "sketch", "seconds a task", "1,000–1,002", *METHODS, "90.9")
    assert [word for word in words if word not in printed] == []
    assert "…" not in printed
    assert "[bold]" not in printed
