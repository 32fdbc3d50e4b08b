"""The figure of similarities shows every pair of data sets and every head, and renders without a warning."""

import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from residual_lens.errors import InputError
from residual_lens.report import similarity_figure

NAMES = ["digits", "random", "attributes:shape@lowcontrast"]


def by_pair(n_data: int = 3, layers: int = 2, heads: int = 4) -> np.ndarray:
    """Values that all differ, symmetric in the data sets."""
    values = np.random.default_rng(0).random((n_data, n_data, layers, heads))
    return (values + values.transpose(1, 0, 2, 3)) / 2


def test_it_renders_to_a_png_without_warnings(tmp_path):
    backend = matplotlib.get_backend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        similarity_figure(by_pair(3, 24, 16), NAMES, title="tiny").savefig(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 800
        assert len(np.unique(np.asarray(image.convert("L")))) > 50
    assert matplotlib.get_backend() == backend


def test_every_data_set_layer_and_head_is_named_and_every_value_written():
    values = by_pair()
    figure = similarity_figure(values, NAMES, title="Heads of a tiny one")
    left, right, bar = figure.axes
    for labels in (left.get_xticklabels(), left.get_yticklabels()):
        assert [label.get_text() for label in labels] == NAMES
    assert [label.get_text() for label in right.get_xticklabels()] == ["0", "1", "2", "3"]
    assert [label.get_text() for label in right.get_yticklabels()] == ["0", "1"]
    assert (right.get_xlabel(), right.get_ylabel()) == ("head", "layer")
    assert bar.get_ylabel() == "spectral cosine, weighted by variance"
    assert figure.get_suptitle() == "Heads of a tiny one"
    written = {text.get_position(): text.get_text() for text in left.texts}
    means = values.mean(axis=(2, 3))
    assert written == {(column, row): f"{means[row, column]:.2f}" for row in range(3) for column in range(3)}
    off_diagonal = (values[0, 1] + values[0, 2] + values[1, 2]) / 3
    written = {text.get_position(): text.get_text() for text in right.texts}
    assert written == {(head, layer): f"{off_diagonal[layer, head]:.2f}" for layer in range(2) for head in range(4)}


def test_the_first_data_set_is_on_top_and_the_first_layer_at_the_bottom():
    left, right, _ = similarity_figure(by_pair(), NAMES, title="").axes
    assert left.yaxis_inverted()
    assert not right.yaxis_inverted()


def test_colours_run_from_0_to_1_in_both_panels():
    for axes in similarity_figure(0.9 + 0.1 * by_pair(), NAMES, title="").axes[:2]:
        assert axes.collections[0].get_clim() == (0, 1)


@pytest.mark.parametrize(("n_data", "names"), [(1, NAMES[:1]), (3, NAMES[:2]), (2, NAMES)])
def test_one_data_set_or_other_names_are_refused(n_data, names):
    with pytest.raises(InputError, match=f"of the {len(names)} data sets named, at least two"):
        similarity_figure(by_pair(n_data), names, title="")
