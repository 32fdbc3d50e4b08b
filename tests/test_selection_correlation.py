"""unit_output_correlation gives what Pearson's correlation gives coordinate by coordinate."""

import numpy as np
import pytest
import torch
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.selection import correlation, unit_output_correlation
from residual_lens.selection.axes import Axes
from residual_lens.selection.correlation import mean_correlations
from residual_lens.selection.features import UnitFeatures
from residual_lens.spectral.moments import moments_of_pieces
from tests.reference.selection import naive_axes, naive_correlations
from tests.tolerances import FLOAT64_TOL, assert_close

UNITS, D_OUT = 3, 6
HUGE_MEAN_TOL = 1e-8
"""Numbers rounded at 1e-16 of a mean that is 1e6 times their spread."""
ORTHOGONAL_TOL = 1e-15


def draw(samples: int = 40, *, seed: int = 0) -> Tensor:
    """Units with means, spreads and coordinates of their own."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(UNITS, D_OUT, D_OUT, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, UNITS, D_OUT, generator=generator, dtype=torch.float64)
    return torch.einsum("sud,ude->sue", x, mixing) + torch.randn(UNITS, D_OUT, generator=generator).double()


def still_unit() -> Tensor:
    """0.1 is no binary fraction: the mean of forty of them is not 0.1 to the last digit."""
    values = draw()
    values[:, 1] = 0.1
    return values


def still_coordinates() -> Tensor:
    """No unit moves along the first coordinate, one not along the second either."""
    values = draw()
    values[:, :, 0] = 0.3
    values[:, 2, 1] = 0.7
    return values


def repeated_coordinates() -> Tensor:
    values = draw()
    values[..., 3:] = values[..., :3]
    return values


def cancelling_coordinates() -> Tensor:
    """Units move along the first coordinate, their sum does not."""
    values = draw()
    values[:, 1, 0] = 0.1 - values[:, 0, 0]
    values[:, 2, 0] = 0.3
    return values


def opposed_units() -> Tensor:
    """The whole output is the third unit alone."""
    values = draw()
    values[:, 1] = -values[:, 0]
    return values


DATA = {
    "random": (draw, FLOAT64_TOL),
    "float32": (lambda: draw().float(), FLOAT64_TOL),
    "two samples": (lambda: draw(2), FLOAT64_TOL),
    "fewer samples than dimensions": (lambda: draw(4), FLOAT64_TOL),
    "samples twice": (lambda: draw(10).repeat(2, 1, 1), FLOAT64_TOL),
    "one unit": (lambda: draw()[:, :1], FLOAT64_TOL),
    "huge mean": (lambda: draw() + 1e6, HUGE_MEAN_TOL),
    "still unit": (still_unit, FLOAT64_TOL),
    "still coordinates": (still_coordinates, FLOAT64_TOL),
    "repeated coordinates": (repeated_coordinates, FLOAT64_TOL),
    "cancelling coordinates": (cancelling_coordinates, FLOAT64_TOL),
    "opposed units": (opposed_units, FLOAT64_TOL),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(correlation, "BLOCK_ROWS", 7)


@pytest.mark.parametrize("case", DATA)
def test_scores_are_the_twins(case):
    values, tol = DATA[case][0](), DATA[case][1]
    before, output = values.clone(), values.double().sum(dim=1)
    expected = naive_correlations(values.numpy(), output.numpy(), naive_axes(output.numpy(), resolution=1e-13))
    found = unit_output_correlation(values, output)
    assert_close(found, torch.from_numpy(expected), tol)
    assert torch.equal(values, before)
    assert found.abs().max() <= 1


@pytest.mark.parametrize("case", ["random", "still coordinates", "cancelling coordinates"])
def test_a_basis_is_taken_as_it_is(case):
    values = DATA[case][0]()
    output = values.sum(dim=1)
    for basis in (torch.eye(D_OUT)[:3], torch.linalg.qr(draw()[:D_OUT, 0]).Q[:4]):
        expected = naive_correlations(values.numpy(), output.numpy(), basis.double().numpy())
        assert_close(unit_output_correlation(values, output, basis), torch.from_numpy(expected), FLOAT64_TOL)


def test_a_unit_that_is_the_output_scores_one():
    output = draw()[:, 0]
    values = torch.stack([output, -output, 3 * output + 1, torch.zeros_like(output)], dim=1)
    assert_close(unit_output_correlation(values, output), torch.tensor([1.0, -1, 1, 0]), FLOAT64_TOL)
    for seed in range(20):
        output = draw(seed=seed)[:, 0]
        assert unit_output_correlation(output[:, None], output) <= 1


def test_nothing_correlates_with_an_output_that_does_not_vary():
    values = draw()
    assert torch.equal(unit_output_correlation(values, torch.full((40, D_OUT), 0.1)), torch.zeros(UNITS).double())
    noise = torch.randn(40, D_OUT, generator=torch.Generator().manual_seed(1))
    # What float32 leaves of one and the same embedding, computed in several batches.
    assert torch.equal(unit_output_correlation(values, 1 + 1e-7 * noise), torch.zeros(UNITS).double())
    assert unit_output_correlation(values, 1 + 1e-4 * noise).abs().min() > 0


def test_a_unit_at_right_angles_to_the_basis_scores_zero_and_not_its_rounding():
    q = torch.linalg.qr(draw(D_OUT)[:, 0]).Q
    x = draw()[:, 0] @ torch.linalg.qr(draw(D_OUT, seed=1)[:, 0]).Q
    inside, beside = x[:, :3] @ q[:3], x[:, 3:] @ q[3:]
    # Its products with the basis are numbers, as rounding is.
    assert 0 < (beside @ q[:3].mT).abs().max() < 100 * ORTHOGONAL_TOL
    found = unit_output_correlation(torch.stack([inside, beside], dim=1), inside + beside, q[:3])
    assert_close(found, torch.tensor([1.0, 0.0]), FLOAT64_TOL)
    assert found[1] == 0


def test_features_and_their_map_give_what_contributions_give():
    q = torch.linalg.qr(draw(D_OUT)[:, 0]).Q
    mixing, x = draw(4, seed=1)[:, 0, :3], draw(seed=2)[:, 0, :4]
    # The second unit is at right angles to the basis, the third lies askew.
    frames = [q[:3], q[3:], torch.linalg.qr(q[:, :3] + q.mT[:, 1:4]).Q.mT]
    values = torch.stack([x @ mixing @ frame for frame in frames], dim=1)
    output = values.sum(dim=1)
    axes = Axes.given(moments_of_pieces(1, [0], lambda *_: output.clone()), output.dtype, q[:3])
    units = [UnitFeatures(lambda at: x[at], mixing, frame) for frame in frames]
    found = mean_correlations([slice(0, 9), slice(9, 40)], axes, lambda at: output[at], units)
    assert_close(found, unit_output_correlation(values, output, q[:3]), FLOAT64_TOL)
    assert found[1] == 0
    assert found[[0, 2]].abs().min() > 0.1


def test_order_and_blocks_of_samples_do_not_matter(monkeypatch):
    values = draw()
    order = np.random.default_rng(0).permutation(40)
    found = unit_output_correlation(values, values.sum(dim=1))
    assert_close(unit_output_correlation(values[order], values[order].sum(dim=1)), found, FLOAT64_TOL)
    monkeypatch.setattr(correlation, "BLOCK_ROWS", 1)
    assert_close(unit_output_correlation(values, values.sum(dim=1)), found, FLOAT64_TOL)


def test_blocks_far_apart_cost_no_digits():
    values = draw() + 1e3 * (torch.arange(40) // 20)[:, None, None]
    output = values.sum(dim=1)
    expected = naive_correlations(values.numpy(), output.numpy(), naive_axes(output.numpy()))
    assert_close(unit_output_correlation(values, output), torch.from_numpy(expected), 1e-9)


BAD = {
    "samples": (MismatchError, "differ in samples or d_out", lambda v: (v, v[:9].sum(dim=1))),
    "dimensions": (MismatchError, "differ in samples or d_out", lambda v: (v, v[..., :2].sum(dim=1))),
    "one sample": (InputError, r"two samples of something, got values \[1, 3, 6\]", lambda v: (v[:1], v[:1, 0])),
    "no units": (InputError, r"got values \[40, 0, 6\]", lambda v: (v[:, :0], v[:, 0])),
    "NaN": (InputError, "NaN or infinite", lambda v: (v / 0.0, v.sum(dim=1))),
    "NaN output": (InputError, "NaN or infinite", lambda v: (v, v.sum(dim=1) * torch.nan)),
    "basis of another size": (MismatchError, "basis has 5 dim", lambda v: (v, v.sum(dim=1), torch.eye(5).double())),
    "long rows": (InputError, "must be orthonormal", lambda v: (v, v.sum(dim=1), 2 * torch.eye(D_OUT).double())),
    "NaN rows": (InputError, "must be orthonormal", lambda v: (v, v.sum(dim=1), torch.eye(D_OUT).double() / 0)),
    "no rows": (InputError, "these 0 are not", lambda v: (v, v.sum(dim=1), torch.eye(D_OUT)[:0].double())),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    error, message, arguments = BAD[case]
    with pytest.raises(error, match=message):
        unit_output_correlation(*arguments(draw()))
