"""The figure of `residual-lens explain`: which units λ amplifies, which components matter, what they say."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from residual_lens.report.explain import has_texts, title
from residual_lens.report.explanation import Explanation, PruningCurve
from residual_lens.report.look import line_styles, plain_axes
from residual_lens.units import Unit

MOST_NUMBERS = 150
"""Cells that have room for their value."""
MOST_COMPONENTS = 12
"""Components in the lower panel."""
N_TEXTS = 3
"""Texts beside a component, at each end."""
WIDEST = 4.0
"""The colours of factors end at least at this one and its inverse, so that small changes look small."""


def explanation_figure(explanation: Explanation) -> Figure:
    """Factors by layer and head, the pruning curves, and the components of largest change with their texts.

    Args:
        explanation: of `residual_lens.explain.explain`.
    """
    n_components = min(MOST_COMPONENTS, len(explanation.components))
    figure = Figure(figsize=(13, 5.4 + 0.3 * n_components), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title(explanation), x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(2, 2, height_ratios=(4.2, 1.2 + 0.3 * n_components))
    factors_panel(figure.add_subplot(grid[0, 0]), explanation)
    pruning_panel(figure.add_subplot(grid[0, 1]), explanation)
    components = figure.add_subplot(grid[1, 0])
    components_panel(components, explanation)
    if has_texts(explanation):
        texts_panel(figure.add_subplot(grid[1, 1], sharey=components), explanation)
    return figure


def factors_panel(axes: Axes, explanation: Explanation) -> None:
    """Layer × head heat map of the factors, the MLP of each layer set apart on the right."""
    named = [(Unit.named(one.unit), one.factor) for one in explanation.units]
    factors = {(unit.layer, unit.index): factor for unit, factor in named if unit.layer is not None}
    layers = max(layer for layer, _ in factors) + 1
    heads = max((head + 1 for _, head in factors if head is not None), default=0)
    has_mlps = any(head is None for _, head in factors)
    values = np.full((layers, heads + 2 * has_mlps), np.nan)
    for (layer, head), factor in factors.items():
        # An empty column sets MLPs apart.
        values[layer, heads + 1 if head is None else head] = factor
    largest = max(WIDEST, *(max(factor, 1 / factor) for factor in factors.values() if factor > 0))
    norm = LogNorm(1 / largest, largest)
    image = axes.imshow(values, cmap="RdBu_r", norm=norm, aspect="auto", origin="lower")
    if values.size <= MOST_NUMBERS:
        for (layer, column), factor in np.ndenumerate(values):
            if np.isfinite(factor):
                dark = abs(np.log(max(factor, 1 / largest))) > 0.6 * np.log(largest)
                colour = "white" if dark else "#222222"
                axes.text(column, layer, f"{factor:.2g}", ha="center", va="center", fontsize=8, color=colour)
    columns = {**{head: str(head) for head in range(heads)}, **({heads + 1: "MLP"} if has_mlps else {})}
    step = max(1, heads // 12)
    shown = [column for column in columns if column >= heads or column % step == 0]
    axes.set_xticks(shown, [columns[column] for column in shown])
    axes.set_yticks(range(0, layers, max(1, layers // 12)))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title("Factor on each unit's size: red amplified, blue silenced", loc="left", fontsize=11)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, format=FuncFormatter(lambda factor, _: f"{factor:g}"))
    bar.ax.minorticks_off()
    ends = [1 / largest, 1 / largest**0.5, 1, largest**0.5, largest]
    bar.set_ticks(ends, labels=[f"{end:.2g}" for end in ends])
    bar.outline.set_visible(False)


def pruning_panel(axes: Axes, explanation: Explanation) -> None:
    """Accuracy by number of components that keep their λ, an order a line."""
    places = range(len(explanation.kept))
    styles = line_styles(curve.order for curve in explanation.curves)
    for curve in explanation.curves:
        _curve(axes, list(places), curve, styles[curve.order])
    enough = explanation.unscaled + explanation.share_of_gain * (explanation.learned - explanation.unscaled)
    axes.axhline(100 * explanation.zero_shot, color="#777777", linestyle=":", linewidth=1.2, label="zero-shot")
    if explanation.reached is not None:
        share = f"{100 * explanation.share_of_gain:.0f} % of the gain over λ = 1"
        axes.axhline(100 * enough, color="#777777", linestyle="-.", linewidth=1.2, label=share)
    axes.set_xticks(places, [f"{k:,}" for k in explanation.kept], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("components that keep their λ (all others: λ = 1)")
    axes.set_ylabel("accuracy (%)")
    axes.set_title("How few components carry the gain", loc="left", fontsize=11)
    legend = axes.legend(fontsize=8, title="ordered by", title_fontsize=8, alignment="left", loc="upper left")
    legend.get_frame().set(linewidth=0, alpha=0.9)
    plain_axes(axes)


def _curve(axes: Axes, places: list[int], curve: PruningCurve, style: Mapping[str, Any]) -> None:
    low, middle, high = (100 * np.array(values) for values in (curve.low, curve.accuracy, curve.high))
    axes.fill_between(places, low, high, color=style["color"], alpha=0.14, linewidth=0)
    axes.plot(places, middle, markersize=5, linewidth=1.6, label=curve.order, **style)


def components_panel(axes: Axes, explanation: Explanation) -> None:
    """Share of energy of the components of largest change before and after."""
    shown = explanation.components[:MOST_COMPONENTS]
    for row, one in enumerate(shown):
        before, after = 100 * one.before.own, 100 * one.after.own
        axes.plot([before, after], [row, row], color="#0072B2", linewidth=3, alpha=0.25, solid_capstyle="butt")
        axes.plot(before, row, marker="o", color="#000000", fillstyle="none", markersize=7, linestyle="none")
        axes.plot(after, row, marker="D", color="#0072B2", markersize=6, linestyle="none")
    axes.plot([], [], marker="o", color="#000000", fillstyle="none", markersize=7, linestyle="none", label="λ = 1")
    axes.plot([], [], marker="D", color="#0072B2", markersize=6, linestyle="none", label="λ as learned")
    axes.set_yticks(range(len(shown)), [f"{one.unit}:{one.component}" for one in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("share of the embedding's second moment (%)")
    axes.set_title("Components of largest change: energy before and after", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


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
            axes.annotate(cell, (x, row), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8)
