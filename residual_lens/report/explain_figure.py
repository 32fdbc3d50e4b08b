"""The figure of `residual-lens explain`: which units λ amplifies, which components matter, what they say."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from residual_lens.figures.comparison import comparison
from residual_lens.figures.curves import AccuracyCurve, accuracy_curves
from residual_lens.figures.look import Style, new_figure
from residual_lens.figures.unit_maps import scales
from residual_lens.report.explain import has_texts, scaled, title
from residual_lens.report.explanation import Explanation

MOST_COMPONENTS = 12
"""Components in the lower panel."""
N_TEXTS = 3
"""Texts beside a component, at each end."""
LOOKS: Sequence[Style] = ({"color": "#000000", "marker": "o"}, {"color": "#0072B2", "marker": "D"})
"""Of energies before and after."""


def explanation_figure(explanation: Explanation) -> Figure:
    """Factors by layer and head, the pruning curves, and the components of largest change with their texts.

    Args:
        explanation: of `residual_lens.explain.explain`.
    """
    n_components = min(MOST_COMPONENTS, len(explanation.components))
    figure = new_figure(13.0, 5.4 + 0.3 * n_components, title=title(explanation))
    grid = figure.add_gridspec(2, 2, height_ratios=(4.2, 1.2 + 0.3 * n_components))
    scales(
        {one.unit: one.factor for one in explanation.units},
        title="Factor on each unit's size: red amplified, blue silenced",
        axes=figure.add_subplot(grid[0, 0]),
    )
    pruning_panel(figure.add_subplot(grid[0, 1]), explanation)
    components = figure.add_subplot(grid[1, 0])
    components_panel(components, explanation)
    if has_texts(explanation):
        texts_panel(figure.add_subplot(grid[1, 1], sharey=components), explanation)
    return figure


def pruning_panel(axes: Axes, explanation: Explanation) -> None:
    """Accuracy by number of components that keep their λ, an order a line."""
    levels = {"zero-shot": explanation.zero_shot}
    if explanation.reached is not None:
        gain = explanation.learned - explanation.unscaled
        share = f"{100 * explanation.share_of_gain:.0f} % of the gain over λ = 1"
        levels[share] = explanation.unscaled + explanation.share_of_gain * gain
    accuracy_curves(
        {curve.order: AccuracyCurve(curve.accuracy, curve.low, curve.high) for curve in explanation.curves},
        [f"{k:,}" for k in explanation.kept],
        levels=levels,
        x_label="components that keep their λ (all others: λ = 1)",
        title="How few components carry the gain",
        axes=axes,
    )
    for tick in axes.get_xticklabels():
        tick.set(rotation=45, ha="right", rotation_mode="anchor")
    # The part of the scale where something happens.
    axes.autoscale(axis="y")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, min(top, 100 + (top - bottom) / 20))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    # Curves that gain begin low, others high.
    place = "lower left" if explanation.reached is None else "upper left"
    axes.legend(fontsize=8, title="ordered by", title_fontsize=8, alignment="left", loc=place, edgecolor="none")


def components_panel(axes: Axes, explanation: Explanation) -> None:
    """Share of energy of the components of largest change before and after."""
    before, after = "λ = 1", scaled(explanation)
    comparison(
        {
            f"{one.unit}:{one.component}": {before: one.before.own, after: one.after.own}
            for one in explanation.components[:MOST_COMPONENTS]
        },
        ends=(before, after),
        label="share of the embedding's second moment (%)",
        title="Components of largest change: energy before and after",
        styles=dict(zip((before, after), LOOKS, strict=True)),
        axes=axes,
    )
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def texts_panel(axes: Axes, explanation: Explanation) -> None:
    """λ and texts of the same components, in columns."""
    axes.set_axis_off()
    columns = {0.0: "λ", 0.09: "texts along it", 0.55: "texts against it"}
    for x, name in columns.items():
        axes.annotate(name, (x, 1.02), xycoords="axes fraction", fontsize=9, color="#666666")
    for row, one in enumerate(explanation.components[:MOST_COMPONENTS]):
        texts = (", ".join(texts[:N_TEXTS]) for texts in (one.positive, one.negative))
        cells = (f"{one.scale:.1f}".replace("-", "−"), *texts)
        for x, cell in zip(columns, cells, strict=True):
            place = {"xycoords": axes.get_yaxis_transform(), "va": "center", "parse_math": False}
            axes.annotate(cell, (x, row), fontsize=8, **place)
