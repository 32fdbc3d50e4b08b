"""Spectra of units: how their variance is spread over principal components."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator

from residual_lens.activations import Store
from residual_lens.bases import Bases, fit_bases
from residual_lens.errors import InputError
from residual_lens.figures.cells import plain_bar, thinned
from residual_lens.figures.checks import numbers
from residual_lens.figures.look import (
    GREY,
    LINES,
    SEQUENTIAL,
    TITLE,
    axes_or_new,
    legend_beside,
    line_styles,
    plain_axes,
)
from residual_lens.units import Unit, Units

SMALLEST = 1e-6
"""Share of the variance at which a curve ends: what lies below is rounding."""


def spectra(
    source: Bases | Store, units: str | Iterable[str] = "heads", *, title: str = "", axes: Axes | None = None
) -> Axes:
    """Share of a unit's variance along each of its principal components, a line a unit, on a logarithmic scale.

    Up to seven units have a colour and marker each; of more, the colour tells the layer. Curves end where shares fall
    below 1e-6, which is what float32 leaves of zero.

    Args:
        source: of `fit_bases`; or a store, on which bases are fitted.
        units: which units, as for `Units.select`; of "all" those that the bases cover.
        title: stands above.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes. Components count from 1, shares are in percent.

    Raises:
        InputError: no such units, units that do not vary, or variances that are NaN.

    Example:
        >>> import torch
        >>> from residual_lens import HookedViT
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(64, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> axes = spectra(fit_bases(hvit, hvit.normalize(images), units="L5"), ["L5H2", "L5H3"])
        >>> [line.get_label() for line in axes.lines], len(axes.lines[0].get_xdata()) <= hvit.cfg.d_head + 1
        (['L5H2', 'L5H3'], True)
    """
    bases = fit_bases(source, units=units) if isinstance(source, Store) else source
    chosen = _chosen(bases, units)
    curves = {unit.name: _shares(bases, unit.name) for unit in chosen}
    axes = axes_or_new(axes)
    few = len(curves) <= len(LINES)
    shades = _shades(chosen)
    of_layers = {unit.name: {"color": GREY if unit.layer is None else shades[unit.layer]} for unit in chosen}
    looks = line_styles(curves) if few else of_layers
    for name, shares in curves.items():
        places = range(1, len(shares) + 1)
        (line,) = axes.plot(places, 100 * shares, label=name, **looks[name])
        line.set(**({"markersize": 4, "linewidth": 1.4} if few else {"linewidth": 0.9, "alpha": 0.8}))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("principal component")
    axes.set_ylabel("share of the unit's variance (%)")
    axes.set_title(title, **TITLE)
    plain_axes(axes)
    if few:
        legend_beside(axes)
    else:
        _layer_bar(axes, shades)
    return axes


def _chosen(bases: Bases, units: str | Iterable[str]) -> tuple[Unit, ...]:
    covered = Units(Unit.named(name) for name in bases)
    chosen = covered.select(units)
    if not chosen:
        raise InputError(f"No units were chosen; the bases cover {', '.join(bases)}.")
    return chosen


def _shares(bases: Bases, name: str) -> Float[np.ndarray, "component"]:
    basis = bases[name]
    variances = numbers(basis.variances, f"variances of {name}", 1)
    if not basis.total_variance > 0:
        raise InputError(f"{name} does not vary, so that it has no spectrum: leave it out.")
    shares = variances / basis.total_variance
    return shares[shares >= SMALLEST]


def _shades(units: Iterable[Unit]) -> dict[int, Float[np.ndarray, "4"]]:
    """Colours of the layers from dark (the first) to light."""
    layers = sorted({unit.layer for unit in units if unit.layer is not None})
    # The lightest colours of the map are too pale for lines on white.
    return dict(zip(layers, colormaps[SEQUENTIAL](np.linspace(0, 0.88, len(layers))), strict=True))


def _layer_bar(axes: Axes, shades: Mapping[int, Float[np.ndarray, "4"]]) -> None:
    norm = BoundaryNorm(np.arange(len(shades) + 1) - 0.5, len(shades))
    mappable = ScalarMappable(norm, ListedColormap(list(shades.values())))
    bar = axes.figure.colorbar(mappable, ax=axes, label="layer", shrink=0.8)
    layers, places = list(shades), thinned(range(len(shades)))
    bar.set_ticks(places, labels=[str(layers[place]) for place in places])
    bar.ax.tick_params(length=0)
    plain_bar(bar)
