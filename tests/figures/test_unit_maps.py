"""Maps have every unit in its place and colours that mean what they say; what has no place is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from residual_lens import figures
from residual_lens.errors import InputError, MismatchError
from residual_lens.selection import UnitScores
from tests.figures.drawn import bases_of, residual_of


def cells(axes) -> np.ndarray:
    return np.ma.filled(axes.collections[0].get_array(), np.nan)


def texts(axes) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in axes.texts}


def ticks(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_units_are_in_their_places_with_mlps_apart_and_gaps_blank():
    axes = figures.unit_map({"L0H1": 0.25, "2_mlp_out": 0.5, "L2H0": 1.0}, label="share", title="t")
    blank = np.nan
    np.testing.assert_array_equal(cells(axes), [[blank, 0.25, blank, blank], [blank] * 4, [1.0, blank, blank, 0.5]])
    assert texts(axes) == {(1, 0): "0.25", (0, 2): "1.00", (3, 2): "0.50"}
    assert (ticks(axes.xaxis), ticks(axes.yaxis)) == (["0", "1", "MLP"], ["0", "1", "2"])
    assert axes.get_xticks().tolist() == [0, 1, 3]
    assert not axes.yaxis_inverted()
    assert axes.collections[0].get_clim() == (0, 1)
    assert axes.get_title("left") == "t"
    assert axes.figure.axes[1].get_ylabel() == "share"


def test_cells_lie_around_whole_numbers():
    corners = figures.unit_map(torch.rand(2, 3)).collections[0].get_coordinates()
    assert corners[0, 0].tolist() == [-0.5, -0.5]
    assert corners[-1, -1].tolist() == [2.5, 1.5]


def test_scores_arrays_and_tensors_are_the_same_as_mappings():
    names, values = ("L0H0", "L0H1", "L1H0", "L1H1"), torch.tensor([0.1, 0.2, 0.3, 0.4])
    expected = cells(figures.unit_map(dict(zip(names, values.tolist(), strict=True))))
    for given in (UnitScores(names, values.double(), "task"), values.reshape(2, 2), values.reshape(2, 2).numpy()):
        np.testing.assert_allclose(cells(figures.unit_map(given)), expected)
    half = figures.unit_map(values.reshape(2, 2).bfloat16())
    np.testing.assert_allclose(cells(half), expected, rtol=1e-2)


def test_mlps_alone_are_one_column():
    axes = figures.unit_map({"0_mlp_out": 1.0, "1_mlp_out": 2.0})
    assert cells(axes).shape == (2, 1)
    assert ticks(axes.xaxis) == ["MLP"]


@pytest.mark.parametrize(
    ("values", "limits", "expected", "colours"),
    [
        ([0.5, 2.0], None, (0, 2), "viridis"),
        ([-0.5, 2.0], None, (-2, 2), "RdBu_r"),
        ([-3.0, -1.0], None, (-3, 3), "RdBu_r"),
        ([0.5, 2.0], (0.0, 1.0), (0, 1), "viridis"),
        ([0.5, 0.6], (-1.0, 0.5), (-1, 1), "RdBu_r"),
        ([0.0, 0.0], None, (0, 1), "viridis"),
        ([7.0, 7.0], None, (0, 7), "viridis"),
    ],
)
def test_colours_diverge_where_numbers_may_be_negative(values, limits, expected, colours):
    mesh = figures.unit_map({"L0H0": values[0], "L0H1": values[1]}, limits=limits).collections[0]
    assert mesh.get_clim() == expected
    assert mesh.cmap.name == colours


def test_large_models_have_no_numbers_and_few_ticks():
    axes = figures.unit_map(np.random.default_rng(0).random((24, 16)))
    assert not axes.texts
    assert len(ticks(axes.xaxis)) <= 16
    assert len(ticks(axes.yaxis)) <= 16
    assert axes.figure.get_figheight() < 9


def test_one_layer_with_one_head_is_a_map():
    axes = figures.unit_map({"L0H0": -0.001})
    assert cells(axes).tolist() == [[-0.001]]
    # Minus zero is zero.
    assert texts(axes) == {(0, 0): "0.00"}


@pytest.mark.parametrize(("largest", "expected"), [(0.5, "0.50"), (1.0, "1.00"), (1.5, "1.5"), (150.0, "150")])
def test_numbers_have_as_many_digits_as_their_size_asks_for(largest, expected):
    assert texts(figures.unit_map({"L0H0": largest}))[0, 0] == expected


def test_without_a_bar_there_is_no_second_pair_of_axes():
    assert len(figures.unit_map({"L0H0": 1.0}, bar=False).figure.axes) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "at least one number"),
        ({"embed": 1.0, "L0H0": 1.0, "bias": 0.0}, "embed, bias belong to none: leave them out"),
        ({"L0H0": float("nan"), "L0H1": 1.0}, r"1 of 2 numbers are NaN or infinite, the first at \[0\]"),
        (np.full((2, 2), np.nan), "4 of 4 numbers are NaN or infinite"),
        (np.zeros((0, 2)), r"at least one number, got shape \[0, 2\]"),
        ({"head": 1.0}, "No unit is called 'head'"),
    ],
)
def test_what_has_no_place_or_no_value_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        figures.unit_map(values)


def test_limits_the_wrong_way_round_are_refused():
    with pytest.raises(InputError, match="the lower one first"):
        figures.unit_map({"L0H0": 1.0}, limits=(1.0, 0.0))


def test_scales_are_factors_on_the_size_of_units():
    bases = bases_of("L0H0", "L1H0", variances=lambda place: torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.0, 1.0]][place]))
    residual = residual_of(bases, 2.0, 0.0, 9.0, 1.0, -1.0, 1.0)
    weighted, alike = figures.scales(residual, bases), figures.scales(residual)
    np.testing.assert_allclose(cells(weighted), [[3**0.5], [1.0]])
    np.testing.assert_allclose(cells(alike), [[((4 + 81) / 3) ** 0.5], [1.0]], rtol=1e-6)
    assert texts(weighted) == {(0, 0): "1.7", (0, 1): "1"}
    assert weighted.collections[0].get_clim() == (0.25, 4)
    low, high = alike.collections[0].get_clim()
    assert high == pytest.approx((85 / 3) ** 0.5)
    assert low == pytest.approx(1 / high)


def test_a_unit_without_variance_is_left_blank_and_one_that_is_silenced_is_not():
    bases = bases_of("L0H0", "L0H1", variances=lambda place: torch.tensor([[0.0], [1.0]][place]))
    axes = figures.scales(residual_of(bases, 5.0, 0.0), bases)
    np.testing.assert_array_equal(cells(axes), [[np.nan, 0.0]])
    assert texts(axes) == {(1, 0): "0"}


def test_factors_below_zero_and_foreign_bases_are_refused():
    with pytest.raises(InputError, match=r"not negative, got -0\.5"):
        figures.scales({"L0H0": -0.5})
    bases = bases_of("L0H0")
    residual = residual_of(bases, 1.0, 1.0, 1.0)
    with pytest.raises(MismatchError, match="The bases lack components of L0H0"):
        figures.scales(residual, bases_of("L0H1"))
    with pytest.raises(MismatchError, match="pass the bases that it was made from"):
        figures.scales(residual, replace(bases, fingerprint="1" * 64))
