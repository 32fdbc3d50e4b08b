"""Effect matrices and dots with intervals show what they are given, and refuse what cannot be drawn."""

import warnings

import numpy as np
import pytest
from PIL import Image

from residual_lens.errors import InputError
from residual_lens.report import effect_figure, interval_figure

NAMES = ("colour", "shape", "size")


def effects(n_maps: int = 2, **changes):
    values = {f"map {index}": np.eye(3) * (index + 1) - 0.01 for index in range(n_maps)}
    arguments = {"attributes": NAMES, "title": "tiny", "label": "points"} | changes
    certain = arguments.pop("certain", {name: np.eye(3, dtype=bool) for name in values})
    return effect_figure(values, arguments.pop("attributes"), certain=certain, **arguments)


def dots(**changes):
    rows = {"one head": {"a": (1.0, 0.5, 2.0), "b": (3.0, 2.0, 3.5)}, "two heads": {"a": (4.0, 3.0, 5.0)}}
    arguments = {"panels": {"left": rows, "right": rows}, "title": "tiny", "labels": ["points", "%"]}
    arguments |= {"random": {"left": {"one head": {"a": [0.1, 0.2]}}}} | changes
    return interval_figure(arguments.pop("panels"), **arguments)


@pytest.mark.parametrize("make", [effects, dots])
def test_it_renders_to_a_png_without_warnings(make, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make().savefig(tmp_path / "figure.png", dpi=50)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width == 700
        assert len(np.unique(np.asarray(image.convert("L")))) > 50


def test_maps_share_a_scale_that_is_symmetric_around_zero():
    figure = effects()
    limits = {image.get_clim() for axes in figure.axes[:2] for image in axes.collections}
    assert limits == {(-1.99, 1.99)}
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["map 0", "map 1"]
    np.testing.assert_allclose(figure.axes[1].collections[0].get_array(), 2 * np.eye(3) - 0.01)


def test_cells_say_their_value_and_whether_it_is_certain():
    axes = effects().axes[0]
    texts = {text.get_position(): text for text in axes.texts}
    assert {place: text.get_text() for place, text in texts.items() if place in [(0, 0), (1, 0)]} == {
        (0, 0): "1.0",
        (1, 0): "0.0",
    }
    assert {place for place, text in texts.items() if text.get_fontweight() == "bold"} == {(0, 0), (1, 1), (2, 2)}
    assert texts[1, 0].get_color() != texts[0, 0].get_color()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    assert {patch.get_xy() for patch in axes.patches} == {(-0.5, -0.5), (0.5, 0.5), (1.5, 1.5)}


def test_places_without_a_map_stay_empty():
    figure = effects(3)
    assert [axes.axison for axes in figure.axes] == [True, True, True, False, True]


def test_maps_of_nothing_have_a_scale():
    figure = effect_figure(
        {"still": np.zeros((3, 3))}, NAMES, certain={"still": np.zeros((3, 3), dtype=bool)}, title="t", label="l"
    )
    assert figure.axes[0].collections[0].get_clim() == (-1, 1)


def test_dots_intervals_and_draws_lie_where_their_numbers_say():
    axes = dots().axes[0]
    by_label = {line.get_label(): line for line in axes.lines}
    a, b = by_label["a"], by_label["b"]
    assert a.get_xdata().tolist() == [1, 4]
    assert b.get_xdata().tolist() == [3]
    assert a.get_ydata()[0] < b.get_ydata()[0] < 0.5 < a.get_ydata()[1]
    segments = [segment.tolist() for lines in axes.collections for segment in lines.get_segments()]
    assert [[x for x, _ in segment] for segment in segments] == [[0.5, 2], [3, 5], [2, 3.5]]
    assert [[y for _, y in segment] for segment in segments[:2]] == [[y, y] for y in a.get_ydata()]
    (draws,) = [line for line in axes.lines if list(line.get_xdata()) == [0.1, 0.2]]
    assert set(draws.get_ydata()) == {a.get_ydata()[0]}


def test_rows_begin_on_top_and_series_are_named_once():
    figure = dots()
    low, high = figure.axes[0].get_ylim()
    assert low > high
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one head", "two heads"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "random draws"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["points", "%"]


def test_a_panel_may_lack_rows_of_the_first():
    rows = {"one": {"a": (1.0, 0.0, 2.0)}, "two": {"a": (1.0, 0.0, 2.0)}}
    figure = interval_figure({"x": rows, "y": {"two": {"a": (5.0, 4.0, 6.0)}}}, title="t", labels=["", ""])
    (dot,) = [line for line in figure.axes[1].lines if line.get_label() == "a"]
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([5], [1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_maps": 0}, "at least one map of 3 × 3"),
        ({"attributes": NAMES[:2]}, "at least one map of 2 × 2"),
        ({"certain": {"map 0": np.eye(3, dtype=bool)}}, "a mask of which of them are certain"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        effects(**changes)


def test_maps_with_nan_are_refused():
    nan = {"map": np.full((3, 3), np.nan)}
    with pytest.raises(InputError, match="finite"):
        effect_figure(nan, NAMES, certain={"map": np.eye(3, dtype=bool)}, title="t", label="l")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panels": {}}, "at least one panel and a label for each, got 0 and 2"),
        ({"labels": ["points"]}, "got 2 and 1"),
        ({"panels": {"left": {}, "right": {}}}, "at least one; these are none"),
        ({"panels": {"left": {"a": {}}, "right": {"b": {}}}}, "rows of the first"),
        (
            {"panels": {"x": {"row": {str(i): (0.0, 0.0, 0.0) for i in range(8)}}}, "labels": ["x"]},
            "tells 7 series apart, got 8",
        ),
    ],
)
def test_dots_that_cannot_be_drawn_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dots(**changes)
