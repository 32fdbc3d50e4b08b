"""What holds for every figure: it draws where it is told, leaves nothing behind, and is the same bytes each time."""

import re
import warnings
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from residual_lens import figures
from tests.figures.drawn import PICTURES, calls

NAMES = tuple(sorted(calls()))


def test_every_function_that_draws_is_tried_here():
    computing = {"attention_rollout", "token_attention", "ends_of_component", "line_styles", "point_styles", "save"}
    of_stores = {"component_ends"}
    types = {name for name in figures.__all__ if name[0].isupper()}
    assert set(figures.__all__) - computing - of_stores - types == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_on_the_axes_given_and_nowhere_else(name):
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    before = len(right.get_children())
    assert calls()[name](axes=left) is left
    assert left.has_data()
    assert len(right.get_children()) == before
    assert not right.has_data()


@pytest.mark.parametrize("name", NAMES)
def test_it_makes_a_figure_that_pyplot_does_not_know(name, monkeypatch):
    before, parameters = pyplot.get_fignums(), dict(matplotlib.rcParams)
    backend = matplotlib.get_backend()
    axes = calls()[name]()
    assert isinstance(axes, Axes)
    assert pyplot.get_fignums() == before
    assert dict(matplotlib.rcParams) == parameters
    assert matplotlib.get_backend() == backend


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_vector_files_are_the_same_bytes_and_hold_no_picture_but_photographs(name, kind, tmp_path):
    for place in ("one", "other"):
        figures.save(calls()[name](), tmp_path / f"{place}.{kind}")
    data = (tmp_path / f"one.{kind}").read_bytes()
    assert data == (tmp_path / f"other.{kind}").read_bytes()
    marker = b"<image" if kind == "svg" else b"/Subtype /Image"
    assert (marker in data) == (name in PICTURES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_drawn_without_a_warning_at_half_the_width_of_a_page(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes = calls()[name]()
        file = BytesIO()
        axes.figure.savefig(file, dpi=60)
    with Image.open(file) as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    width, _ = axes.figure.get_size_inches()
    # A text of 8 points is 4 points high on half a page of 6.5 inches, if the figure is no wider than that.
    assert width <= 6.5
    sizes = [text.get_fontsize() for text in axes.figure.findobj(matplotlib.text.Text) if text.get_text()]
    assert min(sizes, default=8) >= 8


def test_no_text_is_lost_in_svg(tmp_path):
    figures.save(calls()["unit_map"](), tmp_path / "map.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "map.svg").read_text())
    assert {"0.20", "0.70", "0.40", "head", "layer", "score", "MLP"} <= set(texts)
