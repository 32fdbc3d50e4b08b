"""Lines, points, bands and matrices lie where their numbers say, are named, and refuse what is no number."""

import numpy as np
import pytest
import torch

from residual_lens import figures
from residual_lens.descriptions import Descriptions
from residual_lens.errors import InputError
from residual_lens.figures.dimensions import MEASURES
from tests.figures.drawn import CURVE, bases_of, described, dimensions_of


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def names(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def line(axes, label: str):
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found


class TestDimensions:
    @pytest.mark.parametrize(
        ("measure", "expected"),
        [("linear", 12), ("two_nn", 6), ("linear_over_two_nn", 2), ("participation_ratio", 3), ("first_share", 40)],
    )
    def test_every_measure_is_drawn(self, measure, expected):
        axes = figures.dimensions([dimensions_of("L0H0")], measure)
        assert axes.lines[0].get_xydata().tolist() == [[0, pytest.approx(expected)]]
        assert axes.get_title("left") == MEASURES[measure].title
        assert axes.get_legend() is None

    def test_lines_are_means_and_bands_ranges(self):
        heads = [dimensions_of("L3H0", 5.0), dimensions_of("L3H1", 7.0), dimensions_of("L1H0", 2.0)]
        axes = figures.dimensions({"digits": heads, "mlps": [dimensions_of("1_mlp_out", 9.0)]})
        assert line(axes, "digits").get_xydata().tolist() == [[1, 2], [3, 6]]
        assert {tuple(corner) for corner in axes.collections[0].get_paths()[0].vertices} == {(1, 2), (3, 5), (3, 7)}
        assert legend(axes) == ["digits", "mlps"]

    def test_share_is_in_the_label(self):
        axes = figures.dimensions([dimensions_of("L0H0")], "linear", share=0.9)
        assert axes.get_ylabel() == "components with 90 % of the variance"

    @pytest.mark.parametrize(
        ("results", "measure", "message"),
        [
            ([], "two_nn", "at least one unit in each"),
            ({}, "two_nn", "at least one unit in each"),
            ([dimensions_of("L0H0")], "twonn", "measure is one of linear, two_nn,"),
            ([dimensions_of("embed")], "two_nn", "embed belongs to none"),
            ([dimensions_of("L0H0"), dimensions_of("0_mlp_out")], "two_nn", "Heads and MLPs make no common mean"),
            ([dimensions_of("L0H0", float("nan"))], "two_nn", "dimensions of L0H0 are NaN"),
        ],
    )
    def test_what_cannot_be_drawn_is_refused(self, results, measure, message):
        with pytest.raises(InputError, match=message):
            figures.dimensions(results, measure)


class TestSpectra:
    def test_shares_of_the_total_variance_by_component(self):
        axes = figures.spectra(bases_of("L0H0", "L0H1"), "L0H0")
        np.testing.assert_allclose(line(axes, "L0H0").get_xydata().T, [[1, 2, 3, 4], [40, 30, 20, 10]])
        assert axes.get_yscale() == "log"
        assert legend(axes) == ["L0H0"]

    def test_a_curve_ends_where_rounding_begins(self):
        bases = bases_of("L0H0", variances=lambda _: torch.tensor([1.0, 0.5, 1e-9, 0.0]))
        assert len(figures.spectra(bases).lines[0].get_xdata()) == 2

    def test_many_units_are_coloured_by_layer(self):
        heads = [f"L{layer}H{head}" for layer in range(3) for head in range(3)]
        axes = figures.spectra(bases_of(*heads, "embed", variances=lambda _: torch.tensor([2.0, 1.0])), "all")
        assert axes.get_legend() is None
        bar = axes.figure.axes[1]
        assert (bar.get_ylabel(), names(bar.yaxis)) == ("layer", ["0", "1", "2"])
        colours = {label.get_label(): tuple(label.get_color()) for label in axes.lines}
        assert len({colours[head] for head in heads}) == 3
        assert colours["L1H0"] == colours["L1H2"] != colours["L2H0"]
        assert colours["embed"] == tuple("#777777")

    def test_units_that_do_not_vary_or_are_not_there_are_refused(self):
        still = bases_of("L0H0", variances=lambda _: torch.zeros(3))
        with pytest.raises(InputError, match="L0H0 does not vary"):
            figures.spectra(still)
        with pytest.raises(InputError, match="no unit 'L9H9'"):
            figures.spectra(bases_of("L0H0"), "L9H9")
        with pytest.raises(InputError, match="No units were chosen; the bases cover 0_mlp_out"):
            figures.spectra(bases_of("0_mlp_out"), "heads")
        with pytest.raises(InputError, match="variances of L0H0: 1 of 2 numbers are NaN"):
            figures.spectra(bases_of("L0H0", variances=lambda _: torch.tensor([1.0, float("nan")])))


class TestMatrices:
    def test_similarities_have_the_whole_scale_and_names_on_both_sides(self):
        values = torch.tensor([[0.9, 0.5, 0.95]])
        axes = figures.similarity(values, ["a"], ["b", "c", "d"], label="cosine")
        np.testing.assert_allclose(axes.collections[0].get_array(), values)
        assert axes.collections[0].get_clim() == (0, 1)
        assert (names(axes.yaxis), names(axes.xaxis)) == (["a"], ["b", "c", "d"])
        assert [text.get_text() for text in axes.texts] == ["0.90", "0.50", "0.95"]
        assert axes.yaxis_inverted()
        assert axes.figure.axes[1].get_ylabel() == "cosine"

    @pytest.mark.parametrize(
        ("values", "rows", "message"),
        [
            ([[0.5]], ["a", "b"], "expected 2 × 2 as there are names, got 1 × 1"),
            ([[1.2]], ["a"], r"lie in \[0, 1\], got 1.2 to 1.2"),
            ([[float("nan")]], ["a"], "NaN"),
        ],
    )
    def test_similarities_that_are_none_are_refused(self, values, rows, message):
        with pytest.raises(InputError, match=message):
            figures.similarity(np.array(values), rows)

    def test_effects_are_signed_framed_where_names_meet_and_bold_where_certain(self):
        values, certain = np.array([[4.0, -1.0, 0.0], [0.5, 2.0, 0.04]]), np.array([[1, 0, 0], [0, 0, 1]], dtype=bool)
        axes = figures.effects(values, ["x", "y"], ["y", "x", "z"], certain=certain)
        assert axes.collections[0].get_clim() == (-4, 4)
        assert {patch.get_xy() for patch in axes.patches} == {(0.5, -0.5), (-0.5, 0.5)}
        assert [text.get_text() for text in axes.texts] == ["4.0", "−1.0", "0.0", "0.5", "2.0", "0.0"]
        bold = [text.get_fontweight() == "bold" for text in axes.texts]
        assert bold == certain.ravel().tolist()
        assert axes.texts[1].get_color() == "#999999"
        assert figures.effects(values, ["x", "y"], ["y", "x", "z"], largest=9.0).collections[0].get_clim() == (-9, 9)
        with pytest.raises(InputError, match=r"a cell for each effect, \[2, 3\], got \[3, 2\]"):
            figures.effects(values, ["x", "y"], ["y", "x", "z"], certain=certain.T)

    def test_transfer_has_accuracies_in_colours_of_their_difference(self):
        found = np.array([[0.5, 0.25], [0.9, 0.2]])
        axes = figures.transfer(found, found[0], ["none", "one"], ["one", "two"], largest=0.8)
        np.testing.assert_allclose(axes.collections[0].get_array(), [[0, 0], [40, -5]], atol=1e-9)
        assert axes.collections[0].get_clim() == (-80, 80)
        assert [text.get_text() for text in axes.texts] == ["50", "25", "90", "20"]
        assert [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"] == ["90"]
        with pytest.raises(InputError, match="a reference for each of 2 columns, got 3"):
            figures.transfer(found, np.ones(3), ["none", "one"], ["one", "two"])
        with pytest.raises(InputError, match=r"shares in \[0, 1\]"):
            figures.transfer(100 * found, found[0], ["none", "one"], ["one", "two"])


class TestCurves:
    def test_curves_bands_and_levels_are_in_percent(self):
        axes = figures.accuracy_curves({"a": CURVE}, ["1", "4", "36"], levels={"chance": 0.1}, x_label="heads")
        np.testing.assert_allclose(line(axes, "a").get_xydata(), [[0, 20], [1, 60], [2, 90]])
        assert set(line(axes, "chance").get_ydata()) == {10}
        corners = axes.collections[0].get_paths()[0].vertices
        assert {10.0, 30.0, 50.0, 70.0, 90.0} == set(corners[:, 1].round(6))
        assert (names(axes.xaxis), axes.get_xlabel()) == (["1", "4", "36"], "heads")
        assert legend(axes) == ["chance", "a"]

    def test_styles_given_are_used_and_leave_the_legend_to_their_giver(self):
        styles = figures.line_styles(["other", "a"])
        axes = figures.accuracy_curves({"a": CURVE}, ["1", "4", "36"], styles=styles)
        assert line(axes, "a").get_color() == styles["a"]["color"] != styles["other"]["color"]
        assert axes.get_legend() is None

    def test_one_tick_is_a_point(self):
        one = figures.AccuracyCurve([0.5], [0.5], [0.5])
        assert figures.accuracy_curves({"a": one}, ["all"]).lines[0].get_xydata().tolist() == [[0, 50]]

    def test_no_curve_is_refused(self):
        with pytest.raises(InputError, match="at least one curve"):
            figures.accuracy_curves({}, ["1"])


class TestPoints:
    def test_a_comparison_has_a_row_a_name_and_a_line_between_its_ends(self):
        values = {"x": {"before": 0.5, "mid": 0.25, "after": 0.75}, "y": {"before": 0.125}}
        axes = figures.comparison(values, ends=("before", "after"), chance={"y": 0.1})
        assert line(axes, "before").get_xydata().tolist() == [[50, 0], [12.5, 1]]
        assert line(axes, "mid").get_xydata().tolist() == [[25, 0]]
        assert line(axes, "chance").get_xydata().tolist() == [[10, 1]]
        assert [line(axes, name).get_fillstyle() for name in ("before", "mid", "after")] == ["full", "none", "full"]
        joins = [one.get_xydata().tolist() for one in axes.lines if one.get_label().startswith("_")]
        assert joins == [[[50, 0], [75, 0]]]
        assert axes.yaxis_inverted()
        assert legend(axes) == ["before", "mid", "after", "chance"]

    @pytest.mark.parametrize(
        ("values", "options", "message"),
        [
            ({}, {}, "at least one row with at least one value"),
            ({"x": {}}, {}, "at least one row with at least one value"),
            ({"x": {"a": 0.5}}, {"ends": ("a", "b")}, "Nothing here is called b"),
            ({"x": {"a": 0.5}}, {"chance": {"y": 0.5}}, "Nothing here is called y"),
            ({"x": {"a": float("nan")}}, {}, "NaN"),
        ],
    )
    def test_comparisons_of_nothing_are_refused(self, values, options, message):
        with pytest.raises(InputError, match=message):
            figures.comparison(values, **options)

    def test_methods_stand_at_what_they_train_and_reach(self):
        points = {"none": figures.Trained(0, 0.5), "lora": figures.Trained(1500, 0.75, 0.25)}
        axes = figures.accuracy_by_parameters(points)
        shown = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes.containers}
        assert shown == {"none": [[0, 50]], "lora": [[1500, 75]]}
        (error,) = axes.containers[1].lines[2]
        assert error.get_segments()[0].tolist() == [[1500, 50], [1500, 100]]
        assert axes.get_xscale() == "symlog"
        assert axes.get_xlim()[0] < 0
        assert axes.get_xlim()[1] > 1500
        axes.figure.draw_without_rendering()
        assert {"0", "1", "100", "1k"} <= set(names(axes.xaxis))

    @pytest.mark.parametrize(
        "point", [(-1, 0.5, 0.0), (1, 1.5, 0.0), (1, 0.5, -0.1), (1, float("nan"), 0.0), (1, 0.5, float("nan"))]
    )
    def test_methods_without_numbers_are_refused(self, point):
        with pytest.raises(InputError, match="a: expected parameters of at least 0"):
            figures.accuracy_by_parameters({"a": figures.Trained(*point)})

    def test_no_method_is_refused(self):
        with pytest.raises(InputError, match="at least one"):
            figures.accuracy_by_parameters({})

    def test_intervals_and_draws_lie_where_their_numbers_say(self):
        values = {"one": {"a": (1.0, 0.5, 2.0), "b": (3.0, 2.0, 3.5)}, "two": {"a": (4.0, 3.0, 5.0)}}
        axes = figures.intervals(values, random={"one": {"a": [0.1, 0.2]}}, rows=["zero", "one", "two"])
        a, b = line(axes, "a"), line(axes, "b")
        assert (a.get_xdata().tolist(), b.get_xdata().tolist()) == ([1, 4], [3])
        assert 0.5 < a.get_ydata()[0] < 1 < b.get_ydata()[0] < 1.5 < a.get_ydata()[1]
        segments = [segment.tolist() for lines in axes.collections for segment in lines.get_segments()]
        assert [[x for x, _ in segment] for segment in segments] == [[0.5, 2], [3, 5], [2, 3.5]]
        assert [[y for _, y in segment] for segment in segments[:2]] == [[y, y] for y in a.get_ydata()]
        (draws,) = [one for one in axes.lines if list(one.get_xdata()) == [0.1, 0.2]]
        assert set(draws.get_ydata()) == {a.get_ydata()[0]}
        assert names(axes.yaxis) == ["zero", "one", "two"]
        assert legend(axes) == ["a", "b", "random draws"]

    @pytest.mark.parametrize(
        ("values", "options", "message"),
        [
            ({}, {}, "at least one row and one series"),
            ({"one": {"a": (1.0, 2.0)}}, {}, "a of one: expected a value and the lower and upper end"),
            ({"one": {"a": (1.0, 3.0, 2.0)}}, {}, "a of one: expected a value and the lower and upper end"),
            ({"one": {"a": (float("nan"), 0.0, 2.0)}}, {}, "a of one: 1 of 3 numbers are NaN"),
            ({"one": {"a": (1.0, 0.0, 2.0)}}, {"rows": ["two"]}, "Rows are two, got one as well"),
            ({"one": {"a": (1.0, 0.0, 2.0)}}, {"styles": figures.point_styles("b")}, "Styles are for b, and not for a"),
        ],
    )
    def test_intervals_that_are_none_are_refused(self, values, options, message):
        with pytest.raises(InputError, match=message):
            figures.intervals(values, **options)

    def test_descriptions_show_their_share_chance_and_words(self):
        found = {"L0H0": described("L0H0"), "L0H1": described("L0H1", p=0.3), "L1H0": described("L1H0", texts=())}
        axes = figures.descriptions(Descriptions(found, {}))
        assert line(axes, "beyond chance").get_xydata().tolist() == [[80, 0], [80, 2]]
        assert line(axes, "not beyond it").get_xydata().tolist() == [[80, 1]]
        assert [text.get_text() for text in axes.texts] == ["navy, black, teal", "navy, black, teal", "does not vary"]
        bar = axes.patches[0]
        assert (bar.get_x(), bar.get_width()) == (pytest.approx(20), pytest.approx(20))
        assert names(axes.yaxis) == ["L0H0", "L0H1", "L1H0"]
        some = figures.descriptions(Descriptions(found, {}), ["L1H0", "L0H0"])
        assert names(some.yaxis) == ["L1H0", "L0H0"]

    def test_dollars_in_texts_are_no_formula(self, tmp_path):
        texts = ("$5 and $6", "a $\\nothing$ b")
        axes = figures.descriptions(Descriptions({"L0H0": described("L0H0", texts=texts)}, {}))
        figures.save(axes, tmp_path / "one.svg")
        assert "$5 and $6, a $\\nothing$ b" in (tmp_path / "one.svg").read_text()
        figures.save(figures.similarity(torch.eye(2), texts), tmp_path / "two.svg")
        assert ">$5 and $6<" in (tmp_path / "two.svg").read_text()

    def test_descriptions_of_nothing_are_refused(self):
        with pytest.raises(InputError, match="at least one unit"):
            figures.descriptions(Descriptions({}, {}))
        with pytest.raises(InputError, match="no description of 'L9H9'"):
            figures.descriptions(Descriptions({"L0H0": described("L0H0")}, {}), ["L9H9"])
