"""What a trained ResiDual learned, as tables for the terminal and for pages."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from residual_lens.report.explanation import Energy, ExplainedComponent, ExplainedUnit, Explanation

MOST_ROWS = 20
"""Units in a table, those of largest change; the JSON file has all."""
UNIT_COLUMNS = ("unit", "factor", "change", "energy", "cross", "says before", "says after")
COMPONENT_COLUMNS = ("component", "λ", "change", "energy", "cross", "texts along it", "texts against it")
TEXTS_FROM = 5
"""The columns from here on hold texts."""
BRACKETS = (
    " In brackets: share of the unit's variance (%) that its texts explain; whether chance would explain as much, "
    "`residual-lens describe` tells."
)


def explanation_tables(explanation: Explanation) -> Group:
    """The headline, then units and components of largest change, then what the columns mean.

    Args:
        explanation: of `residual_lens.explain.explain`.
    """
    tables = [_table(columns, rows) for columns, rows in _content(explanation)]
    return Group(escape(headline(explanation)), *tables, escape(_legend(explanation)))


def explanation_markdown(explanation: Explanation) -> str:
    """The same as Markdown, with the pruning curves as a third table.

    Args:
        explanation: of `residual_lens.explain.explain`.
    """
    curves = [
        (
            curve.order,
            *(_accuracy(*values) for values in zip(curve.accuracy, curve.low, curve.high, strict=True)),
        )
        for curve in explanation.curves
    ]
    parts = [
        headline(explanation),
        *(_markdown(columns, rows, TEXTS_FROM) for columns, rows in _content(explanation)),
        _legend(explanation),
        "Accuracy (%) when the first components of an order keep their λ and all others have λ = 1; for random orders "
        "the mean, and the least and the most over seeds:",
        _markdown(("order", *(f"{k:,}" for k in explanation.kept)), curves, len(explanation.kept) + 1),
    ]
    return "\n\n".join(parts) + "\n"


def largest_units(explanation: Explanation) -> list[ExplainedUnit]:
    """The units of largest change, the largest first."""
    return sorted(explanation.units, key=lambda one: -one.change)[:MOST_ROWS]


def title(explanation: Explanation) -> str:
    """Which adapter on what."""
    about = explanation.about
    untrained = ", λ as they began" if explanation.epochs_without_gain else ""
    return f"{about['variant']} on {about['model']}, {about['data']}{untrained}"


def scaled(explanation: Explanation) -> str:
    """What the adapter with its own λ is called."""
    return "λ as begun" if explanation.epochs_without_gain else "λ as learned"


def headline(explanation: Explanation) -> str:
    """What the run is worth, and how few components are behind it."""
    accuracies = {
        "zero-shot": explanation.zero_shot,
        "λ = 1": explanation.unscaled,
        scaled(explanation): explanation.learned,
    }
    said = ", ".join(f"{name} {100 * accuracy:.1f} %" for name, accuracy in accuracies.items())
    total = explanation.kept[-1]
    if explanation.reached is None:
        few = "λ gains nothing over λ = 1, so that no component is behind a gain."
    else:
        few = (
            f"{explanation.reached:,} of {total:,} components, those of largest change, reach "
            f"{100 * explanation.share_of_gain:.0f} % of the gain over λ = 1; from {explanation.held:,} on, any number "
            "of them does."
        )
    return f"{title(explanation)} ({explanation.n_samples:,} samples): {said}. {_start(explanation)}{few}"


def has_texts(explanation: Explanation) -> bool:
    """Whether there was a dictionary to describe with."""
    return explanation.about["dictionary"] is not None


def _content(explanation: Explanation) -> list[tuple[Sequence[str], list[Sequence[str]]]]:
    """Columns and rows of both tables."""
    units = [_unit_cells(one) for one in largest_units(explanation)]
    components = [_component_cells(one) for one in explanation.components]
    width = None if has_texts(explanation) else TEXTS_FROM
    tables = ((UNIT_COLUMNS, units), (COMPONENT_COLUMNS, components))
    return [(columns[:width], [row[:width] for row in rows]) for columns, rows in tables]


def _unit_cells(one: ExplainedUnit) -> tuple[str, ...]:
    says = [", ".join(label.texts) or "does not vary" for label in (one.says_before, one.says_after)]
    shares = [f" ({_percent(label.explained)})" if label.texts else "" for label in (one.says_before, one.says_after)]
    return (
        one.unit,
        _factor(one.factor),
        _percent(one.change),
        *_energies(one.before, one.after),
        *(f"{text}{share}" for text, share in zip(says, shares, strict=True)),
    )


def _component_cells(one: ExplainedComponent) -> tuple[str, ...]:
    return (
        f"{one.unit}:{one.component}",
        _factor(one.scale),
        _percent(one.change),
        *_energies(one.before, one.after),
        ", ".join(one.positive),
        ", ".join(one.negative),
    )


def _energies(before: Energy, after: Energy) -> tuple[str, str]:
    pairs = (before.own, after.own), (before.cross, after.cross)
    energy, cross = (f"{_percent(one)} → {_percent(two)}" for one, two in pairs)
    return energy, cross


def _factor(value: float) -> str:
    return f"{value:.2f}"


def _percent(share: float) -> str:
    # No minus before a zero.
    return f"{round(100 * share, 1) + 0.0:.1f}"


def _accuracy(mean: float, low: float, high: float) -> str:
    return _percent(mean) if low == high else f"{_percent(mean)} ({_percent(low)}–{_percent(high)})"


def _legend(explanation: Explanation) -> str:
    before, after = (
        f"{_percent(rest.own)} and {_percent(rest.cross)}" for rest in (explanation.rest_before, explanation.rest_after)
    )
    changed = sum(one.change for one in explanation.components)
    return (
        "factor: √ of what λ makes of the unit's energy, above 1 amplified, below 1 silenced; λ below 0 turns a "
        "component round. change (%): of Σ (λ − 1)² variance. energy and cross (%): of the embedding's second moment, "
        f"with λ = 1 → {scaled(explanation).removeprefix('λ ')}; all that is not rescaled has {before} → {after}. The "
        f"{len(explanation.components)} components shown make up {_percent(changed)} % of the change, the "
        f"{len(largest_units(explanation))} units {_percent(sum(one.change for one in largest_units(explanation)))} %."
        + BRACKETS
        * has_texts(explanation)
    )


def _start(explanation: Explanation) -> str:
    """How far λ are those of the start."""
    is_random = explanation.began_at_random
    if epochs := explanation.epochs_without_gain:
        at = ", at 1 + N(0, 1)" if is_random else ""
        return f"None of {epochs} epochs was better than the untrained start: λ are as they began{at}. "
    return "λ began at 1 + N(0, 1): a part of |λ − 1| is the start's. " if is_random else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for place, name in enumerate(columns):
        if place >= TEXTS_FROM:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], texts_from: int) -> str:
    """A table; its first column and those from `texts_from` on are texts, the others numbers."""
    rules = ["---" if place == 0 or place >= texts_from else "--:" for place in range(len(columns))]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])
