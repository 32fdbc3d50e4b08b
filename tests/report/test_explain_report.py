"""Tables and figure of an explanation say what it holds; heat maps of transfer compare with what they name."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from residual_lens.errors import InputError
from residual_lens.report.explain import explanation_markdown, explanation_tables, headline
from residual_lens.report.explain_figure import explanation_figure
from residual_lens.report.explanation import (
    Energy,
    ExplainedComponent,
    ExplainedUnit,
    Explanation,
    Label,
    PruningCurve,
)
from residual_lens.report.transfer import TransferPanel, transfer_figure


def unit(name: str, factor: float, change: float) -> ExplainedUnit:
    says = Label(("red [bold]", "a|b"), 0.4), Label((), 0.0)
    return ExplainedUnit(name, (factor,), factor, change, Energy(0.1, 0.02), Energy(0.3, -0.00001), *says)


def component(name: str, place: int, scale: float) -> ExplainedComponent:
    energies = Energy(0.05, 0.01), Energy(0.2, -0.03)
    return ExplainedComponent(name, place, scale, 0.5, *energies, ("up", r"$\nothing$"), ("down", "under"))


EXPLANATION = Explanation(
    about={"model": "clip-b", "data": "dtd/test", "variant": "residual", "dictionary": {"source": "words"}},
    n_samples=1880,
    zero_shot=0.44,
    unscaled=0.4525,
    learned=0.7,
    rest_before=Energy(0.5, 0.05),
    rest_after=Energy(0.25, -0.05),
    units=(unit("L0H0", 2.0, 0.25), unit("L1H1", 0.5, 0.65), unit("1_mlp_out", 0.0, 0.1)),
    components=(component("L1H1", 3, -5.5), component("L0H0", 0, 0.25)),
    kept=(0, 1, 2, 3),
    curves=(
        PruningCurve("change of energy", (0.4525, 0.6, 0.7, 0.7), (0.4525, 0.6, 0.7, 0.7), (0.4525, 0.6, 0.7, 0.7)),
        PruningCurve("random", (0.4525, 0.5, 0.55, 0.7), (0.4525, 0.48, 0.5, 0.7), (0.4525, 0.52, 0.6, 0.7)),
    ),
    share_of_gain=0.95,
    reached=2,
    held=3,
)
WORDLESS = replace(EXPLANATION, about={**EXPLANATION.about, "dictionary": None})


def printed(explanation: Explanation, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(explanation_tables(explanation))
    return file.getvalue()


def test_the_headline_says_what_it_is_worth_and_how_few_carry_it():
    assert headline(EXPLANATION) == (
        "residual on clip-b, dtd/test (1,880 samples): zero-shot 44.0 %, λ = 1 45.2 %, λ as learned 70.0 %. 2 of 3 "
        "components, those of largest change, reach 95 % of the gain over λ = 1; from 3 on, any number of them does."
    )
    assert "no component is behind a gain" in headline(replace(EXPLANATION, reached=None, held=None))


def of_run(best_epoch: int, scales: str) -> Explanation:
    """As of a run of 5 epochs."""
    run = {"epochs": 5, "best_epoch": best_epoch, "scales": scales}
    return replace(EXPLANATION, about={**EXPLANATION.about, "run": run})


@pytest.mark.parametrize(
    ("scales", "begun"), [("ones", "λ are as they began."), ("randn", "λ are as they began, at 1 + N(0, 1).")]
)
def test_scales_that_no_epoch_made_better_are_not_called_learned(scales, begun):
    found = of_run(0, scales)
    said = headline(found)
    assert said.startswith(
        "residual on clip-b, dtd/test, λ as they began (1,880 samples): zero-shot 44.0 %, λ = 1 45.2 %, λ as begun "
        f"70.0 %. None of 5 epochs was better than the untrained start: {begun} 2 of 3 components"
    )
    page, terminal = explanation_markdown(found), " ".join(printed(found, 300).split())
    assert page.startswith(said)
    assert said in terminal
    assert "with λ = 1 → as begun;" in terminal
    figure = explanation_figure(found)
    assert "residual on clip-b, dtd/test, λ as they began" in figure.get_suptitle()
    labels = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert "λ as begun" in labels
    assert not any("learned" in text for text in (page, terminal, *labels))


def test_a_random_start_is_told_of_and_another_is_not():
    assert "70.0 %. λ began at 1 + N(0, 1): a part of |λ − 1| is the start's. 2 of 3" in headline(of_run(3, "randn"))
    assert headline(of_run(3, "ones")) == headline(EXPLANATION)


def test_units_come_by_change_and_components_with_both_ends():
    text = printed(EXPLANATION, 140)
    rows = [line.split() for line in text.splitlines() if line.startswith((" L", " 1_"))]
    assert rows[0][:9] == ["L1H1", "0.50", "65.0", "10.0", "→", "30.0", "2.0", "→", "0.0"]
    assert [row[0] for row in rows] == ["L1H1", "L0H0", "1_mlp_out", "L1H1:3", "L0H0:0"]
    assert " ".join(rows[0][9:]) == "red [bold], a|b (40.0) does not vary"
    assert " ".join(rows[3]) == "L1H1:3 -5.50 50.0 5.0 → 20.0 1.0 → -3.0 up, $\\nothing$ down, under"
    legend = " ".join(text.split())
    assert "all that is not rescaled has 50.0 and 5.0 → 25.0 and -5.0" in legend
    assert "The 2 components shown make up 100.0 % of the change, the 3 units 100.0 %." in legend
    assert "In brackets: share of the unit's variance" in legend


def test_it_fits_80_columns_without_losing_a_number():
    lines = printed(EXPLANATION, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "\n".join(lines)
    assert "10.0 → 30.0" in "\n".join(lines)


def test_without_texts_there_are_no_columns_for_them():
    text = printed(WORDLESS, 140)
    assert not any(word in text for word in ("red", "says", "along", r"up, $\nothing$", "does not vary", "In brackets"))
    assert "10.0 → 30.0" in text


def test_markdown_has_the_same_rows_and_the_curves():
    lines = explanation_markdown(EXPLANATION).splitlines()
    assert lines[0] == headline(EXPLANATION)
    assert lines[2] == "| unit | factor | change | energy | cross | says before | says after |"
    assert lines[3] == "|---|--:|--:|--:|--:|---|---|"
    assert lines[4] == "| L1H1 | 0.50 | 65.0 | 10.0 → 30.0 | 2.0 → 0.0 | red [bold], a\\|b (40.0) | does not vary |"
    assert lines[-4:] == [
        "| order | 0 | 1 | 2 | 3 |",
        "|---|--:|--:|--:|--:|",
        "| change of energy | 45.2 | 60.0 | 70.0 | 70.0 |",
        "| random | 45.2 | 50.0 (48.0–52.0) | 55.0 (50.0–60.0) | 70.0 |",
    ]
    assert "says" not in explanation_markdown(WORDLESS)


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_figure_shows_factors_curves_and_components():
    figure = explanation_figure(EXPLANATION)
    factors, pruning, components = (figure.axes[place] for place in (0, 2, 3))
    shown = np.ma.filled(factors.collections[0].get_array(), np.nan)
    # Heads of two layers, an empty column, MLPs; a unit that is silenced altogether is 0.
    np.testing.assert_array_equal(shown, [[2.0, np.nan, np.nan, np.nan], [np.nan, 0.5, np.nan, 0.0]])
    assert {"2", "0.5", "0"} <= set(texts_of(figure))
    lines = {line.get_label(): line.get_ydata() for line in pruning.lines}
    np.testing.assert_allclose(lines["change of energy"], [45.25, 60, 70, 70])
    np.testing.assert_allclose(lines["random"], [45.25, 50, 55, 70])
    np.testing.assert_allclose(lines["zero-shot"], [44, 44])
    np.testing.assert_allclose(lines["95 % of the gain over λ = 1"], [100 * (0.4525 + 0.95 * 0.2475)] * 2)
    assert [label.get_text() for label in components.get_yticklabels()] == ["L1H1:3", "L0H0:0"]
    assert {"−5.5", r"up, $\nothing$", "down, under"} <= set(texts_of(figure))
    # Nothing is drawn outside of what a canvas can hold, and every glyph exists (warnings are errors).
    figure.savefig(io.BytesIO(), dpi=30)


@pytest.mark.parametrize(("low", "high"), [(0.762, 0.803), (0.9, 0.9), (0.5, 1.0), (1.0, 1.0), (0.0, 0.03)])
def test_accuracy_has_at_least_three_ticks_none_of_them_beyond_100(low, high):
    curve = PruningCurve("change of energy", *[(low, low, high, high)] * 3)
    found = replace(EXPLANATION, curves=(curve,), zero_shot=low, unscaled=low, learned=high)
    pruning = explanation_figure(found).axes[2]
    bottom, top = pruning.get_ylim()
    ticks = [tick for tick in pruning.get_yticks() if bottom <= tick <= top]
    assert 3 <= len(ticks) <= 8
    assert max(ticks) <= 100


def test_the_figure_of_a_large_model_without_texts_has_no_numbers():
    units = tuple(unit(f"L{layer}H{head}", 1.1, 0.01) for layer in range(13) for head in range(16))
    figure = explanation_figure(replace(WORDLESS, units=units, reached=None, held=None))
    assert texts_of(figure) == []
    assert len(figure.axes[0].get_xticks()) == 16
    assert "95 % of the gain over λ = 1" not in {line.get_label() for line in figure.axes[2].lines}


def panel(**changes) -> TransferPanel:
    accuracy = np.array([[0.5, 0.25], [0.9, 0.2], [0.4, 0.75]])
    return replace(TransferPanel("a start", ["none", "one", "two"], accuracy, accuracy[0]), **changes)


def test_heat_maps_show_accuracies_in_colours_of_their_difference():
    panels = [panel(), panel(reference=np.array([0.9, 0.75]))]
    figure = transfer_figure(panels, ["one", "two"], title="t", reference="x")
    first, second = figure.axes[:2]
    np.testing.assert_allclose(first.collections[0].get_array(), [[0, 0], [40, -5], [-10, 50]], atol=1e-9)
    np.testing.assert_allclose(second.collections[0].get_array(), [[-40, -50], [0, -55], [-50, 0]], atol=1e-9)
    # One scale for all panels, the same in both directions.
    assert [axes.collections[0].get_clim() for axes in (first, second)] == [pytest.approx((-55, 55))] * 2
    assert [text.get_text() for text in first.texts] == ["50", "25", "90", "20", "40", "75"]
    # The data set that something was learned on stands out in its own column.
    assert [text.get_text() for text in first.texts if text.get_fontweight() == "bold"] == ["90", "75"]
    assert figure.axes[-1].get_ylabel() == "points above x"
    figure.savefig(io.BytesIO(), dpi=30)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="at least one panel"):
        transfer_figure([], ["one"], title="t", reference="x")
    with pytest.raises(InputError, match=r"expected accuracies \[3, 3\] and a reference \[3\], got \[3, 2\] and \[2\]"):
        transfer_figure([panel()], ["one", "two", "three"], title="t", reference="x")
    with pytest.raises(InputError, match=r"expected accuracies \[2, 2\]"):
        transfer_figure([panel(rows=["one", "two"])], ["one", "two"], title="t", reference="x")
