"""Moments read piece by piece, in threads, are those of all the data."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.spectral import StreamingPCA
from residual_lens.spectral.moments import Moments, for_each_unit, moments_of_pieces
from tests.reference.pca import covariance, naive_pca
from tests.spectral.test_pca import DATA, EXACT_TOL, FEATURES, UNITS, draw
from tests.tolerances import assert_close


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def blocks_of(n: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def of_pieces(x: Tensor, rows: int) -> Moments:
    return moments_of_pieces(x.shape[1], blocks_of(len(x), rows), lambda unit, block: x[block, unit].double())


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("name", DATA)
def test_a_pca_of_pieces_is_an_svd_of_all_the_data(name, rows, threads):
    make, tol = DATA[name]
    x = make()
    moments = of_pieces(x, rows)
    pca = StreamingPCA.from_moments(moments)
    assert moments.count == pca.n_samples_seen_ == len(x)
    for unit, naive in enumerate(naive_pca(x)):
        assert_close(pca.mean_[unit], naive.mean, tol)
        if "constant" in name or "repeated" in name:
            assert not pca.explained_variance_[unit].any()
            assert not moments.varies()[unit]
        else:
            assert_close(pca.explained_variance_[unit], naive.variances, tol)
            ours = covariance(pca.components_[unit], pca.explained_variance_[unit])
            assert_close(ours, covariance(naive.components, naive.variances), tol)


def test_blocks_whose_means_lie_far_apart_keep_their_digits():
    x = draw(40)
    x[20:] += 1e6
    naive = naive_pca(x)
    moments = of_pieces(x, 20)
    for unit in range(UNITS):
        expected = covariance(naive[unit].components, naive[unit].variances)
        assert_close(moments.scatter[unit] / 39, expected, EXACT_TOL)
        # The smallest direction is not drowned by the step of the mean.
        assert torch.linalg.eigvalsh(moments.scatter[unit])[0] > 0


@pytest.mark.parametrize("rows", [1, 20])
def test_a_first_block_far_from_the_others_costs_no_digits_and_pieces_stay_as_they_are(rows):
    x = draw(60)
    x[0] += 1e6
    before = x.clone()
    moments = of_pieces(x, rows)
    for unit, naive in enumerate(naive_pca(x)):
        assert_close(moments.mean[unit], naive.mean, EXACT_TOL)
        assert_close(moments.scatter[unit] / 59, covariance(naive.components, naive.variances), EXACT_TOL)
    assert torch.equal(x, before)


def test_the_number_of_threads_changes_no_bit_and_is_put_back():
    x = draw(100)
    torch.set_num_threads(1)
    alone = of_pieces(x, 9)
    torch.set_num_threads(2)
    try:
        together = of_pieces(x, 9)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(alone.scatter, together.scatter)
    assert torch.equal(alone.mean, together.mean)


def test_each_piece_is_read_once(threads):
    x, read, lock = draw(20), [], threading.Lock()

    def piece(unit: int, block: slice) -> Tensor:
        with lock:
            read.append((unit, block.start))
        return x[block, unit].clone()

    moments_of_pieces(UNITS, blocks_of(20, 8), piece)
    assert sorted(read) == [(unit, start) for unit in range(UNITS) for start in (0, 8, 16)]


def test_units_run_on_several_threads_with_one_of_torchs_each():
    torch.set_num_threads(2)
    try:
        meeting = threading.Barrier(2, timeout=20)
        seen = for_each_unit(2, lambda unit: (unit, meeting.wait() >= 0, torch.get_num_threads()))
    finally:
        torch.set_num_threads(1)
    assert seen == [(0, True, 1), (1, True, 1)]


def test_an_error_while_reading_stops_the_rest_and_puts_the_threads_back(threads):
    started = []

    def piece(unit: int, block: slice) -> Tensor:
        started.append(unit)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        moments_of_pieces(200, [slice(0, 1)], piece)
    assert len(started) < 200
    assert torch.get_num_threads() == threads


def test_a_pass_that_begins_while_another_runs_waits_and_gets_its_threads():
    running, meeting, met = threading.Event(), threading.Barrier(2, timeout=2), []

    def second() -> None:
        running.wait()
        met.extend(for_each_unit(2, lambda unit: meeting.wait() >= 0))

    def first(unit: int) -> None:
        running.set()
        waiting.join(0.3)

    torch.set_num_threads(2)
    waiting = threading.Thread(target=second, daemon=True)
    try:
        waiting.start()
        for_each_unit(2, first)
        waiting.join(20)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert met == [True, True]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: x.float(), "float64 .sample feature., got torch.float32"),
        (lambda x: x[0], "Expected rows of unit 1 as float64"),
        (lambda x: x[:0], r"got torch.float64 \[0, 5\]"),
        (lambda x: x * float("nan"), "unit 1 in block .* NaN or infinite"),
        (lambda x: x / 0, "NaN or infinite"),
        (lambda x: x[:, :2], "2 features in block|differ in rows or features"),
        (lambda x: x[:1], "differ in rows or features"),
    ],
)
@pytest.mark.parametrize("rows", [5, 20])
def test_bad_pieces_are_refused(bad, message, rows, threads):
    x = draw(20)

    def piece(unit: int, block: slice) -> Tensor:
        good = x[block, unit]
        return bad(good) if unit == 1 and block.stop == 20 else good

    with pytest.raises(InputError, match=message):
        moments_of_pieces(UNITS, blocks_of(20, rows), piece)


@pytest.mark.parametrize(("units", "blocks"), [(0, [slice(0, 1)]), (2, [])])
def test_no_units_or_blocks_are_refused(units, blocks):
    with pytest.raises(InputError, match="at least one unit and one block"):
        moments_of_pieces(units, blocks, lambda unit, block: draw(1)[:, 0])


def mixings(rank: int) -> Tensor:
    return torch.randn(UNITS, FEATURES, rank, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("rank", [2, FEATURES, 8])
@pytest.mark.parametrize("name", ["random", "float32", "rank deficient", "fewer samples than features", "huge mean"])
def test_a_mapped_pca_is_the_pca_of_mapped_data(name, rank):
    make, tol = DATA[name]
    x = make().double()
    pca = StreamingPCA().partial_fit(x)
    variances = pca.explained_variance_.clone()
    found = pca.mapped(mixings(rank))
    for unit, naive in enumerate(naive_pca(torch.einsum("suf,ufr->sur", x, mixings(rank)))):
        assert_close(found.mean_[unit], naive.mean, tol)
        assert_close(found.explained_variance_[unit], naive.variances, tol)
        ours = covariance(found.components_[unit], found.explained_variance_[unit])
        assert_close(ours, covariance(naive.components, naive.variances), tol)
    assert torch.equal(pca.explained_variance_, variances)


def test_a_constant_unit_has_no_variance_after_a_map_that_takes_its_mean_away():
    x = draw(49)
    x[:, 1] = torch.linspace(0.1, 0.7, FEATURES, dtype=torch.float64)
    mixing = mixings(3)
    mean = x[0, 1]
    mixing[1] -= mean[:, None] * (mean @ mixing[1]) / mean.square().sum()
    pca = StreamingPCA()
    for rows in x.split(7):
        pca.partial_fit(rows)
    assert pca._moments is not None
    assert pca._moments.scatter[1].any(), "rounding must have left something to be cleared"
    found = pca.mapped(mixing)
    assert found.total_variance_[1] == 0
    assert (found.total_variance_[[0, 2]] > 0).all()


@pytest.mark.parametrize("shape", [(UNITS + 1, FEATURES, 2), (UNITS, FEATURES + 1, 2)])
def test_a_map_of_another_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"is \[unit feature rank\]"):
        StreamingPCA().partial_fit(draw(5)).mapped(torch.zeros(shape, dtype=torch.float64))


def test_a_pass_within_a_pass_runs_on_its_thread():
    torch.set_num_threads(2)
    try:
        assert for_each_unit(2, lambda outer: sum(for_each_unit(3, lambda inner: 10 * outer + inner))) == [3, 33]
    finally:
        torch.set_num_threads(1)


def test_adding_samples_leaves_the_moments_it_began_with_alone():
    moments = of_pieces(draw(20), 20)
    before = moments.scatter.clone()
    StreamingPCA.from_moments(moments).partial_fit(draw(10, seed=1))
    assert torch.equal(moments.scatter, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_threads_run_in_the_mode_of_the_pass(mode):
    torch.set_num_threads(2)
    try:
        with mode():
            seen = for_each_unit(2, lambda unit: (torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            assert seen == [(torch.is_grad_enabled(), torch.is_inference_mode_enabled())] * 2
    finally:
        torch.set_num_threads(1)
