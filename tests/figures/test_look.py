"""Colours are told apart without red or green, numbers are legible on them, every name has a look of its own."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from residual_lens.errors import InputError
from residual_lens.figures.cells import Colours
from residual_lens.figures.look import (
    DASHES,
    DIVERGING,
    FILLS,
    LINES,
    SEQUENTIAL,
    legend_columns,
    level_styles,
    line_styles,
    new_figure,
    plain_axes,
    point_styles,
)

# Machado, Oliveira & Fernandes 2009, table 1, severity 1.0: what linear RGB looks like without one sort of cone.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
DISTINCT = 10.0
"""Difference in CIELAB from which colours are told apart beside each other; just noticeable is 2.3."""


def linear(colour: str | tuple) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB, D65."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x, y, z = (np.array(to_xyz) @ rgb.clip(0, 1)) / (0.95047, 1.0, 1.08883)
    x, y, z = (t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_of_lines_are_distinct_to_the_colour_blind(blindness):
    seen = {colour: lab(np.array(BLINDNESS[blindness]) @ linear(colour)) for colour, _ in LINES}
    differences = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in combinations(seen, 2)}
    assert min(differences.values()) > DISTINCT, min(differences, key=lambda pair: differences[pair])


def test_red_and_green_would_not_pass():
    red, green = (lab(np.array(BLINDNESS["deuteranopia"]) @ linear(colour)) for colour in ("#d0104c", "#5b6b12"))
    assert np.linalg.norm(red - green) < 2 * DISTINCT


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_of_differences_have_two_hues_and_those_of_amounts_one_direction(blindness):
    matrix = np.array(BLINDNESS[blindness])
    low, high = (lab(matrix @ linear(tuple(colormaps[DIVERGING](end)[:3]))) for end in (0.1, 0.9))
    assert np.linalg.norm(low - high) > 5 * DISTINCT
    lightness = [lab(matrix @ linear(tuple(colormaps[SEQUENTIAL](x)[:3])))[0] for x in np.linspace(0, 1, 20)]
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize(
    ("styles", "what", "options"), [(line_styles, "lines", DASHES), (point_styles, "points", FILLS)]
)
def test_every_name_has_a_look_of_its_own(styles, what, options):
    most = len(LINES) * len(options)
    found = styles(map(str, range(most)))
    assert len({tuple(sorted(style.items())) for style in found.values()}) == most
    assert len({(style["color"], style["marker"]) for style in found.values()}) == len(LINES)
    assert list(styles(["a", "b", "a"])) == ["a", "b"]
    with pytest.raises(InputError, match=f"tells {most} {what} apart, got {most + 1}: draw several"):
        styles(map(str, range(most + 1)))


def test_levels_differ_in_their_dashes():
    assert len({style["linestyle"] for style in level_styles("abc").values()}) == 3
    with pytest.raises(InputError, match="tells 3 levels apart, got 4: a, b, c, d"):
        level_styles("abcd")


@pytest.mark.parametrize("colours", [Colours.amounts(0.0, 1.0), Colours.differences(1.0), Colours.factors(4.0)])
def test_numbers_can_be_read_on_every_colour(colours):
    low, high = (float(colours.norm.inverse(end)) for end in (0.0, 1.0))
    for value in np.linspace(low, high, 41):
        ground = linear(tuple(colormaps[colours.map](float(colours.norm(value)))[:3]))
        ink = linear(colours.ink(float(value)))
        bright, dark = sorted((float(colour @ (0.2126, 0.7152, 0.0722)) for colour in (ground, ink)), reverse=True)
        # WCAG 2: 3 for large text, 4.5 for small.
        assert (bright + 0.05) / (dark + 0.05) > 4


def test_the_middle_of_colours_is_0_of_differences_and_1_of_factors():
    assert float(Colours.differences(3.0).norm(0.0)) == 0.5
    assert float(Colours.factors(3.0).norm(1.0)) == pytest.approx(0.5)
    # What does not vary has a scale all the same.
    assert (Colours.differences(0.0).norm.vmin, Colours.differences(0.0).norm.vmax) == (-1, 1)
    assert (Colours.amounts(2.0, 2.0).norm.vmin, Colours.amounts(2.0, 2.0).norm.vmax) == (2, 3)


def test_legends_have_as_many_columns_as_fit():
    assert legend_columns(["a" * 13, "b"], 100) == 5
    assert legend_columns(["a" * 200], 100) == 1
    assert legend_columns([], 100) == 14


def test_plain_axes_have_a_grid_behind_the_data_and_two_sides():
    axes = new_figure(title="t").subplots()
    plain_axes(axes, "x")
    assert [side for side, spine in axes.spines.items() if spine.get_visible()] == ["left", "bottom"]
    assert axes.get_axisbelow()
    assert [line.get_visible() for line in axes.get_ygridlines()][:1] == [False]
    assert axes.get_xgridlines()[0].get_visible()
    assert axes.figure.get_suptitle() == "t"
