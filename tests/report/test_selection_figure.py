"""The figure of accuracies shows every curve with its band, every level once, and renders without a warning."""

import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from residual_lens.errors import InputError
from residual_lens.figures import AccuracyCurve
from residual_lens.figures.look import LEVEL_DASHES, LINES
from residual_lens.report.selection import AccuracyPanel, selection_figure

TICKS = ("1", "4\n10 %", "36\n100 %")


def curve(start: float) -> AccuracyCurve:
    middle = np.linspace(start, 0.8, 3)
    return AccuracyCurve(middle.tolist(), (middle - 0.05).tolist(), (middle + 0.1).tolist())


def panel(title: str = "digits", **changes) -> AccuracyPanel:
    parts = {
        "x_label": "heads kept",
        "ticks": TICKS,
        "curves": {"supervised": curve(0.4), "random": curve(0.1)},
        "levels": {"all units": 0.9, "chance": 0.1},
    }
    return AccuracyPanel(title, **(parts | changes))


def test_it_renders_to_a_png_without_warnings(tmp_path):
    backend = matplotlib.get_backend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = {"digits": [panel("one"), panel("two")]}
        selection_figure(rows, title="tiny").savefig(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 800
        assert len(np.unique(np.asarray(image.convert("L")))) > 50
    assert matplotlib.get_backend() == backend


def test_every_panel_has_its_curves_bands_and_levels_in_percent():
    rows = {"digits": [panel("left"), panel("right", levels={"chance": 0.2})]}
    figure = selection_figure(rows, title="Heads of a tiny one")
    assert figure.get_suptitle() == "Heads of a tiny one"
    left, right = figure.axes
    assert (left.get_title("left"), right.get_title("left")) == ("left", "right")
    assert (left.get_ylabel(), right.get_ylabel()) == ("digits\naccuracy (%)", "")
    assert left.get_xlabel() == "heads kept"
    assert [label.get_text() for label in left.get_xticklabels()] == list(TICKS)
    all_units, chance, supervised, random = left.get_lines()
    assert [float(line.get_ydata()[0]) for line in (all_units, chance)] == pytest.approx([90, 10])
    for line, band, start in zip((supervised, random), left.collections, (0.4, 0.1), strict=True):
        expected = curve(start)
        assert line.get_ydata().tolist() == pytest.approx([100 * value for value in expected.accuracy])
        corners = band.get_paths()[0].vertices
        assert set(corners[:, 1].round(6)) == {round(100 * value, 6) for value in (*expected.low, *expected.high)}
        assert corners[:, 0].max() == 2
    assert float(right.get_lines()[0].get_ydata()[0]) == pytest.approx(20)


def test_a_name_has_one_style_in_the_whole_figure_and_one_entry_in_the_legend():
    other = panel("right", curves={"random": curve(0.3), "task": curve(0.2)}, levels={"chance": 0.3})
    figure = selection_figure({"digits": [panel(), other]}, title="")
    left, right = figure.axes
    assert [to_hex(line.get_color()).upper() for line in left.get_lines()[2:]] == [LINES[0][0], LINES[1][0]]
    assert [to_hex(line.get_color()).upper() for line in right.get_lines()[1:]] == [LINES[1][0], LINES[2][0]]
    assert left.get_lines()[1].get_linestyle() == right.get_lines()[0].get_linestyle() == LEVEL_DASHES[1]
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["supervised", "random", "task", "all units", "chance"]


def test_what_a_panel_shares_with_the_one_above_it_stands_once():
    rows = {
        "a": [panel("heads"), panel("all")],
        "b": [panel("heads"), panel("all", ticks=("1", "2", "3"))],
        "c": [panel("heads"), panel("other", x_label="layer", ticks=("1", "2", "3"))],
    }
    axes = selection_figure(rows, title="").axes
    assert [one.get_title("left") for one in axes] == ["heads", "all", "", "", "", "other"]
    assert [one.get_xlabel() for one in axes] == ["", "heads kept", "", "heads kept", "heads kept", "layer"]
    shown = [any(label.get_visible() and label.get_text() for label in one.get_xticklabels()) for one in axes]
    assert shown == [False, True, False, True, True, True]
    assert [one.get_ylabel() for one in axes[::2]] == [f"{name}\naccuracy (%)" for name in rows]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"rows of equally many panels, at least one, got \[\]"),
        ([[]], r"at least one, got \[0\]"),
        ([[panel(), panel()], [panel()]], r"at least one, got \[2, 1\]"),
        ([[panel(ticks=TICKS[:2])]], r"supervised has 3, 3, 3 values .* for 2 ticks"),
        ([[panel(curves={"a": AccuracyCurve([0.5] * 3, [0.4] * 2, [0.6] * 3)})]], "a has 2, 3, 3 values"),
        ([[panel(ticks=(), curves={"a": AccuracyCurve([], [], [])})]], "0 ticks, at least one"),
        ([[panel(curves={"a": AccuracyCurve([50.0] * 3, [40.0] * 3, [60.0] * 3)})]], r"a are shares in \[0, 1\]"),
        ([[panel(curves={"a": AccuracyCurve([np.nan] * 3, [0.1] * 3, [0.2] * 3)})]], r"a are shares in \[0, 1\]"),
        ([[panel(levels={"all units": 90.0})]], r"all units are shares in \[0, 1\], got 90"),
        ([[panel(levels=dict.fromkeys("abcd", 0.5))]], "tells 3 levels apart, got 4: a, b, c, d"),
    ],
)
def test_what_cannot_be_drawn_is_refused(rows, message):
    with pytest.raises(InputError, match=message):
        selection_figure({str(place): row for place, row in enumerate(rows)}, title="")
