"""The figure of dimensions shows every model, data set and measure, and renders without a warning."""

import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from residual_lens.dimensions import UnitDimensions
from residual_lens.errors import InputError
from residual_lens.figures.dimensions import MEASURES
from residual_lens.figures.look import DASHES, LINES
from residual_lens.report import dimensions_figure
from residual_lens.report.dimensions import SHOWN


def head(name: str, linear: int = 12, two_nn: float = 6.0, n_samples: int = 1437) -> UnitDimensions:
    return UnitDimensions(name, n_samples, linear, two_nn, 0.1, 0, 3.0, 0.4)


def heads(layers: int = 3, per_layer: int = 2, **measures) -> list[UnitDimensions]:
    return [head(f"L{layer}H{index}", 10 + layer, **measures) for layer in range(layers) for index in range(per_layer)]


def legend_of(figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def assert_renders(figure, path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(path / "figure.png")
    with Image.open(path / "figure.png") as image:
        assert image.width > 800
        assert len(np.unique(np.asarray(image.convert("L")))) > 50


def test_it_renders_to_a_png_without_warnings(tmp_path):
    backend = matplotlib.get_backend()
    results = {f"model {index}": {"digits": heads(), "random": heads()} for index in range(2)}
    assert_renders(dimensions_figure(results), tmp_path)
    assert matplotlib.get_backend() == backend


def test_every_model_data_set_and_measure_is_named():
    results = {"clip-b": {"digits": heads()}, "clip-l": {"random": heads(layers=4), "digits": heads(n_samples=90)}}
    figure = dimensions_figure(results, share=0.9)
    assert legend_of(figure) == ["digits (n = 90, 1,437)", "random (n = 1,437)"]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    first, *others = (MEASURES[name].title for name in SHOWN)
    assert titles == [f"clip-b\n{first}", *others, f"clip-l\n{first}", *others]
    assert figure.axes[0].get_ylabel() == "components with 90 % of the variance"
    assert [len(axes.lines) for axes in figure.axes] == [1] * 4 + [2] * 4
    assert {axes.get_xlabel() for axes in figure.axes} == {"layer"}


def test_lines_are_means_and_bands_the_range_of_a_layers_heads():
    two_layers = [head("L3H0", 10, 5.0), head("L3H1", 14, 7.0), head("L1H0", 8, 2.0)]
    figure = dimensions_figure({"tiny": {"digits": two_layers}})
    drawn = {name: axes.lines[0].get_xydata().tolist() for name, axes in zip(SHOWN, figure.axes, strict=True)}
    assert drawn["linear"] == [[1, 8], [3, 12]]
    assert drawn["two_nn"] == [[1, 2], [3, 6]]
    assert drawn["linear_over_two_nn"] == [[1, 4], [3, 2]]
    assert drawn["first_share"] == [[1, 40], [3, 40]]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in band} == {(1, 8), (3, 10), (3, 14)}


@pytest.mark.parametrize("still", [["L0H0", "L0H1"], [each.unit for each in heads()]])
def test_heads_that_do_not_vary_have_no_ratio_and_raise_no_warning(still, tmp_path):
    mixed = [head(each.unit, 0, 0.0) if each.unit in still else each for each in heads()]
    figure = dimensions_figure({"tiny": {"digits": mixed}})
    assert_renders(figure, tmp_path)
    ratios = figure.axes[2].lines[0].get_xydata()
    assert len(ratios) == {2: 2, 6: 0}[len(still)]
    assert np.isfinite(ratios).all()
    assert len(figure.axes[1].lines[0].get_xydata()) == 3


def test_many_data_sets_have_a_line_each_that_no_other_has():
    names = [f"data {index}" for index in range(len(LINES) * len(DASHES))]
    figure = dimensions_figure({"tiny": {name: heads(2, 1) for name in names}})
    assert legend_of(figure) == [f"{name} (n = 1,437)" for name in names]
    for axes in figure.axes:
        looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}
        assert len(looks) == len(names)
        assert len(axes.collections) == len(names)


def test_a_data_set_looks_the_same_for_every_model_and_in_the_legend():
    results = {"one": {"digits": heads(), "random": heads()}, "other": {"random": heads()}}
    figure = dimensions_figure(results)
    (legend,) = figure.legends
    handles = zip(legend.texts, legend.legend_handles, strict=True)
    colours = {text.get_text()[:6]: handle.get_color() for text, handle in handles}
    for axes in figure.axes:
        assert {line.get_label(): line.get_color() for line in axes.lines}.items() <= colours.items()


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, "at least one data set for each of at least one model"),
        ({"tiny": {}}, "at least one data set for each of at least one model"),
        ({"tiny": {"digits": [head("embed")]}}, "embed belongs to none"),
        ({"tiny": {str(index): heads(1, 1) for index in range(22)}}, "tells 21 lines apart, got 22"),
    ],
)
def test_what_cannot_be_drawn_is_refused(results, message):
    with pytest.raises(InputError, match=message):
        dimensions_figure(results)


def test_the_legend_covers_neither_axes_nor_their_labels():
    names = [f"attributes:shape@lowcontrast {index}" for index in range(8)]
    figure = dimensions_figure({"tiny": {name: heads() for name in names}})
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
