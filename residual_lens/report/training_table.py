"""The paper's table: how well each way to use a frozen model does, over data sets and seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from residual_lens.errors import InputError

Result = Mapping[str, Any]
"""`model`, `data`, `method`, `seed`, `test_accuracy`, `parameters`, `seconds` of a run, and its other `options`."""

Options = frozenset[tuple[str, str]]
"""Settings beside these four, with their values."""
MISSING, PARTIAL = "–", "†"
"""Stand for a cell without runs, and behind one that lacks seeds."""


@dataclass(frozen=True)
class Cell:
    """Accuracy over seeds."""

    mean: float
    """In [0, 1]."""
    sd: float | None
    """Standard deviation over seeds, with n − 1; `None` of a single one."""
    n_seeds: int
    """How many."""
    complete: bool
    """Whether no seed is missing."""

    @classmethod
    def of(cls, accuracies: Sequence[float], expected: int) -> "Cell | None":
        """From one accuracy a seed; `None` from none."""
        if not accuracies:
            return None
        sd = stdev(accuracies) if len(accuracies) > 1 else None
        return cls(fmean(accuracies), sd, len(accuracies), len(accuracies) == expected)

    @property
    def text(self) -> str:
        """In percent."""
        spread = "" if self.sd is None else f" ± {100 * self.sd:.1f}"
        return f"{self.percent}{spread}{'' if self.complete else PARTIAL}"

    @property
    def percent(self) -> str:
        """The mean as it is shown, and as the best of a column is found."""
        return f"{100 * self.mean:.1f}"


@dataclass(frozen=True)
class Row:
    """A method."""

    label: str
    """Its name, and the options that not all rows share."""
    cells: tuple[Cell | None, ...]
    """By data set, then their average: over the seeds that have all data sets, `None` if there are none."""
    parameters: tuple[int, int]
    """Least and most of what was trained, over data sets."""
    seconds: float
    """Of training a run, mean."""


@dataclass(frozen=True)
class TrainingTable:
    """One model's results."""

    model: str
    """Its name."""
    data: tuple[str, ...]
    """Columns."""
    rows: tuple[Row, ...]
    """Methods."""
    options: str
    """What all runs share that is not the default."""
    n_runs: int
    """Results that the table is made of."""
    missing: tuple[str, ...]
    """Runs that are not there although others of their row or column are: method, data set, seed."""

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns."""
        return ("method", *self.data, "average", "parameters", "seconds")

    def body(self, written: Callable[[str], str], strong: Callable[[str], str]) -> list[list[str]]:
        """Cells as texts; the best of each column in bold.

        Args:
            written: escapes a text.
            strong: sets an escaped text in bold.
        """
        best = [
            max((cell.percent for cell in column if cell), key=float, default=None)
            for column in zip(*(row.cells for row in self.rows), strict=True)
        ]
        body = []
        for row in self.rows:
            least, most = row.parameters
            texts = [written(cell.text if cell else MISSING) for cell in row.cells]
            body.append(
                [
                    written(row.label),
                    *(
                        strong(text) if cell and cell.percent == highest else text
                        for text, cell, highest in zip(texts, row.cells, best, strict=True)
                    ),
                    written(f"{least:,}" if least == most else f"{least:,}–{most:,}"),
                    f"{row.seconds:.1f}",
                ]
            )
        return body

    @property
    def note(self) -> str:
        """What the numbers are, and what is missing."""
        seeds = sorted({cell.n_seeds for row in self.rows for cell in row.cells if cell})
        spread = f" ± standard deviation over {seeds[-1]} seeds" if seeds[-1] > 1 else ", one seed"
        options = f", with {self.options}" if self.options else ""
        runs = "1 run" if self.n_runs == 1 else f"{self.n_runs} runs"
        note = f"Test accuracy in percent{spread}; {runs}{options}."
        if not self.missing:
            return note
        named = "; ".join(self.missing[:10]) + ("; …" if len(self.missing) > 10 else "")
        return (
            f"{note} {len(self.missing)} of {self.n_runs + len(self.missing)} are missing ({MISSING}: all seeds of a "
            f"cell; {PARTIAL}: some; averages are over seeds that have every data set): {named}."
        )


def training_tables(
    results: Iterable[Result], *, methods: Sequence[str] = (), data: Sequence[str] = ()
) -> list[TrainingTable]:
    """One table a model: methods in rows, data sets and their average in columns.

    Runs of one method with different options are rows of their own. An average is taken over data sets only where all
    of them are there.

    Args:
        results: of training runs.
        methods: the order of rows; methods that are not in it come after.
        data: the order of columns, likewise.

    Raises:
        InputError: no results, or one run twice.

    >>> run = {"model": "clip-b", "method": "coarse", "seed": 0, "parameters": 144, "seconds": 2.0, "options": {}}
    >>> (table,) = training_tables([run | {"data": data, "test_accuracy": 0.5} for data in ("dtd", "svhn")])
    >>> table.body(str, str)
    [['coarse', '50.0', '50.0', '50.0', '144', '2.0']]
    """
    runs: dict[tuple, Result] = {}
    for result in results:
        key = (result["model"], result["method"], _options(result), result["data"], result["seed"])
        if key in runs:
            raise InputError(f"{_named(result)} came twice: give each folder of runs once.")
        runs[key] = result
    if not runs:
        raise InputError("No finished run was found: expected folders that `residual-lens train` wrote.")
    by_model: dict[str, list[Result]] = {}
    for result in runs.values():
        by_model.setdefault(result["model"], []).append(result)
    return [_table(model, found, methods, data) for model, found in sorted(by_model.items())]


def _table(model: str, results: list[Result], methods: Sequence[str], data: Sequence[str]) -> TrainingTable:
    columns = _in_order({result["data"] for result in results}, data)
    seeds = {result["seed"] for result in results if result["parameters"]}
    # A setting of all runs whose methods have a use for it.
    common = frozenset(
        option
        for option in frozenset.union(*map(_options, results))
        if all(option in _options(result) or option[0] in result.get("useless", ()) for result in results)
    )
    variants: dict[tuple[str, Options], list[Result]] = {}
    for result in results:
        variants.setdefault((result["method"], _options(result) - common), []).append(result)
    rows, missing = [], []
    for method in _in_order({method for method, _ in variants}, methods):
        for own in sorted((options for name, options in variants if name == method), key=_text):
            label = f"{method} ({_text(own)})" if own else method
            row, lacking = _row(label, variants[method, own], columns, seeds)
            rows.append(row)
            missing += lacking
    return TrainingTable(model, columns, tuple(rows), _text(common), len(results), tuple(missing))


def _row(label: str, results: list[Result], data: Sequence[str], seeds: set[int]) -> tuple[Row, list[str]]:
    """A row and the names of the runs it lacks."""
    # Seeds change nothing where nothing is trained.
    trained = any(result["parameters"] for result in results)
    expected = sorted(seeds if trained else {result["seed"] for result in results})
    accuracy = {(result["data"], result["seed"]): result["test_accuracy"] for result in results}
    cells = [
        Cell.of([accuracy[name, seed] for seed in expected if (name, seed) in accuracy], len(expected)) for name in data
    ]
    whole = [seed for seed in expected if all((name, seed) in accuracy for name in data)]
    averages = [fmean(accuracy[name, seed] for name in data) for seed in whole]
    counts = [result["parameters"] for result in results]
    row = Row(
        label,
        (*cells, Cell.of(averages, len(expected))),
        (min(counts), max(counts)),
        fmean(result["seconds"] for result in results),
    )
    lacking = [f"{label} on {name}, seed {seed}" for name in data for seed in expected if (name, seed) not in accuracy]
    return row, lacking


def _options(result: Result) -> Options:
    return frozenset((name, str(value)) for name, value in result["options"].items())


def _text(options: Options) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(options))


def _named(result: Result) -> str:
    return f"{result['method']} of {result['model']} on {result['data']} with seed {result['seed']}"


def _in_order(found: Iterable[str], order: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name)))
