"""What the study of transfer prints and draws, from its results alone."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from residual_lens.figures import save
from residual_lens.report.transfer import TransferPanel, transfer_figure

Results = Mapping[str, Any]
"""As transfer.json has them."""
ALL, TURNED = "all together", "own, turned"
STARTS = {
    f"{scales}, mean {'kept' if keep_mean else 'dropped'}": {"scales": scales, "keep_mean": keep_mean}
    for scales, keep_mean in product(("randn", "ones", "spectrum"), (False, True))
}
"""What `ResiDual.from_bases` takes, by name; the paper's is the first."""
CARRIED = ("randn, mean dropped", "ones, mean kept")
"""Starts of λ that is carried over to other data."""
NEUTRAL = "ones, mean kept"
"""Start for λ on other bases: on any of them it begins as the model that it is."""


def draw_matrices(results: Results, data: Sequence[str], seeds: int, out: Path) -> None:
    """The tables and figures of what is carried over."""
    scales = "λ learned on one data set (rows), tested on another (columns)"
    bases = "Bases of one data set (rows), λ learned and tested on another (columns)"
    figures = {
        "scales": (scales, "zero-shot", {start: scales_matrix(results, data, seeds, start) for start in CARRIED}),
        "bases": (bases, "the task's own bases", {NEUTRAL: bases_matrix(results, data, seeds)}),
    }
    for name, (title, reference, matrices) in figures.items():
        panels = []
        for start, (rows, accuracies, against) in matrices.items():
            print_matrix(f"{title}; start: {start}", rows, data, accuracies)
            mean = accuracies.mean(axis=0)
            panels.append(TransferPanel(f"λ starts: {start}", [short(row) for row in rows], mean, mean[against]))
        figure = transfer_figure(panels, [short(task) for task in data], title=title, reference=reference)
        for suffix in ("png", "pdf"):
            save(figure, out / f"{name}.{suffix}", dpi=110)
        print(f"\nWrote {out / f'{name}.png'}")


Matrix = tuple[Sequence[str], np.ndarray, int | np.ndarray]
"""Rows, accuracies `[seed row data]`, and what of their mean to compare with: a row, or an entry of each column."""


def scales_matrix(results: Results, data: Sequence[str], seeds: int, start: str) -> Matrix:
    """Accuracy by data set that λ was learned on and data set that it is applied to; zero-shot first."""

    def row(name: str, seed: int) -> list[float]:
        if name == "zero-shot":
            found = results[f"zero-shot: {seed}"]
        else:
            found = results[f"λ of {name}, {start}: {seed}"]["accuracy"]
        return [found[task] for task in data]

    rows = ("zero-shot", *data)
    return rows, np.array([[row(name, seed) for name in rows] for seed in range(seeds)]), 0


def bases_matrix(results: Results, data: Sequence[str], seeds: int) -> Matrix:
    """Accuracy by data set that bases were fitted on and data set that λ is trained and tested on."""

    def entry(bases: str, task: str, seed: int) -> float:
        if bases == ALL:
            return results[f"λ of {task}, {NEUTRAL}: {seed}"]["accuracy"][task]
        return results[f"bases of {bases} for {task}: {seed}"]

    rows, n = (*data, ALL, TURNED), len(data)
    found = [[[entry(row, task, seed) for task in data] for row in rows] for seed in range(seeds)]
    return rows, np.array(found), (np.arange(n), np.arange(n))


def print_matrix(title: str, rows: Sequence[str], columns: Sequence[str], accuracies: np.ndarray) -> None:
    """Means over seeds in percent, as a table in Markdown."""
    mean = 100 * accuracies.mean(axis=0)
    print(f"\n{title}. Accuracy (%), mean over seeds", end="")
    if len(accuracies) > 1:
        print(f"; their standard deviation is {100 * accuracies.std(axis=0, ddof=1).mean():.1f} on average", end="")
    print(".\n\n| | " + " | ".join(map(short, columns)) + " |")
    print("|---|" + "--:|" * len(columns))
    for name, row in zip(rows, mean, strict=True):
        print(f"| {short(name)} | " + " | ".join(f"{value:.1f}" for value in row) + " |")


def print_starts(results: Results, data: Sequence[str], seeds: int) -> None:
    """Accuracy on the data set that λ was learned on, by start; and what is left of the start."""
    print("\nAccuracy (%) on shared bases by start of λ, mean ± standard deviation over seeds; at its start; cosine")
    print("between (λ − 1) √variance at its start and in the end; epoch of the best weights.\n")
    print(f"| start | {' | '.join(map(short, data))} | average | at its start | start left | epoch |")
    print("|---|" + "--:|" * (len(data) + 4))
    for start in STARTS:
        runs = [[results[f"λ of {task}, {start}: {seed}"] for task in data] for seed in range(seeds)]
        own = np.array([[run["accuracy"][task] for run, task in zip(row, data, strict=True)] for row in runs])
        begun, left, epoch = (
            np.mean([[run[name] for run in row] for row in runs]) for name in ("start", "start left", "best epoch")
        )
        spread = own.std(axis=0, ddof=1) if seeds > 1 else np.zeros(len(data))
        cells = [f"{100 * mean:.1f} ± {100 * sd:.1f}" for mean, sd in zip(own.mean(axis=0), spread, strict=True)]
        # λ = 1 has no direction to keep.
        direction = "" if "ones" in start else f"{left:.2f}"
        cells += [f"{100 * own.mean():.1f}", f"{100 * begun:.1f}", direction, f"{epoch:.0f}"]
        print(f"| {start} | {' | '.join(cells)} |")


def short(data: str) -> str:
    """Without what all attribute tasks have in common."""
    return data.removeprefix("attributes:")
