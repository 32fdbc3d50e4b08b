"""The two nearest neighbours are exact for every sample, whatever float32 products can tell apart."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.spectral import neighbours
from residual_lens.spectral.neighbours import distinct_rows, two_nearest
from tests.reference.dimension import naive_two_nearest

EXACT_TOL = 1e-14
"""Float64 sums of a few hundred squares in another order, relative to each distance by itself."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(samples: int, rank: int, features: int) -> Tensor:
    return draw(samples, rank) @ draw(rank, features, seed=1)


def with_near_copies() -> Tensor:
    x = draw(300, 9)
    return torch.cat([x, x + 1e-12 * draw(300, 9, seed=1)])


def clusters() -> Tensor:
    return torch.cat([1e-9 * draw(150, 6, seed=seed) + draw(1, 6, seed=-seed) for seed in range(1, 4)])


def one_row_off_the_plane() -> Tensor:
    x = low_rank(1000, 3, 40)
    x[500] += 5 * draw(40, seed=2)
    return x


DATA: dict[str, Callable[[], Tensor]] = {
    "low rank": lambda: low_rank(1500, 5, 50),
    "low rank in float32": lambda: low_rank(1500, 5, 50).float(),
    "full rank": lambda: draw(1300, 100),
    "more features than samples": lambda: draw(150, 300),
    "a line": lambda: low_rank(1200, 1, 20),
    "one feature": lambda: draw(200, 1),
    "huge mean": lambda: low_rank(600, 8, 50) + 1e8,
    "huge mean in float32": lambda: (low_rank(600, 8, 50) + 1e4).float(),
    "near copies": with_near_copies,
    "clusters of 1e-9": clusters,
    "one row off the plane": one_row_off_the_plane,
    "far outliers": lambda: torch.cat([draw(400, 5), 1e12 * draw(2, 5, seed=1)]),
    "one axis tiny": lambda: draw(500, 4) * torch.tensor([1.0, 1.0, 1.0, 1e-9]),
    "grid": lambda: 0.1 * torch.cartesian_prod(*[torch.arange(9.0)] * 3),
    "copies": lambda: torch.cat([draw(200, 4), draw(50, 4)]),
    "all equal": lambda: torch.full((40, 3), 0.1),
    "three samples": lambda: draw(3, 4),
    "four samples": lambda: draw(4, 1),
    "one block and one row": lambda: draw(neighbours.ROWS + 1, 5),
    "one stretch of columns and one": lambda: draw(neighbours.COLUMNS + 1, 5),
    "neighbours at the stride of a block": lambda: (torch.arange(512.0) % 128)[:, None] + 1e-3 * draw(512, 3),
    "float16": lambda: draw(300, 64).half(),
    "bfloat16": lambda: draw(300, 64).bfloat16(),
}


def assert_exact(x: Tensor) -> None:
    actual, expected = torch.stack(two_nearest(x), dim=1), naive_two_nearest(x)
    assert actual.dtype == torch.float64
    assert ((actual - expected).abs() <= EXACT_TOL * expected).all()


@pytest.mark.parametrize("name", DATA)
def test_every_distance_equals_that_of_the_full_matrix(name):
    assert_exact(DATA[name]())


@pytest.mark.parametrize("power", [-600, 600])
def test_neither_tiny_nor_huge_numbers_lose_digits(power):
    x = draw(200, 4)
    plain, scaled = two_nearest(x), two_nearest(x * 2.0**power)
    assert torch.equal(scaled.first, plain.first * 2.0**power)
    assert torch.equal(scaled.second, plain.second * 2.0**power)


def unproven(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many samples the float32 sweep leaves to float64."""
    left: list[int] = []
    inner = neighbours._nearest_of_all
    monkeypatch.setattr(neighbours, "_nearest_of_all", lambda c, rows: [left.append(len(rows)), inner(c, rows)][1])
    two_nearest(x)
    return sum(left)


@pytest.mark.parametrize("name", ["low rank", "low rank in float32", "full rank", "huge mean"])
def test_the_sweep_proves_nearly_all_samples_by_itself(name, monkeypatch):
    x = DATA[name]()
    assert unproven(x, monkeypatch) <= 0.02 * len(x)


def test_samples_that_float32_cannot_tell_apart_are_not_taken_for_proven(monkeypatch):
    x = clusters()
    assert unproven(x, monkeypatch) == len(x)


@pytest.mark.parametrize("name", ["low rank", "clusters of 1e-9"])
@pytest.mark.parametrize("context", ["autocast", "matmul precision", "grad"])
def test_the_callers_settings_do_not_cost_digits(name, context):
    x = DATA[name]()
    if context == "autocast":
        with torch.autocast("cpu"):
            assert_exact(x.float())
    elif context == "grad":
        assert_exact(x.requires_grad_())
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            assert_exact(x)
        finally:
            torch.set_float32_matmul_precision(before)


def test_low_rank_data_is_multiplied_in_few_coordinates():
    factors = neighbours._Coordinates(low_rank(400, 5, 60).float(), torch.arange(400)).factors(
        torch.arange(7), torch.float32
    )
    assert factors.shape == (7, 5 + 2)


def test_bounds_are_below_the_distances_and_close_to_them():
    x = low_rank(400, 20, 60).float() + 10
    coordinates = neighbours._Coordinates(x, torch.arange(400))
    factors = coordinates.factors(torch.arange(400), torch.float32)
    lower = (neighbours._turned(factors) @ factors.mT).double() * coordinates.scale**2
    squares = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    assert (lower <= squares).all()
    assert (squares - lower).max() <= 2e-5 * squares.max()


def test_memory_grows_with_the_samples_and_not_with_their_square():
    def peak(samples: int) -> int:
        x = draw(samples, 8).float()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            two_nearest(x)
        held = highest = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                highest = max(highest, held)
        return highest

    small, large = peak(2000), peak(8000)
    assert large < 5 * small
    assert large < 8000**2


def test_distinct_rows_are_the_first_of_each():
    x = draw(50, 3)[torch.tensor([4, 1, 4, 9, 1, 4, 7])]
    assert distinct_rows(x).tolist() == [0, 1, 3, 6]


def test_rows_that_differ_in_one_last_digit_are_distinct_and_signed_zeros_are_not():
    x = torch.zeros(3, 2, dtype=torch.float64)
    x[1, 1] = 5e-324
    x[2, 1] = -0.0
    assert distinct_rows(x).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_copies_are_found_among_many(dtype):
    x = draw(3000, 5).to(dtype)
    copied = torch.cat([x, x[::3]])
    assert distinct_rows(copied).tolist() == sorted(
        {tuple(row): i for i, row in reversed([*enumerate(copied.tolist())])}.values()
    )


def with_nan() -> Tensor:
    x = draw(4, 2)
    x[3, 1] = float("nan")
    return x


BAD = [
    (lambda: draw(4), r"Expected a float tensor \[sample feature\], got torch.float64 \[4\]"),
    (lambda: draw(4, 2).long(), r"got torch.int64 \[4, 2\]"),
    (lambda: draw(0, 2), r"at least one sample and one feature, got \[sample feature\] \[0, 2\]"),
    (lambda: draw(4, 0), r"\[4, 0\]"),
    (with_nan, "NaN or infinite"),
    (lambda: draw(4, 2) / 0, "NaN or infinite"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("features", [1, 2, 5])
def test_rows_of_equal_digest_are_compared_by_their_bytes(dtype, features, monkeypatch):
    x = torch.randint(3, (40, features), generator=torch.Generator().manual_seed(0)).to(dtype) - 1
    kept = distinct_rows(x)
    monkeypatch.setattr(neighbours, "_digests", lambda rows: np.zeros(len(rows), np.uint64))
    assert torch.equal(distinct_rows(x), kept)
    assert kept.tolist() == [i for i in range(40) if not any(torch.equal(x[i], x[j]) for j in range(i))]


@pytest.mark.parametrize("function", [two_nearest, distinct_rows])
@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_samples_are_refused(function, bad, message):
    with pytest.raises(InputError, match=message):
        function(bad())


def test_fewer_than_three_samples_are_refused():
    with pytest.raises(InputError, match="at least 3 samples, got 2"):
        two_nearest(draw(2, 4))


def test_columns_that_lie_together_in_memory_are_read_like_rows():
    x = torch.randn(4, 60, generator=torch.Generator().manual_seed(0)).mT
    assert torch.equal(distinct_rows(x), distinct_rows(x.contiguous()))
    assert torch.equal(two_nearest(x).first, two_nearest(x.contiguous()).first)
