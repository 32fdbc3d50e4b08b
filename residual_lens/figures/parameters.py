"""What accuracy costs in numbers that are trained."""

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from residual_lens.errors import InputError
from residual_lens.figures.look import TITLE, WIDTH, axes_or_new, legend_beside, plain_axes, point_styles


@dataclass(frozen=True)
class Trained:
    """What a method reaches."""

    parameters: int
    """Numbers trained."""
    accuracy: float
    """In [0, 1]; the mean, if there are several runs."""
    sd: float = 0.0
    """Standard deviation over runs; 0 of a single one."""


def accuracy_by_parameters(
    methods: Mapping[str, Trained], *, label: str = "test accuracy (%)", title: str = "", axes: Axes | None = None
) -> Axes:
    """A point a method: accuracy with its standard deviation by the numbers trained, on a logarithmic scale.

    Zero stands left of one.

    Args:
        methods: by name.
        label: of the accuracies.
        title: stands above.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: no methods, counts below zero, accuracies outside [0, 1], deviations below zero, or more methods
            than can be told apart.

    Example:
        >>> found = {"zero-shot": Trained(0, 0.71), "coarse": Trained(36, 0.8, 0.01), "residual": Trained(4296, 0.96)}
        >>> axes = accuracy_by_parameters(found)
        >>> axes.get_xscale(), [text.get_text() for text in axes.get_legend().get_texts()]
        ('symlog', ['zero-shot', 'coarse', 'residual'])
    """
    if not methods:
        raise InputError("There is no method to draw: give at least one.")
    for name, one in methods.items():
        # Written so that NaN is refused as well.
        if not (one.parameters >= 0 and 0 <= one.accuracy <= 1 and one.sd >= 0):
            raise InputError(
                f"{name}: expected parameters of at least 0, an accuracy in [0, 1] and a deviation of at least 0, got "
                f"{one}."
            )
    looks = point_styles(methods)
    axes = axes_or_new(axes, WIDTH + 1.2)
    for name, one in methods.items():
        axes.errorbar(
            one.parameters, 100 * one.accuracy, yerr=100 * one.sd, capsize=2, markersize=6, label=name, **looks[name]
        )
    axes.set_xscale("symlog", linthresh=1)
    most = max(one.parameters for one in methods.values())
    axes.set_xlim(-0.5, max(2.0, 3.0 * most))
    axes.xaxis.set_major_formatter(FuncFormatter(_count))
    axes.set_xlabel("numbers trained")
    axes.set_ylabel(label)
    axes.set_title(title, **TITLE)
    plain_axes(axes, "both")
    legend_beside(axes)
    return axes


def _count(value: float, _: int) -> str:
    """0, 1, 10 … 1k, 10k … 1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
