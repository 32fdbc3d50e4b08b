"""Tables of units with the texts that describe them, for the terminal and for pages."""

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from residual_lens.descriptions import LABEL, SIGNIFICANT, Description, Descriptions

COLUMNS = ("unit", "first texts", "1", "5", "20", "chance", "p", "coherence", "p")
"""Shares of variance are of the first 1, 5 and 20 texts; chance is what 5 atoms of random dictionaries explain."""
NOTHING = "✗"
"""Stands before a label that means nothing."""


def descriptions_table(descriptions: Descriptions) -> Table:
    """One row a unit; those whose label is chance are dim and marked.

    Args:
        descriptions: of `describe`.
    """
    table = Table(
        title=escape(_title(descriptions)),
        caption=escape(_legend(descriptions)),
        title_justify="left",
        caption_justify="left",
    )
    table.box, table.padding, table.pad_edge = SIMPLE_HEAD, (0, 1, 0, 0), False
    for place, name in enumerate(COLUMNS):
        if place == 1:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for one in descriptions:
        table.add_row(*map(escape, _cells(one)), style=None if one.means_something else "dim")
    return table


def descriptions_markdown(descriptions: Descriptions) -> str:
    """The same as a table of Markdown.

    Args:
        descriptions: of `describe`.
    """
    lines = [
        _title(descriptions),
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|---|{'--:|' * (len(COLUMNS) - 2)}",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in _cells(one))} |" for one in descriptions),
        "",
        _legend(descriptions),
    ]
    return "\n".join(lines) + "\n"


def _cells(one: Description) -> tuple[str, ...]:
    label = ", ".join(one.texts[:LABEL]) or "does not vary"
    return (
        one.unit,
        label if one.means_something else f"{NOTHING} {label}",
        *(f"{100 * one.explained_by(n):.0f}" for n in (1, 5, 20)),
        f"{100 * one.fit.mean:.0f} ± {100 * one.fit.sd:.0f}",
        f"{one.fit.p:.3f}",
        f"{one.coherence.score:.2f}",
        f"{one.coherence.p:.3f}",
    )


def _title(descriptions: Descriptions) -> str:
    made = descriptions.provenance
    store, dictionary = made["store"], made["dictionary"]
    return (
        f"{store['model']} on {store['data']}/{store['split']} ({made['n_samples']:,} samples), in "
        f"{made['n_texts']:,} texts of {dictionary.get('source', 'an unknown source')}"
    )


def _legend(descriptions: Descriptions) -> str:
    n = len(descriptions)
    chance = [one.unit for one in descriptions if not one.means_something]
    return (
        f"Share of variance (%) that the first 1, 5 and 20 texts explain; chance: the first {LABEL} atoms of "
        f"{descriptions.provenance['n_null']} random dictionaries. {NOTHING}: a label that means nothing (p > "
        f"{SIGNIFICANT}), {len(chance)} of {n} here; of units that say nothing about 1 in "
        f"{1 / SIGNIFICANT:.0f} passes all the same."
    )
