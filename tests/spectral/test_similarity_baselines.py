"""The simple similarities give the numbers of their formulas, written out pair by pair."""

import math
from collections.abc import Callable

import pytest
import scipy.linalg
import torch
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.spectral import similarity_baselines
from residual_lens.spectral.similarity_baselines import (
    correlation,
    linear_cka,
    mean_cosine,
    principal_angles,
    relative_cosine,
)
from tests.reference.similarity import (
    naive_correlation,
    naive_linear_cka,
    naive_mean_cosine,
    naive_relative_cosine,
)
from tests.tolerances import FLOAT32_AGAINST_FLOAT64_TOL, assert_close

EXACT_TOL = 1e-12
"""Float64 sums of some hundred terms in another order."""

ANCHORS = torch.tensor([3, 0, 7, 11])


def draw(samples: int, units: int, features: int, *, seed: int = 0) -> Tensor:
    """`[sample unit feature]` with a mean of the size of the spread."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, units, features, generator=generator, dtype=torch.float64)
    return x + torch.randn(units, features, generator=generator, dtype=torch.float64)


def all_pairs(twin: Callable[..., float], x: Tensor, y: Tensor, *others: Tensor) -> Tensor:
    """The twin, pair by pair."""
    values = [[twin(a, b, *others) for b in y.unbind(1)] for a in x.unbind(1)]
    return torch.tensor(values, dtype=torch.float64)


def relative_to_anchors(x: Tensor, y: Tensor) -> Tensor:
    return relative_cosine(x, y, ANCHORS)


def naive_relative_to_anchors(x: Tensor, y: Tensor) -> float:
    return naive_relative_cosine(x, y, ANCHORS)


MEASURES = {
    "mean_cosine": (mean_cosine, naive_mean_cosine),
    "correlation": (correlation, naive_correlation),
    "relative_cosine": (relative_to_anchors, naive_relative_to_anchors),
    "linear_cka": (linear_cka, naive_linear_cka),
}


@pytest.mark.parametrize("block_entries", [1, 100, 2**23])
@pytest.mark.parametrize("samples", [12, 40])
@pytest.mark.parametrize("name", MEASURES)
def test_equals_its_formula(monkeypatch, name, samples, block_entries):
    monkeypatch.setattr(similarity_baselines, "BLOCK_ENTRIES", block_entries)
    measure, twin = MEASURES[name]
    x, y = draw(samples, 3, 20), draw(samples, 2, 20, seed=1)
    y[:, 0] += x[:, 1]
    assert_close(measure(x, y), all_pairs(twin, x, y), EXACT_TOL)


@pytest.mark.parametrize("name", ["relative_cosine", "linear_cka"])
@pytest.mark.parametrize("samples", [12, 40])
def test_spaces_may_differ(name, samples):
    measure, twin = MEASURES[name]
    x, y = draw(samples, 2, 30), draw(samples, 3, 5, seed=1)
    assert_close(measure(x, y), all_pairs(twin, x, y), EXACT_TOL)
    assert_close(measure(y, x), measure(x, y).mT, EXACT_TOL)


def test_means_may_come_from_other_samples():
    x, y = draw(12, 3, 6), draw(5, 2, 6, seed=1)
    assert_close(mean_cosine(x, y), all_pairs(naive_mean_cosine, x, y), EXACT_TOL)


@pytest.mark.parametrize("name", MEASURES)
def test_a_unit_has_one_with_itself(name):
    x = draw(30, 3, 5)
    assert_close(MEASURES[name][0](x, 3 * x).diagonal(), torch.ones(3, dtype=torch.float64), EXACT_TOL)


@pytest.mark.parametrize("name", ["relative_cosine", "linear_cka"])
def test_a_rotation_changes_nothing(name):
    x = draw(30, 2, 5)
    rotation = torch.linalg.qr(draw(5, 1, 5)[:, 0]).Q
    assert_close(MEASURES[name][0](x, x @ rotation), MEASURES[name][0](x, x), EXACT_TOL)


@pytest.mark.parametrize("name", ["correlation", "linear_cka"])
@pytest.mark.parametrize("samples", [7, 40])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_unit_that_does_not_vary_has_zero(name, samples, value):
    """0.1 is no binary fraction: the mean of seven of them is not 0.1 to the last digit."""
    x = draw(samples, 3, 8)
    x[:, 1] = value
    other = draw(samples, 2, 8, seed=1)
    for values in (MEASURES[name][0](x, other), MEASURES[name][0](other, x).mT):
        assert not values[1].any()
        assert values[[0, 2]].all()
    assert MEASURES[name][0](x, x)[1, 1] == 0


@pytest.mark.parametrize("name", ["mean_cosine", "relative_cosine"])
def test_zero_vectors_have_zero(name):
    x = draw(12, 3, 8)
    x[:, 1] = 0.0
    values = MEASURES[name][0](x, x)
    assert not values[1].any()
    assert not values[:, 1].any()
    assert values[0, 2] != 0
    x = draw(12, 1, 8)
    x[3] = 0.0  # an anchor
    assert_close(relative_to_anchors(x, x), torch.full((1, 1), 11 / 12, dtype=torch.float64), EXACT_TOL)


def test_a_huge_mean_hides_no_correlation():
    x, y = draw(40, 2, 5), draw(40, 2, 5, seed=1)
    for name in ("correlation", "linear_cka"):
        assert_close(MEASURES[name][0](x + 1e6, y), MEASURES[name][0](x, y), 1e-8)


@pytest.mark.parametrize("name", MEASURES)
def test_float32_stays_float32(name):
    measure, twin = MEASURES[name]
    x, y = draw(40, 2, 6).float(), draw(40, 2, 6, seed=1).float()
    assert measure(x, y).dtype == torch.float32
    assert_close(measure(x, y), all_pairs(twin, x, y), FLOAT32_AGAINST_FLOAT64_TOL)
    assert measure(x, y.double()).dtype == torch.float64


def basis(components: int, features: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(features, 1, components, seed=seed)[:, 0]).Q.mT


@pytest.mark.parametrize("components", [(4, 4), (2, 5), (5, 2), (1, 1), (7, 7)])
def test_angles_equal_scipy(components):
    kx, ky = components
    x = torch.stack([basis(kx, 9, seed) for seed in range(5)])
    y = torch.stack([basis(ky, 9, seed) for seed in range(5, 10)])
    expected = torch.stack(
        [
            torch.from_numpy(scipy.linalg.subspace_angles(a.numpy().T, b.numpy().T)[::-1].copy())
            for a, b in zip(x, y, strict=True)
        ]
    )
    assert_close(principal_angles(x, y), expected, 1e-10)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 0.3, math.pi / 4, 1.2, math.pi / 2])
def test_small_angles_are_not_lost(angle):
    x = torch.eye(4, dtype=torch.float64)[:2]
    y = x.clone()
    y[1] = torch.tensor([0.0, math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    angles = principal_angles(x, y)
    assert float(angles[0]) == pytest.approx(0.0, abs=1e-15)
    assert float(angles[1]) == pytest.approx(angle, rel=1e-12, abs=1e-15)
    assert principal_angles(x.float(), y.float()).dtype == torch.float32


@pytest.mark.parametrize("bad", [2 * torch.eye(3), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(3) / 0])
def test_angles_of_rows_that_are_not_orthonormal_are_refused(bad):
    with pytest.raises(InputError, match="Rows of y must be orthonormal"):
        principal_angles(torch.eye(bad.shape[1])[:1], bad)


def test_angles_of_what_does_not_belong_together_are_refused():
    with pytest.raises(MismatchError, match="x has 4 features and y 3"):
        principal_angles(torch.eye(4), torch.eye(3))
    with pytest.raises(MismatchError, match=r"x has pairs \[2\] and y \[\]"):
        principal_angles(torch.eye(4).expand(2, 4, 4), torch.eye(4))


@pytest.mark.parametrize("name", MEASURES)
def test_bad_input_is_refused(name):
    measure = MEASURES[name][0]
    x = draw(12, 2, 5)
    with_nan = x.clone()
    with_nan[2, 1, 3] = float("nan")
    with pytest.raises(InputError, match="y has NaN or infinite values"):
        measure(x, with_nan)
    with pytest.raises(InputError, match="x has NaN or infinite values"):
        measure(x / 0, x)
    with pytest.raises(InputError, match=r"y must have at least \d samples?, got 0"):
        measure(x, x[:0])
    if name in ("correlation", "linear_cka"):
        with pytest.raises(InputError, match="x must have at least 2 samples, got 1"):
            measure(x[:1], x[:1])
    if name != "mean_cosine":
        with pytest.raises(MismatchError, match="x has 12 samples and y 11"):
            measure(x, x[:11])
    if name in ("mean_cosine", "correlation"):
        with pytest.raises(MismatchError, match="x has 5 features and y 4"):
            measure(x, x[..., :4])


@pytest.mark.parametrize("anchors", [[], [12], [-1]])
def test_anchors_that_are_no_samples_are_refused(anchors):
    x = draw(12, 2, 5)
    with pytest.raises(InputError, match="indices of the 12 samples, at least one, got"):
        relative_cosine(x, x, torch.tensor(anchors, dtype=torch.long))
