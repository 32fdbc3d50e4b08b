"""Scenes with a shortcut: the asked correlation exactly, shapes balanced, everything else as ever."""

import pytest
import torch

from residual_lens.data.attribute_world import ATTRIBUTES, SHORTCUT, render, sample_scenes, sample_shortcut
from residual_lens.errors import InputError

N_SHAPES = 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table_of(correlation: float, n_images: int = 8000) -> torch.Tensor:
    """Counts of shapes by colours."""
    labels = sample_shortcut(n_images, generator(), correlation=correlation).labels
    cells = labels["shape"] * len(ATTRIBUTES["colour"]) + labels["colour"]
    return torch.bincount(cells, minlength=N_SHAPES * len(ATTRIBUTES["colour"])).view(N_SHAPES, -1)


def test_every_shape_has_a_colour_of_its_own():
    assert tuple(SHORTCUT) == ATTRIBUTES["shape"]
    assert tuple(SHORTCUT.values()) == ATTRIBUTES["colour"][:N_SHAPES]


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.95, 1.0])
def test_colour_tells_each_shape_as_often_as_asked(correlation: float):
    table = table_of(correlation)
    assert table.sum(1).tolist() == [1000] * N_SHAPES
    share = 1 / N_SHAPES + correlation * (1 - 1 / N_SHAPES)
    assert table.diagonal().tolist() == [round(1000 * share)] * N_SHAPES
    assert not table[:, N_SHAPES:].any()


def test_colours_that_do_not_agree_are_any_of_the_others():
    table = table_of(0.0).float()
    away = table[:, :N_SHAPES][~torch.eye(N_SHAPES, dtype=torch.bool)]
    assert away.min() > 125 - 5 * 125**0.5
    assert away.max() < 125 + 5 * 125**0.5


@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_the_correlation_is_cramers_v(correlation: float):
    table = table_of(correlation)[:, :N_SHAPES].double()
    n = table.sum()
    expected = table.sum(1, keepdim=True) * table.sum(0) / n
    chi_squared = ((table - expected) ** 2 / expected).sum()
    assert float((chi_squared / n / (N_SHAPES - 1)).sqrt()) == pytest.approx(correlation, abs=0.04)


def test_all_but_colour_is_drawn_as_without_a_shortcut():
    biased, plain = sample_shortcut(64, generator(), correlation=1.0), sample_scenes(64, generator(), focus="shape")
    for name, labels in plain.labels.items():
        assert torch.equal(labels, biased.labels[name]) == (name != "colour")
    assert torch.equal(biased.tint, plain.tint)


def test_a_stronger_correlation_only_adds_scenes_that_agree():
    weak, strong = (sample_shortcut(400, generator(), correlation=rho).labels for rho in (0.2, 0.9))
    agrees = [labels["colour"] == labels["shape"] for labels in (weak, strong)]
    assert torch.equal(weak["shape"], strong["shape"])
    assert bool((agrees[1] | ~agrees[0]).all())
    assert torch.equal(weak["colour"][~agrees[1]], strong["colour"][~agrees[1]])


def test_seeds_decide_and_scenes_render():
    one, same = (sample_shortcut(16, generator(3), correlation=0.5) for _ in range(2))
    assert torch.equal(render(one, 32), render(same, 32))
    assert not torch.equal(one.labels["shape"], sample_shortcut(16, generator(4), correlation=0.5).labels["shape"])


@pytest.mark.parametrize(
    ("n_images", "correlation", "message"),
    [
        (8, 1.01, "got correlation=1.01"),
        (8, -0.1, "got correlation=-0.1"),
        (8, float("nan"), "got correlation=nan"),
        (0, 0.5, "got n_images=0"),
    ],
)
def test_bad_input_is_refused(n_images: int, correlation: float, message: str):
    with pytest.raises(InputError, match=message):
        sample_shortcut(n_images, generator(), correlation=correlation)
