"""One table from the results of several tasks and methods."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

Results = Mapping[str, Any]
"""`{"n_test", "chance", "methods": {name: {"accuracy", "parameters", "seconds"}}}` by task."""


def results_table(tasks: Mapping[str, Results], *, title: str) -> Table:
    """Accuracies in percent, one row a task, one column a method, the best of a row in bold, averages below.

    Args:
        tasks: results by task; every task has the same methods.
        title: stands above the table.
    """
    methods = list(next(iter(tasks.values()))["methods"])
    # Narrow enough for 80 columns, and nothing cut off where it is not.
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("chance", justify="right", style="dim", no_wrap=True)
    for method in methods:
        table.add_column(method, justify="right", no_wrap=True)
    for task, result in tasks.items():
        accuracies = [result["methods"][method]["accuracy"] for method in methods]
        cells = [_percent(accuracy, best=accuracy == max(accuracies)) for accuracy in accuracies]
        table.add_row(task, _percent(result["chance"]), *cells)
    table.add_section()
    means = [_mean(tasks, method, "accuracy") for method in methods]
    chance = sum(result["chance"] for result in tasks.values()) / len(tasks)
    table.add_row("average", _percent(chance), *(_percent(mean, best=mean == max(means)) for mean in means))
    table.add_row("parameters", "", *(_span(tasks, method) for method in methods))
    table.add_row("seconds a task", "", *(f"{_mean(tasks, method, 'seconds'):.1f}" for method in methods))
    return table


def _percent(share: float, *, best: bool = False) -> str:
    text = f"{100 * share:.1f}"
    return f"[bold]{text}[/bold]" if best else text


def _mean(tasks: Mapping[str, Results], method: str, field: str) -> float:
    return sum(result["methods"][method][field] for result in tasks.values()) / len(tasks)


def _span(tasks: Mapping[str, Results], method: str) -> str:
    counts = sorted(result["methods"][method]["parameters"] for result in tasks.values())
    return f"{counts[0]:,}" if counts[0] == counts[-1] else f"{counts[0]:,}–{counts[-1]:,}"
