"""The figure shows every task and unit, and renders without a warning."""

import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from residual_lens.report import demo_figure
from residual_lens.report.figure import STYLES
from tests.report.results import ACCURACIES, METHODS, made_up_results

CHANGE = np.arange(12.0).reshape(3, 4) / 66
"""Three layers of three heads and an MLP."""


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_it_renders_to_a_png_without_warnings(tmp_path, n_tasks):
    backend = matplotlib.get_backend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        demo_figure(made_up_results(n_tasks), CHANGE, title="ResiDual on a tiny one").savefig(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG"
        assert image.width > 800
        assert len(np.unique(np.asarray(image.convert("L")))) > 50
    assert matplotlib.get_backend() == backend


def test_every_task_method_and_unit_is_named():
    results = made_up_results()
    figure = demo_figure(results, CHANGE, title="ResiDual on a tiny one")
    left, right = figure.axes[:2]
    assert {label.get_text() for label in left.get_yticklabels()} == set(ACCURACIES)
    (legend_box,) = figure.legends
    legend = [text.get_text() for text in legend_box.get_texts()]
    assert set(legend) == {*METHODS, "chance"}
    assert len(legend) == len(set(legend))
    assert [label.get_text() for label in right.get_xticklabels()] == ["0", "1", "2", "MLP"]
    assert [label.get_text() for label in right.get_yticklabels()] == ["0", "1", "2"]
    assert {text.get_text() for text in right.texts} == {f"{100 * share:.1f}" for share in CHANGE.ravel()}
    assert figure.get_suptitle() == "ResiDual on a tiny one"


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_the_legend_covers_neither_axes_nor_their_labels(n_tasks):
    figure = demo_figure(made_up_results(n_tasks), CHANGE, title="")
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    for axes in figure.axes[:2]:
        assert not legend.overlaps(axes.get_tightbbox())


def test_tasks_that_gained_most_stand_on_top_with_each_accuracy_in_its_place():
    left = demo_figure(made_up_results(), CHANGE, title="").axes[0]
    order = [label.get_text() for label in left.get_yticklabels()]
    assert order == ["digits", "attributes:colour", "attributes:shape@sketch"]
    assert left.yaxis_inverted()
    for column, method in enumerate(METHODS):
        points = [line for line in left.lines if line.get_label() == method]
        drawn = {order[round(y)]: x for line in points for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
        assert drawn == pytest.approx({task: 100 * accuracies[column] for task, accuracies in ACCURACIES.items()})


def test_methods_are_told_apart_by_colour_and_by_marker():
    colours, markers = zip(*((style["color"], style["marker"]) for style in STYLES.values()), strict=True)
    assert set(STYLES) == set(METHODS)
    assert len(set(colours)) == len(set(markers)) == len(METHODS)


def test_a_change_of_zero_everywhere_is_drawn_without_warnings(tmp_path):
    demo_figure(made_up_results(1), np.zeros((3, 4)), title="").savefig(tmp_path / "figure.png")
