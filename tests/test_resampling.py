"""Statistics of the ground-truth studies against scipy, against resampling by hand, and on degenerate input."""

import numpy as np
import pytest
from scipy.stats import spearmanr

rng = np.random.default_rng


@pytest.fixture
def statistics(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import resampling

    return resampling


def values_of(n: int = 30) -> np.ndarray:
    """Two measures of three attributes, some of which are missing."""
    values = rng(0).random((2, 3, n)).astype(np.float32)
    values[:, 1, ::3] = np.nan
    return values


def test_the_first_draw_is_the_sample_and_the_others_have_its_size(statistics):
    counts = statistics.resamples(50, 20, seed=0)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 50).all()
    assert len({tuple(row) for row in counts}) == 21
    assert (counts == statistics.resamples(50, 20, seed=0)).all()
    assert (counts[1:] != statistics.resamples(50, 20, seed=1)[1:]).any()


def test_means_of_draws_are_those_of_images_repeated(statistics):
    values, counts = values_of(), statistics.resamples(30, 5, seed=0)
    found = statistics.resampled_means(values, counts)
    for draw, times in enumerate(counts.astype(int)):
        expected = np.nanmean(np.repeat(values, times, axis=-1).astype(np.float64), axis=-1)
        np.testing.assert_allclose(found[draw], expected, rtol=1e-5)


def test_draws_without_a_value_have_no_mean(statistics):
    values, counts = np.array([np.nan, 1.0], np.float32), np.array([[1, 1], [2, 0]], np.float32)
    np.testing.assert_array_equal(statistics.resampled_means(values, counts), [1.0, np.nan])


def test_an_interval_is_of_the_resampled_values_around_the_value_itself(statistics):
    draws = np.concatenate([[7.0], np.arange(1001) / 10])
    assert statistics.interval(draws) == pytest.approx([7.0, 2.5, 97.5])


def test_bootstrap_intervals_cover_the_truth(statistics):
    covered = 0
    for seed in range(60):
        values = rng(seed).normal(1.0, 2.0, 50).astype(np.float32)
        _, low, high = statistics.interval(statistics.resampled_means(values, statistics.resamples(50, 100, seed)))
        covered += low <= 1.0 <= high
    assert 0.85 * 60 <= covered < 60


def test_attributes_are_drawn_as_well(statistics):
    draws = np.tile([0.0, 10.0, 20.0], (500, 1))
    found = statistics.over_attributes(draws, seed=0)
    assert found[0] == 10
    assert found[1:].std() == pytest.approx(np.std([0, 10, 20]) / 3**0.5, rel=0.1)


def test_rank_correlation_is_scipys_with_ties_as_well(statistics):
    x, y = rng(0).normal(size=(2, 12)), rng(1).integers(3, size=(2, 12)).astype(float)
    expected = [spearmanr(*pair).statistic for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(statistics.rank_correlation(x, y), expected)
    assert statistics.rank_correlation(x, np.ones((2, 12))).tolist() == [0, 0]


def test_mixing_within_layers_leaves_no_credit_for_the_layer(statistics):
    layers = np.repeat(np.arange(4), 6)
    noise = rng(0).normal(size=(2, 24)) * 0.1
    by_layer, within = layers + noise, np.tile(np.arange(6.0), 4)
    assert statistics.rank_correlation(*by_layer) > 0.9
    assert statistics.within_groups_p(*by_layer, layers, 500, seed=0) > 0.05
    assert statistics.within_groups_p(layers + within / 10, layers + within / 10, layers, 500, seed=0) == 1 / 501


def test_heads_stay_in_their_layers_whatever_their_order(statistics, monkeypatch):
    layers, seen = np.array([2, 0, 1, 0, 2, 1]), []
    monkeypatch.setattr(statistics, "rank_correlation", lambda x, y: seen.append(x) or np.zeros(x.shape[:-1]))
    statistics.within_groups_p(10.0 * layers + np.arange(6) / 10, np.arange(6.0), layers, 50, seed=0)
    assert (np.floor(seen[0] / 10) == layers).all()
    assert len({tuple(row) for row in seen[0]}) > 2


def test_chance_ranks_give_uniform_p_values(statistics):
    layers = np.repeat(np.arange(3), 4)
    p_values = [
        statistics.within_groups_p(*rng(seed).normal(size=(2, 12)), layers, 49, seed=seed) for seed in range(100)
    ]
    assert 0.4 < np.mean(p_values) < 0.6
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.08)


def test_holm_by_hand(statistics):
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1, 1]


def test_paired_accuracies_by_hand(statistics):
    before, after = np.array([True] * 8 + [False] * 12), np.array([True] * 2 + [False] * 18)
    assert statistics.paired_p(before, after) == pytest.approx(2 / 2**6)
    assert statistics.paired_p(before, before) == 1
    assert statistics.paired_p(before, after) == statistics.paired_p(after, before)
