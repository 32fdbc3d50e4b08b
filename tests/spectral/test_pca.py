"""StreamingPCA gives the numbers of an SVD of all the data, however the data comes in."""

import pytest
import sklearn.decomposition
import torch
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.spectral import StreamingPCA
from tests.reference.pca import covariance, naive_pca
from tests.tolerances import assert_close

EXACT_TOL = 1e-12
"""Float64 sums of some hundred terms in another order."""

HUGE_MEAN_TOL = 1e-10
"""The same where rounding of the mean (1e-16) is 1e4 times larger against the spread."""

TINY_SPREAD_TOL = 1e-3
"""Samples rounded at 1e-16 that spread by 1e-12."""

UNITS, FEATURES = 3, 5


def draw(samples: int, *, seed: int = 0) -> Tensor:
    """Correlated data with well separated variances and means of the size of the spread."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, UNITS, FEATURES, generator=generator, dtype=torch.float64)
    mixing = torch.randn(UNITS, FEATURES, FEATURES, generator=generator, dtype=torch.float64)
    return torch.einsum("suf,ufg->sug", x, mixing) + torch.randn(UNITS, FEATURES, generator=generator).double()


def constant() -> Tensor:
    """0.1 is no binary fraction: the mean of seven of them is not 0.1 to the last digit."""
    return torch.full((7, UNITS, FEATURES), 0.1, dtype=torch.float64)


def rank_deficient() -> Tensor:
    x = draw(50)
    x[..., 3:] = x[..., :2] - x[..., 1:3]
    return x


def duplicated_columns() -> Tensor:
    x = draw(50)
    return torch.cat([x, x], dim=-1)


DATA = {
    "random": (lambda: draw(200), EXACT_TOL),
    "float32": (lambda: draw(200).float(), EXACT_TOL),
    "constant": (constant, EXACT_TOL),
    "one sample repeated": (lambda: draw(1).expand(40, -1, -1), EXACT_TOL),
    "rank deficient": (rank_deficient, EXACT_TOL),
    "fewer samples than features": (lambda: draw(3), EXACT_TOL),
    "huge mean": (lambda: draw(200) + 1e4, HUGE_MEAN_TOL),
    "huge mean in float32": (lambda: (draw(200) + 1e4).float(), HUGE_MEAN_TOL),
    "duplicated columns": (duplicated_columns, EXACT_TOL),
}


def fit(x: Tensor, *sizes: int, **options: int) -> StreamingPCA:
    """In batches of these sizes and one of the rest."""
    pca = StreamingPCA(**options)
    for batch in x.split([*sizes, len(x) - sum(sizes)]) if sizes else (x,):
        pca.partial_fit(batch)
    return pca


def assert_same(actual: StreamingPCA, expected: StreamingPCA, tol: float) -> None:
    assert actual.n_samples_seen_ == expected.n_samples_seen_
    assert_close(actual.mean_, expected.mean_, tol)
    assert_close(actual.explained_variance_, expected.explained_variance_, tol)
    assert_close(
        covariance(actual.components_, actual.explained_variance_),
        covariance(expected.components_, expected.explained_variance_),
        tol,
    )


@pytest.mark.parametrize("batches", [(), (1, 2)], ids=["one batch", "three batches"])
@pytest.mark.parametrize("name", DATA)
def test_equals_an_svd_of_all_the_data(name, batches):
    make, tol = DATA[name]
    x = make()
    pca = fit(x, *batches) if len(x) > 3 else fit(x)
    varies = "constant" not in name and "repeated" not in name
    for unit, naive in enumerate(naive_pca(x)):
        assert_close(pca.mean_[unit], naive.mean, tol)
        if varies:
            assert_close(pca.explained_variance_[unit], naive.variances, tol)
            ours = covariance(pca.components_[unit], pca.explained_variance_[unit])
            assert_close(ours, covariance(naive.components, naive.variances), tol)
        else:
            assert not pca.explained_variance_[unit].any()


def test_each_component_is_the_twins_up_to_its_sign():
    x = draw(200)
    pca = fit(x, 70)
    for unit, naive in enumerate(naive_pca(x)):
        signs = (pca.components_[unit] * naive.components).sum(dim=-1, keepdim=True).sign()
        # Eigenvectors move by the error over the gap to the neighbouring variance.
        assert_close(pca.components_[unit], signs * naive.components, 100 * EXACT_TOL)


def test_agrees_with_scikit_learn():
    x = draw(200)
    pca = fit(x, 30, 100)
    for unit in range(UNITS):
        theirs = sklearn.decomposition.PCA().fit(x[:, unit].numpy())
        assert_close(pca.mean_[unit], torch.from_numpy(theirs.mean_), EXACT_TOL)
        assert_close(pca.explained_variance_[unit], torch.from_numpy(theirs.explained_variance_), EXACT_TOL)
        assert_close(pca.explained_variance_ratio_[unit], torch.from_numpy(theirs.explained_variance_ratio_), EXACT_TOL)
        components = torch.from_numpy(theirs.components_)
        signs = (pca.components_[unit] * components).sum(dim=-1, keepdim=True).sign()
        assert_close(pca.components_[unit], signs * components, 100 * EXACT_TOL)


@pytest.mark.parametrize("name", ["random", "rank deficient", "fewer samples than features", "huge mean"])
@pytest.mark.parametrize("seed", range(3))
def test_neither_partition_nor_order_matters(name, seed):
    make, tol = DATA[name]
    x = make()
    generator = torch.Generator().manual_seed(seed)
    shuffled = x[torch.randperm(len(x), generator=generator)]
    cuts = torch.randint(1, len(x), (4,), generator=generator).unique().tolist()
    pca = StreamingPCA()
    for batch in shuffled.tensor_split(cuts):
        pca.partial_fit(batch)
    assert_same(pca, fit(x), tol)


def test_more_rows_than_one_block_are_all_taken_in():
    x = draw(300)
    assert_same(fit(x), fit(x, *[1] * 299), EXACT_TOL)


@pytest.mark.parametrize("name", ["random", "rank deficient", "huge mean", "huge mean in float32"])
def test_merged_shards_equal_one_pass(name):
    make, tol = DATA[name]
    x = make()
    shards = [fit(shard) for shard in x.tensor_split([1, 20, 45])]
    before = [(shard.mean_.clone(), shard.n_samples_seen_) for shard in shards[1:]]
    merged = shards[0]
    for shard in shards[1:]:
        merged = merged.merge(shard)
    assert_same(merged, fit(x), tol)
    for shard, (mean, count) in zip(shards[1:], before, strict=True):
        assert torch.equal(shard.mean_, mean)
        assert shard.n_samples_seen_ == count


def test_merging_with_an_empty_one_changes_nothing_either_way():
    x = draw(30)
    assert_same(fit(x).merge(StreamingPCA()), fit(x), EXACT_TOL)
    assert_same(StreamingPCA().merge(fit(x)), fit(x), EXACT_TOL)
    assert StreamingPCA().merge(StreamingPCA()).n_samples_seen_ == 0


def test_what_was_merged_in_stays_as_it_was_when_more_is_fitted():
    first, second = fit(draw(30)), fit(draw(20, seed=1))
    variances = second.explained_variance_.clone()
    StreamingPCA().merge(second).partial_fit(draw(10, seed=2))
    first.merge(second).partial_fit(draw(10, seed=2))
    # Through a merge, because what was read before is remembered.
    assert torch.equal(StreamingPCA().merge(second).explained_variance_, variances)


def test_results_follow_the_samples_added_after_they_were_read():
    x = draw(60)
    pca = fit(x[:30])
    assert pca.explained_variance_.shape == (UNITS, FEATURES)
    assert_same(pca.partial_fit(x[30:]), fit(x), EXACT_TOL)
    assert_same(fit(x[:30]).merge(fit(x[30:])), fit(x), EXACT_TOL)


@pytest.mark.parametrize("name", DATA)
def test_rows_are_orthonormal_and_signs_fixed(name):
    x = DATA[name][0]()
    components = fit(x).components_
    identity = torch.eye(x.shape[2], dtype=torch.float64).expand(UNITS, -1, -1)
    assert_close(components @ components.mT, identity, EXACT_TOL)
    largest = components.gather(-1, components.abs().argmax(dim=-1, keepdim=True))
    assert (largest > 0).all()


def test_signs_are_the_same_for_data_turned_around():
    x = draw(100)
    assert_close(fit(-x).components_, fit(x).components_, 100 * EXACT_TOL)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_unit_that_does_not_vary_has_ratio_zero_and_not_nan(batch):
    x = draw(7)
    x[:, 1] = 0.1
    pca = StreamingPCA()
    for rows in x.split(batch):
        pca.partial_fit(rows)
    assert pca.total_variance_[1] == 0
    assert not pca.explained_variance_ratio_[1].any()
    assert_close(pca.explained_variance_ratio_[[0, 2]].sum(dim=-1), torch.ones(2), EXACT_TOL)


def test_a_spread_far_below_the_mean_still_counts():
    x = 1 + 1e-12 * draw(100)
    assert_close(fit(x).explained_variance_, 1e-24 * fit(draw(100)).explained_variance_, TINY_SPREAD_TOL)


def test_n_components_cuts_the_results_but_not_the_total():
    x = draw(100)
    cut, full = fit(x, n_components=2), fit(x)
    assert torch.equal(cut.components_, full.components_[:, :2])
    assert torch.equal(cut.explained_variance_, full.explained_variance_[:, :2])
    assert torch.equal(cut.explained_variance_ratio_, full.explained_variance_ratio_[:, :2])
    assert torch.equal(cut.total_variance_, full.total_variance_)


def test_results_are_float64_and_leave_no_graph():
    pca = StreamingPCA().partial_fit(draw(10).float().requires_grad_())
    for result in (pca.mean_, pca.components_, pca.explained_variance_, pca.explained_variance_ratio_):
        assert result.dtype == torch.float64
        assert not result.requires_grad


def with_nan() -> Tensor:
    x = draw(4)
    x[3, 1, 2] = float("nan")
    return x


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: draw(4)[:, 0], r"Expected a float tensor \[sample unit feature\], got torch.float64 \[4, 5\]"),
        (lambda: draw(4).long(), r"got torch.int64 \[4, 3, 5\]"),
        (lambda: draw(4)[:0], "at least one sample, got none"),
        (lambda: draw(4)[..., :2], r"Earlier batches were \[sample, 3, 5\], got \[4, 3, 2\]"),
        (lambda: draw(4)[:, :2], r"Earlier batches were \[sample, 3, 5\], got \[4, 2, 5\]"),
        (with_nan, "NaN or infinite"),
        (lambda: draw(4) / 0, "NaN or infinite"),
    ],
)
def test_a_bad_batch_is_refused_and_nothing_of_it_taken_in(bad, message):
    pca = fit(draw(20))
    with pytest.raises(InputError, match=message):
        pca.partial_fit(bad())
    pca.partial_fit(draw(5, seed=1))
    assert_same(pca, fit(torch.cat([draw(20), draw(5, seed=1)])), EXACT_TOL)


def test_results_of_no_or_one_sample_are_refused():
    with pytest.raises(InputError, match="call partial_fit first"):
        _ = StreamingPCA().mean_
    for attribute in ("components_", "explained_variance_", "explained_variance_ratio_", "total_variance_"):
        with pytest.raises(InputError, match="at least 2 samples, this PCA has seen 0"):
            getattr(StreamingPCA(), attribute)
        with pytest.raises(InputError, match="at least 2 samples, this PCA has seen 1"):
            getattr(fit(draw(1)), attribute)
    assert torch.equal(fit(draw(1)).mean_, draw(1)[0])


def test_merging_other_units_is_refused():
    pca = fit(draw(20))
    with pytest.raises(InputError, match=r"over \[unit feature\] \[3, 5\], the other over \[2, 5\]"):
        pca.merge(fit(draw(20)[:, :2]))
    assert_same(pca, fit(draw(20)), EXACT_TOL)


def test_a_restored_state_goes_on_where_it_was_taken():
    x = draw(40)
    first = fit(x[:25])
    state = first.state_dict()
    first.partial_fit(x[25:])
    restored = StreamingPCA.from_state(state, n_components=2).partial_fit(x[25:])
    assert torch.equal(restored.mean_, first.mean_)
    assert torch.equal(restored.explained_variance_, first.explained_variance_[:, :2])
    # The state is a copy, and what is restored from it another.
    assert torch.equal(StreamingPCA.from_state(state).explained_variance_, fit(x[:25]).explained_variance_)


def test_the_state_of_one_that_has_seen_nothing_comes_back():
    restored = StreamingPCA.from_state(StreamingPCA().state_dict())
    assert_same(restored.partial_fit(draw(9)), fit(draw(9)), EXACT_TOL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": torch.zeros(1)}, "has 'count', 'mean' and 'scatter', got"),
        ({"count": torch.tensor([3])}, "one whole number of samples"),
        ({"count": torch.tensor(3.0)}, "one whole number of samples"),
        ({"count": torch.tensor(-3)}, "one whole number of samples"),
        ({"mean": torch.zeros(5, dtype=torch.float64)}, r"must be \[unit feature\]"),
        ({"scatter": torch.zeros(3, 5, 4, dtype=torch.float64)}, r"must be \[unit feature\]"),
        ({"mean": torch.zeros(3, 5)}, "must be float64, got torch.float32"),
        ({"mean": torch.full((3, 5), float("nan"), dtype=torch.float64)}, "NaN or infinite"),
    ],
)
def test_a_state_of_no_pca_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        StreamingPCA.from_state(fit(draw(9)).state_dict() | changes)


def test_without_other_processes_merging_ranks_changes_nothing():
    pca = fit(draw(9))
    before = pca.state_dict()
    assert pca.merge_ranks() is pca
    assert all(torch.equal(value, before[name]) for name, value in pca.state_dict().items())
