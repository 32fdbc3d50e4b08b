"""Spectral cosine gives the numbers of a greedy loop over one pair, on any bases, in any batch."""

import pytest
import torch
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.spectral import similarity
from residual_lens.spectral.similarity import pairwise_spectral_cosine, spectral_cosine
from tests.reference.similarity import naive_spectral_cosine
from tests.tolerances import FLOAT32_AGAINST_FLOAT64_TOL, assert_close

EXACT_TOL = 1e-12
"""Float64 sums of some ten terms in another order."""


def bases(*shape: int, seed: int = 0) -> Tensor:
    """Orthonormal rows, `[*pair component feature]`."""
    generator = torch.Generator().manual_seed(seed)
    *pairs, components, features = shape
    drawn = torch.randn(*pairs, features, components, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.mT.contiguous()


def eigenvalues(*shape: int, seed: int = 0) -> Tensor:
    """Descending, of very different sizes."""
    drawn = 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.exp().sort(dim=-1, descending=True).values


def naive(x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
    """The twin, pair by pair."""
    values = [naive_spectral_cosine(*pair) for pair in zip(x, y, *weights, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def hadamard(pairs: int, seed: int) -> Tensor:
    """Permuted Hadamard rows of length 16 with entries ±1/4, some repeated: all products are multiples of 1/16."""
    h = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        h = torch.cat([torch.cat([h, h], dim=1), torch.cat([h, -h], dim=1)])
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(16, (pairs, 8), generator=generator)
    signs = torch.randint(2, (pairs, 8, 16), generator=generator) * 2.0 - 1
    flips = torch.where(torch.rand(pairs, 8, 16, generator=generator) < 0.2, signs, 1.0)
    return h[rows] * flips / 4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("components", [(1, 1), (5, 5), (16, 16), (3, 8), (9, 2), (33, 7)])
def test_equals_a_greedy_loop(components, weighted):
    kx, ky = components
    x, y = bases(12, kx, 40), bases(12, ky, 40, seed=1)
    if weighted:
        weights = eigenvalues(12, kx), eigenvalues(12, ky, seed=1)
        actual = spectral_cosine(x, y, x_weights=weights[0], y_weights=weights[1])
        assert_close(actual, naive(x, y, *weights), EXACT_TOL)
    else:
        assert_close(spectral_cosine(x, y), naive(x, y), EXACT_TOL)


@pytest.mark.parametrize("weighted", [False, True])
def test_ties_are_broken_as_by_the_loop(weighted):
    x, y = hadamard(300, seed=0), hadamard(300, seed=1)
    table = (x @ y.mT).abs()
    assert len(table.unique()) <= 17  # of 64 entries a pair
    weights = torch.tensor([4.0, 4.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]).double().expand(300, -1)
    if weighted:
        assert_close(
            spectral_cosine(x, y, x_weights=weights, y_weights=weights), naive(x, y, weights, weights), EXACT_TOL
        )
    else:
        assert_close(spectral_cosine(x, y), naive(x, y), EXACT_TOL)
    for few in (3, 5):
        assert_close(spectral_cosine(x[:, :few], y), naive(x[:, :few], y), EXACT_TOL)
        assert_close(spectral_cosine(x, y[:, :few]), naive(x, y[:, :few]), EXACT_TOL)
    # The rule matters: with rows in the other order, other ties win.
    assert not torch.allclose(spectral_cosine(x.flip(1), y), spectral_cosine(x, y))


def test_without_ties_no_ranks_are_needed(monkeypatch):
    monkeypatch.delattr(similarity, "_matched_in_order")
    x, y, weights = bases(40, 24, 40), bases(40, 24, 40, seed=1), eigenvalues(40, 24)
    y[:, 20:] = 0.0
    assert_close(spectral_cosine(x, y, x_weights=weights), naive(x, y, weights, (y[..., 0] != 0).double()), EXACT_TOL)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (torch.eye(6), torch.eye(6), 1.0),
        (torch.eye(6)[:3], torch.eye(6)[3:], 0.0),
        (torch.full((4, 4), 0.5), torch.full((4, 4), 0.5), 1.0),  # one direction four times: all entries tie
        (torch.eye(6)[[0, 0, 1]], torch.eye(6)[[0, 1, 1]], (2 / 3) ** 0.5),
        (torch.zeros(3, 6), torch.eye(6), 0.0),
        (torch.zeros(3, 6), torch.zeros(2, 6), 0.0),
    ],
)
def test_known_values(x, y, expected):
    assert float(spectral_cosine(x, y)) == pytest.approx(expected, abs=1e-7)
    assert float(pairwise_spectral_cosine(x[None], y[None])[0, 0]) == pytest.approx(expected, abs=1e-7)


def test_a_basis_has_one_with_itself_in_any_order_with_any_signs():
    x, weights = bases(4, 7, 20), eigenvalues(4, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0]).double()[:, None]
    one = torch.ones(4, dtype=torch.float64)
    assert_close(spectral_cosine(x, x[:, order] * signs), one, EXACT_TOL)
    assert_close(
        spectral_cosine(x, x[:, order] * signs, x_weights=weights, y_weights=1e-30 * weights[:, order]), one, EXACT_TOL
    )


def test_weights_that_are_not_proportional_cost_equal_bases_some():
    x = bases(2, 5, 9)
    values = spectral_cosine(x, x, x_weights=eigenvalues(2, 5), y_weights=eigenvalues(2, 5).flip(-1))
    assert (values < 0.99).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_values_lie_between_zero_and_one(weighted):
    x, y = bases(200, 6, 7), bases(200, 5, 7, seed=1)
    x_weights, y_weights = (eigenvalues(200, 6), eigenvalues(200, 5, seed=1).flip(-1)) if weighted else (None, None)
    values = spectral_cosine(x, y, x_weights=x_weights, y_weights=y_weights)
    assert (values > 0).all()
    assert (values <= 1 + EXACT_TOL).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_padding_changes_nothing(weighted):
    """Units with fewer components than their neighbours, padded with zeros anywhere, weights of padding arbitrary."""
    x, y = bases(5, 6, 20), bases(5, 8, 20, seed=1)
    x_weights, y_weights = eigenvalues(5, 6), eigenvalues(5, 8, seed=1)
    kept = [(6, 8), (3, 8), (6, 2), (1, 1), (4, 5)]
    expected = torch.stack(
        [
            spectral_cosine(
                x[pair, :kx],
                y[pair, :ky],
                x_weights=x_weights[pair, :kx] if weighted else None,
                y_weights=y_weights[pair, :ky] if weighted else None,
            )
            for pair, (kx, ky) in enumerate(kept)
        ]
    )
    for pair, (kx, ky) in enumerate(kept):
        x[pair, kx:], y[pair, ky:] = 0.0, 0.0
    order = [5, 0, 3, 1, 4, 2]
    options = {"x_weights": x_weights[:, order], "y_weights": y_weights} if weighted else {}
    assert_close(spectral_cosine(x[:, order], y, **options), expected, EXACT_TOL)
    assert_close(pairwise_spectral_cosine(x[:, order], y, **options).diagonal(), expected, EXACT_TOL)


def test_a_unit_that_does_not_vary_has_zero():
    x, weights = bases(3, 4, 10), eigenvalues(3, 4)
    weights[1] = 0.0
    expected = torch.tensor([1.0, 0.0, 1.0]).double()
    assert_close(spectral_cosine(x, x, x_weights=weights, y_weights=weights), expected, EXACT_TOL)
    assert_close(spectral_cosine(x, x, x_weights=weights, y_weights=eigenvalues(3, 4)), expected, EXACT_TOL)


@pytest.mark.parametrize("block_entries", [1, 200, 2**20])
@pytest.mark.parametrize("units", [(5, 4), (1, 4), (5, 1)])
def test_all_pairs_equal_one_by_one(monkeypatch, units, block_entries):
    monkeypatch.setattr(similarity, "BLOCK_ENTRIES", block_entries)
    x, y = bases(units[0], 3, 12), bases(units[1], 5, 12, seed=1)
    x_weights, y_weights = eigenvalues(units[0], 3), eigenvalues(units[1], 5, seed=1)
    for options in ({}, {"x_weights": x_weights, "y_weights": y_weights}, {"x_weights": x_weights}):
        actual = pairwise_spectral_cosine(x, y, **options)
        expected = torch.stack(
            [
                torch.stack(
                    [
                        spectral_cosine(
                            x[i],
                            y[j],
                            x_weights=x_weights[i] if "x_weights" in options else None,
                            y_weights=y_weights[j] if "y_weights" in options else None,
                        )
                        for j in range(units[1])
                    ]
                )
                for i in range(units[0])
            ]
        )
        assert_close(actual, expected, EXACT_TOL)


def test_any_leading_axes():
    x, y = bases(2, 3, 4, 10), bases(2, 3, 5, 10, seed=1)
    values = spectral_cosine(x, y)
    assert values.shape == (2, 3)
    assert_close(values.flatten(), naive(x.flatten(0, 1), y.flatten(0, 1)), EXACT_TOL)
    assert spectral_cosine(x[0, 0], y[0, 0]).shape == ()
    assert spectral_cosine(x[:0], y[:0]).shape == (0, 3)


def test_arguments_are_left_alone_in_any_layout():
    stored = bases(6, 4, 10).mT.contiguous()
    x, weights = stored.mT[::2], eigenvalues(6, 4)[::2]
    before = x.clone(), weights.clone()
    assert_close(spectral_cosine(x, x, x_weights=weights), naive(x, x, weights, torch.ones_like(weights)), EXACT_TOL)
    pairwise_spectral_cosine(x, x, x_weights=weights)
    assert torch.equal(x, before[0])
    assert torch.equal(weights, before[1])


def test_float32_stays_float32():
    x, y = bases(20, 16, 64).float(), bases(20, 16, 64, seed=1).float()
    weights = eigenvalues(20, 16)
    actual = spectral_cosine(x, y, x_weights=weights, y_weights=weights.float())
    assert actual.dtype == torch.float32
    assert_close(actual, naive(x, y, weights, weights.float()), FLOAT32_AGAINST_FLOAT64_TOL)
    assert spectral_cosine(x, y.double()).dtype == torch.float64
    assert pairwise_spectral_cosine(x, y).dtype == torch.float32


def test_extreme_weights_neither_overflow_nor_vanish():
    x = bases(1, 3, 8).float()
    for scale in (1e-30, 1e30):
        weights = scale * torch.tensor([[3.0, 2.0, 1.0]])
        assert float(spectral_cosine(x, x, x_weights=weights, y_weights=weights)) == pytest.approx(1.0, abs=1e-6)


def with_nan() -> Tensor:
    x = bases(3, 4, 10)
    x[1, 2, 3] = float("nan")
    return x


BAD = {
    "half precision": (
        lambda: (bases(3, 4, 10).half(), bases(3, 4, 10)),
        {},
        InputError,
        "x must be float32 or float64",
    ),
    "no components": (lambda: (bases(3, 4, 10)[:, :0], bases(3, 4, 10)), {}, InputError, r"at least one component"),
    "NaN": (lambda: (bases(3, 4, 10), with_nan()), {}, InputError, r"Rows of y must have norm 1.*row \[1, 2\] has nan"),
    "scaled rows": (lambda: (2 * bases(3, 4, 10), bases(3, 4, 10)), {}, InputError, r"row \[0, 0\] has 2"),
    "other features": (lambda: (bases(3, 4, 10), bases(3, 4, 9)), {}, MismatchError, "x has 10 features and y 9"),
    "weights of another shape": (
        lambda: (bases(3, 4, 10), bases(3, 4, 10)),
        {"y_weights": torch.ones(3, 5)},
        InputError,
        r"y_weights must be one a component of y, \[3, 4\], got \[3, 5\]",
    ),
    "negative weights": (
        lambda: (bases(3, 4, 10), bases(3, 4, 10)),
        {"x_weights": -torch.ones(3, 4)},
        InputError,
        "x_weights must be finite and not negative",
    ),
    "weights with NaN": (
        lambda: (bases(3, 4, 10), bases(3, 4, 10)),
        {"x_weights": torch.full((3, 4), float("nan"))},
        InputError,
        "x_weights must be finite",
    ),
}


@pytest.mark.parametrize("function", [spectral_cosine, pairwise_spectral_cosine])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name, function):
    make, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        function(*make(), **options)


def test_other_pairs_are_refused():
    with pytest.raises(MismatchError, match=r"x has pairs \[3\] and y \[2\]"):
        spectral_cosine(bases(3, 4, 10), bases(2, 4, 10))
