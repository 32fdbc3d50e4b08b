"""Named tolerances and the one comparison that uses them, all relative to the largest entry of what is expected."""

import torch
from torch import Tensor

FLOAT32_TOL = 1e-5
"""Same numbers by another order of float32 operations: some hundred roundings of 6e-8 through a few layers."""

FLOAT64_TOL = 1e-11
"""The same in float64: some hundred roundings of 1e-16, with room for ill-conditioned norms."""

GRADIENT_TOL = 1e-9
"""Gradients in float64 by another order of operations: small differences of large terms lose two more digits."""

FLOAT32_AGAINST_FLOAT64_TOL = 1e-5
"""A float32 computation against its float64 twin: the float32 roundings are all there is."""

BFLOAT16_PARITY_TOL = 2e-3
"""Half a rounding to 8 bits: only the same operations in the same order stay within it."""

BFLOAT16_SUM_TOL = 2e-2
"""Terms rounded to 8 bits each (4e-3) that add up to something not larger than themselves."""

VISIBLE_CHANGE = 1e-3
"""An edit must move the output by more than this, a hundred times what rounding can."""


def relative_gap(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest entry of `expected`; infinite where either is not finite."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    if not (actual.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    largest = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float((actual - expected).abs().max() / largest)


def assert_close(actual: Tensor, expected: Tensor, tol: float) -> None:
    """Both equal up to `tol` times the largest entry of `expected`."""
    gap = relative_gap(actual, expected)
    assert gap <= tol, f"differs by {gap:.2e} of the largest entry, allowed {tol:.0e}"


def assert_changed(actual: Tensor, before: Tensor) -> None:
    """The difference is an effect, not rounding."""
    gap = relative_gap(actual, before)
    assert gap > VISIBLE_CHANGE, f"changed by {gap:.2e} of the largest entry only"
