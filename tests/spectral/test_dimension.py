"""TwoNN agrees with its twin, scikit-dimension and DADApy; measures of a spectrum with their definitions."""

import math

import numpy as np
import pytest
import skdim
import sklearn.base
import sklearn.pipeline
import sklearn.preprocessing
import torch
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.spectral.dimension import (
    effective_rank,
    linear_dimension,
    participation_ratio,
    two_nn,
    two_nn_scaling,
)
from residual_lens.spectral.estimators import EffectiveRank, LinearDimension, ParticipationRatio, TwoNN
from tests.reference.dimension import (
    naive_effective_rank,
    naive_linear_dimension,
    naive_participation_ratio,
    naive_two_nearest,
    naive_two_nn,
)
from tests.spectral.manifolds import NAMES, manifold
from tests.tolerances import FLOAT64_TOL, assert_close

PEER_TOL = 1e-6
"""Peers compute distances by products of float64, which loses half the digits of the nearest ones."""

CURVE_FIT_TOL = 1e-6
"""DADApy finds the slope by iteration (scipy's curve_fit stops at 1e-8)."""

# (dimension, mean distance to the two nearest neighbours) by DADApy 0.3.4 with numpy 1.26.4, in an environment of its
# own (`pip install dadapy 'numpy<2'`: it does not run with numpy 2), with `manifold` of tests/spectral/manifolds.py:
#     for name in NAMES: print(name, dadapy.Data(coordinates=manifold(name)).compute_id_2NN())
# Its definition is ours: F = i / n, all but the largest tenth of the ratios, least squares through the origin. It keeps
# copies (μ = 0/0) and refuses no grid, so that only clean samples can be compared.
DADAPY = {
    "gaussian-1": (0.9936757474653988, 0.035882343764032),
    "gaussian-2": (2.0466994512776036, 0.8637094117772841),
    "gaussian-3": (3.018968377254578, 1.9838053073397794),
    "gaussian-4": (4.340355604084918, 3.948609250093395),
    "gaussian-5": (4.823797834274858, 5.578274740625224),
    "gaussian-6": (5.87101766636797, 7.180292914320412),
    "gaussian-7": (7.02908174935562, 8.727844933165105),
    "gaussian-8": (7.544493604011081, 10.212118921651996),
    "gaussian-9": (8.397224577818102, 12.119431875414461),
    "gaussian-10": (9.577771267390652, 13.454835840238793),
    "cube-3": (3.034709703681817, 0.0799437223332135),
    "sphere-2": (1.9931035675935846, 0.0824594505449346),
    "sphere-6": (5.912601581420759, 0.46797881867554633),
    "roll": (2.0688611513168254, 0.8441795793573226),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(name: str) -> Tensor:
    return torch.from_numpy(manifold(name))


@pytest.mark.parametrize("name", NAMES)
def test_two_nn_agrees_with_the_twin_and_both_peers(name):
    x = samples(name)
    result = two_nn(x)
    assert result.dimension == pytest.approx(naive_two_nn(naive_two_nearest(x)), rel=FLOAT64_TOL)
    assert result.dimension == pytest.approx(
        skdim.id.TwoNN(discard_fraction=0.1).fit(x.numpy()).dimension_, rel=PEER_TOL
    )
    dimension, scale = DADAPY[name]
    assert result.dimension == pytest.approx(dimension, rel=CURVE_FIT_TOL)
    assert result.scale == pytest.approx(scale, rel=PEER_TOL)
    assert (result.n_used, result.n_duplicates) == (len(x), 0)


@pytest.mark.parametrize("discard", [0.0, 0.25, 0.5])
def test_discard_is_the_twins(discard):
    x = samples("roll")
    expected = naive_two_nn(naive_two_nearest(x), discard)
    assert two_nn(x, discard=discard).dimension == pytest.approx(expected, rel=FLOAT64_TOL)


def test_copies_of_a_quarter_of_the_rows_change_nothing():
    x = draw(2000, 5)
    copied = torch.cat([x, x[:500], x[:3]])[torch.randperm(2503, generator=torch.Generator().manual_seed(0))]
    clean, result = two_nn(x), two_nn(copied)
    assert result.dimension == pytest.approx(clean.dimension, rel=FLOAT64_TOL)
    assert (result.n_used, result.n_duplicates) == (2000, 503)
    assert abs(result.dimension - 5) < 0.5


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_a_huge_mean_costs_what_rounding_the_data_costs_and_nothing_more(dtype, tol):
    x = samples("gaussian-6")
    rounded = two_nn(x.to(dtype)).dimension
    assert rounded == pytest.approx(naive_two_nn(naive_two_nearest(x.to(dtype))), rel=FLOAT64_TOL)
    assert rounded == pytest.approx(two_nn(x).dimension, rel=tol)
    assert two_nn(x + 1e7).dimension == pytest.approx(two_nn(x).dimension, rel=1e-5)


def test_the_standard_error_is_the_spread_over_independent_ratios():
    """Of ratios drawn as the model says, without samples: 400 fits."""
    draws = [naive_slope(torch.from_numpy(np.random.default_rng(i).exponential(1 / 3, 300))) for i in range(400)]
    x = samples("cube-3")[:300]
    result = two_nn(x)
    assert float(np.std(draws)) == pytest.approx(result.standard_error * 3 / result.dimension, rel=0.12)


def naive_slope(logs: Tensor) -> float:
    return naive_two_nn(torch.stack([torch.ones(len(logs)).double(), logs.exp()], dim=1))


@pytest.mark.parametrize("step", [1.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_is_refused(step, dtype):
    line = (step * torch.arange(300, dtype=torch.float64))[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    with pytest.raises(InputError, match="at least 270 of 300 samples are equally far, as on a regular grid"):
        two_nn(line.to(dtype))


def test_three_distinct_samples_are_the_least():
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    expected = naive_two_nn(torch.tensor([[1.0, 3.0], [1.0, 2.0], [2.0, 3.0]]))
    assert two_nn(x).dimension == pytest.approx(expected, rel=FLOAT64_TOL)
    for few, among in ((x[:2], 2), (x[[0, 1, 1, 0]], 4)):
        with pytest.raises(InputError, match=f"at least 3 distinct samples, got 2 among {among}"):
            two_nn(few)
    with pytest.raises(InputError, match="got 1 among 7"):
        two_nn(torch.full((7, 3), 0.1))


@pytest.mark.parametrize("function", [two_nn, two_nn_scaling])
def test_bad_samples_are_refused(function):
    x = draw(20, 3)
    x[3, 1] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        function(x)
    with pytest.raises(InputError, match=r"float tensor \[sample feature\]"):
        function(draw(20))


@pytest.mark.parametrize("discard", [-0.1, 1.0, math.nan])
def test_a_discard_out_of_range_is_refused(discard):
    with pytest.raises(InputError, match="at least 0 and below 1"):
        two_nn(draw(20, 3), discard=discard)


def test_a_discard_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="leaves none of 20 samples"):
        two_nn(draw(20, 3), discard=0.99)


def test_scaling_is_two_nn_of_disjoint_subsamples():
    x = samples("roll")
    whole, half, quarter = two_nn_scaling(torch.cat([x, x[:100]]), (1.0, 0.5, 0.25), seed=3)
    assert [(at.size, at.repeats) for at in (whole, half, quarter)] == [(1000, 1), (500, 2), (250, 4)]
    assert whole.mean == pytest.approx(two_nn(x).dimension, rel=FLOAT64_TOL)
    assert whole.std is None
    generator = torch.Generator().manual_seed(3)
    torch.randperm(1000, generator=generator)
    parts = [two_nn(x[rows]) for rows in torch.randperm(1000, generator=generator).split(500)]
    assert half.mean == pytest.approx(np.mean([part.dimension for part in parts]), rel=FLOAT64_TOL)
    assert half.std == pytest.approx(np.std([part.dimension for part in parts], ddof=1), rel=FLOAT64_TOL)
    assert half.scale == pytest.approx(np.mean([part.scale for part in parts]), rel=FLOAT64_TOL)
    assert whole.scale < half.scale < quarter.scale


def test_scaling_draws_anew_when_samples_run_out_and_follows_its_seed():
    x = samples("roll")
    (at,) = two_nn_scaling(x, (0.5,), repeats=5, seed=1)
    assert at.repeats == 5
    assert two_nn_scaling(x, (0.5,), repeats=5, seed=1) == (at,)
    assert two_nn_scaling(x, (0.5,), repeats=5, seed=2) != (at,)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.1, 0.02, math.nan])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(InputError, match="A fraction must be above 0, at most 1 and of at least 3 samples"):
        two_nn_scaling(draw(100, 3), (1.0, fraction))


def test_no_repeats_are_refused():
    with pytest.raises(InputError, match="repeats must be at least 1, got 0"):
        two_nn_scaling(draw(100, 3), repeats=0)


SPECTRA = torch.tensor(
    [
        [5.0, 3.0, 1.0, 0.5, 0.5],
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [7.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.1, 0.0, 4.0, 1e-9, 2.0],
        [1e-30, 2e-30, 0.0, 1e-31, 0.0],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.93, 0.99, 1.0])
def test_linear_dimension_is_the_twins_for_all_units_at_once(threshold):
    expected = [naive_linear_dimension(row, threshold) for row in SPECTRA]
    assert linear_dimension(SPECTRA, threshold=threshold).tolist() == expected
    units = SPECTRA.view(2, 3, 5)
    assert linear_dimension(units, threshold=threshold).tolist() == [expected[:3], expected[3:]]


@pytest.mark.parametrize(
    ("measure", "twin"),
    [(participation_ratio, naive_participation_ratio), (effective_rank, naive_effective_rank)],
)
def test_measures_of_a_spectrum_are_the_twins(measure, twin):
    expected = torch.tensor([twin(row) for row in SPECTRA], dtype=torch.float64)
    assert_close(measure(SPECTRA), expected, FLOAT64_TOL)
    assert_close(measure(SPECTRA.view(2, 3, 5)), expected.view(2, 3), FLOAT64_TOL)
    assert_close(measure(SPECTRA * 1e200), expected, FLOAT64_TOL)
    assert measure(SPECTRA[3]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("components", [1, 7, 10, 49, 768])
def test_rounding_takes_linear_dimension_neither_to_one_nor_beyond(components, dtype):
    equal = torch.full((components,), 0.1, dtype=dtype)
    assert linear_dimension(equal, threshold=1.0) == components
    for count in {1, components // 2, components - 1} - {0}:
        assert linear_dimension(equal, threshold=count / components) == count
    assert linear_dimension(torch.cat([equal, equal[:3] * 0]), threshold=1.0) == components


@pytest.mark.parametrize("measure", [linear_dimension, participation_ratio, effective_rank])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0, -1e-18], "not negative"),
        ([1.0, math.nan], "must be finite"),
        ([1.0, math.inf], "must be finite"),
        ([], r"at least one variance, got \[... component\] \[0\]"),
    ],
)
def test_bad_variances_are_refused(measure, bad, message):
    with pytest.raises(InputError, match=message):
        measure(torch.tensor(bad))


@pytest.mark.parametrize("threshold", [0.0, 1.01, math.nan])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        linear_dimension(SPECTRA, threshold=threshold)


ESTIMATORS = [TwoNN(discard=0.2), LinearDimension(threshold=0.9), ParticipationRatio(), EffectiveRank()]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_estimators_follow_scikit_learn(estimator):
    copy = sklearn.base.clone(estimator)
    assert copy.get_params() == estimator.get_params()
    assert not hasattr(copy, "dimension_")
    x = manifold("gaussian-3")
    assert copy.fit(x) is copy
    assert copy.n_features_in_ == 50
    assert sklearn.base.clone(estimator).fit(torch.from_numpy(x)).dimension_ == copy.dimension_
    scaled = sklearn.pipeline.make_pipeline(sklearn.preprocessing.StandardScaler(), sklearn.base.clone(estimator))
    assert scaled.fit(x)[-1].dimension_ > 0
    with pytest.raises(InputError, match=r"float tensor \[sample feature\], got torch.int64 \[3\]"):
        copy.fit(np.arange(3))


def test_estimators_give_what_the_functions_give():
    x = samples("sphere-2")
    variances = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0).clamp_min(0)
    two = TwoNN(discard=0.2).fit(x)
    expected = two_nn(x, discard=0.2)
    assert (two.dimension_, two.standard_error_, two.scale_, two.n_used_, two.n_duplicates_) == (
        expected.dimension,
        expected.standard_error,
        expected.scale,
        expected.n_used,
        expected.n_duplicates,
    )
    assert LinearDimension(threshold=0.6).fit(x).dimension_ == int(linear_dimension(variances, threshold=0.6)) == 2
    assert ParticipationRatio().fit(x).dimension_ == pytest.approx(float(participation_ratio(variances)))
    assert EffectiveRank().fit(x).dimension_ == pytest.approx(float(effective_rank(variances)))
    assert_close(torch.from_numpy(ParticipationRatio().fit(x).variances_), variances, FLOAT64_TOL)
