"""The pursuits pick the atoms of their naive float64 twins, one by one, whatever the data."""

import pytest
import sklearn.linear_model
import torch
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens.errors import InputError, MismatchError
from residual_lens.spectral import omp, somp, text_span
from residual_lens.spectral.pursuit.bounds import Bounds
from residual_lens.spectral.pursuit.dictionary import Atoms
from residual_lens.spectral.pursuit.samples import Samples
from tests.reference.pursuit import NaivePursuit, naive_omp, naive_somp, naive_text_span
from tests.tolerances import FLOAT32_AGAINST_FLOAT64_TOL, assert_close

EXACT_TOL = 1e-10
"""Float64 sums of some hundred terms in another order, and weights of atoms that are not far from dependent."""

MARGIN = {torch.float32: 1e-7, torch.float64: 1e-12}
"""Scores closer than this share of the samples' norms may be told apart by rounding: picks are compared up to there."""

LOOKED = {"noise": 0.45, "sparse": 0.45, "decaying": 0.06, "shared direction": 0.9}
"""Share of all scores that may be computed: a fifth above what is."""

D = 12


def draw(samples: int, *, seed: int = 0, features: int = D) -> Tensor:
    """Spectrum that decays, some mean."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    return x * torch.arange(1, features + 1) ** -0.5 + 1


def dictionary(atoms: int = 40, *, seed: int = 1, features: int = D) -> Tensor:
    """Correlated, as texts are."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(features, generator=generator, dtype=torch.float64)
    return normalize(torch.randn(atoms, features, generator=generator, dtype=torch.float64) + 0.5 * shared, dim=1)


def sparse(samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(samples, 40, generator=generator) * (torch.rand(samples, 40, generator=generator) < 0.05)
    return weights.double() @ dictionary()


def dependent() -> Tensor:
    """Atoms of a plane among others, a copy of each, and the opposite of one."""
    atoms = dictionary(9)
    plane = normalize(torch.tensor([[1.0, 2.0], [-1.0, 3.0], [2.0, 0.5]], dtype=torch.float64) @ atoms[:2], dim=1)
    return torch.cat([atoms, plane, atoms, -atoms[:1]])


def nearly_tied() -> Tensor:
    """Pairs of atoms that float32 cannot tell apart by their scores."""
    atoms = dictionary(20)
    return normalize(torch.cat([atoms + 1e-8 * dictionary(20, seed=5), atoms]), dim=1)


CASES = {
    "random": (lambda: draw(50), dictionary),
    "one dimension varies": (lambda: draw(50) * torch.eye(D)[0], dictionary),
    "rank-deficient data": (lambda: draw(50)[:, :3] @ draw(3, seed=3), dictionary),
    "data of two atoms": (lambda: draw(50)[:, :2] @ dictionary()[3:5], dictionary),
    "rank-deficient atoms": (lambda: draw(50), lambda: normalize(draw(40)[:, :4] @ draw(4, seed=4), dim=1)),
    "dependent atoms": (lambda: draw(50), dependent),
    "near ties": (lambda: draw(50), nearly_tied),
    "fewer atoms than picks": (lambda: draw(50), lambda: dictionary(4)),
    "constant": (lambda: torch.full((7, D), 0.1, dtype=torch.float64), dictionary),
    "zeros": (lambda: torch.zeros(7, D, dtype=torch.float64), dictionary),
    "one sample": (lambda: draw(1), dictionary),
    "two samples": (lambda: draw(2), dictionary),
    "three samples": (lambda: draw(3), dictionary),
    "sparse": (lambda: sparse(60), dictionary),
    "some samples are zero": (lambda: torch.cat([draw(9), torch.zeros(5, D)]), dictionary),
    "tiny": (lambda: draw(50) * 1e-30, dictionary),
    "huge mean": (lambda: draw(50) + 1e4, dictionary),
    "identical axes": (lambda: draw(50), lambda: torch.eye(D, dtype=torch.float64)),
}


@pytest.fixture(params=CASES)
def case(request) -> tuple[Tensor, Tensor]:
    x, atoms = CASES[request.param]
    return x(), atoms()


OPTIONS = [{}, {"center": False}, {"coherence_penalty": 0.8}, {"nonnegative": True}]
RUNS = [(torch.float32, {}), *((torch.float64, options) for options in OPTIONS)]


def framed(x: Tensor) -> tuple[Tensor, Tensor]:
    """The data in the coordinates of a frame of which atoms have a part outside."""
    frame = torch.linalg.qr(draw(x.shape[1], seed=8, features=5)).Q.mT.contiguous()
    return x @ frame.mT, frame


def assert_same_picks(picked: list[int], twin: NaivePursuit, dtype: torch.dtype) -> bool:
    """All of them, or up to where rounding decides; whether it was all."""
    clear = 0
    while clear < len(twin.margins) and twin.margins[clear] > MARGIN[dtype]:
        clear += 1
    assert picked[:clear] == twin.indices[:clear]
    if clear == len(twin.indices):
        assert len(picked) == len(twin.indices)
    return picked == twin.indices


def assert_same(pursuit, twin: NaivePursuit, dtype: torch.dtype, tol: float) -> None:
    if not assert_same_picks(pursuit.indices.tolist(), twin, dtype):
        return
    assert pursuit.weights.dtype == pursuit.reconstruction().dtype == dtype
    assert pursuit.explained_variance.dtype == pursuit.cosine.dtype == torch.float64
    assert pursuit.weights.shape == twin.weights.shape
    assert_close(pursuit.reconstruction(), twin.reconstruction, tol)
    if twin.indices:
        assert_close(pursuit.explained_variance, torch.tensor(twin.explained_variance, dtype=torch.float64), 10 * tol)
        assert_close(pursuit.cosine, torch.tensor(twin.cosine, dtype=torch.float64), 1e3 * tol)


@pytest.mark.parametrize(("dtype", "options"), RUNS, ids=str)
def test_somp_is_its_twin(case, dtype, options):
    x, atoms = (each.to(dtype) for each in case)
    tol = EXACT_TOL if dtype == torch.float64 else FLOAT32_AGAINST_FLOAT64_TOL
    assert_same(somp(x, atoms, 8, **options), naive_somp(x, atoms, 8, **options), dtype, tol)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, {}), (torch.float64, {"nonnegative": True, "coherence_penalty": 0.3})],
    ids=str,
)
def test_somp_in_a_frame_is_its_twin(case, dtype, options):
    x, frame = framed(case[0])
    x, frame, atoms = x.to(dtype), frame.to(dtype), case[1].to(dtype)
    tol = EXACT_TOL if dtype == torch.float64 else FLOAT32_AGAINST_FLOAT64_TOL
    pursuit = somp(x, atoms, 8, frame=frame, **options)
    assert_same(pursuit, naive_somp(x, atoms, 8, frame=frame, **options), dtype, tol)
    assert pursuit.mean.shape == (D,)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, {}), (torch.float64, {"coherence_penalty": 0.8}), (torch.float64, {"nonnegative": True})],
    ids=str,
)
def test_omp_is_its_twin_for_every_sample(case, dtype, options):
    x, atoms = (each.to(dtype) for each in case)
    x = x[:6]
    pursuit = omp(x, atoms, 6, **options)
    twins = naive_omp(x, atoms, 6, **options)
    tol = EXACT_TOL if dtype == torch.float64 else FLOAT32_AGAINST_FLOAT64_TOL
    same = []
    rebuilt = pursuit.reconstruction()
    mean = x.double().mean(dim=0) if options.get("center", True) else 0
    for n, twin in enumerate(twins):
        picked = [index for index in pursuit.indices[n].tolist() if index >= 0]
        same.append(assert_same_picks(picked, twin, dtype))
        assert not pursuit.weights[n, len(picked) :].any()
        if same[-1]:
            assert_close(rebuilt[n], twin.reconstruction[0] + mean, tol)
    longest = max(len(twin.indices) for twin in twins)
    if all(same):
        assert pursuit.indices.shape == (len(x), longest)
    energy = (x.double() - mean).square().sum(dim=1)
    for pick in range(longest if all(same) else 0):
        at = [min(pick, len(twin.indices) - 1) for twin in twins]
        shares = torch.tensor([t.explained_variance[i] if i >= 0 else 0.0 for t, i in zip(twins, at, strict=True)])
        cosines = torch.tensor([t.cosine[i] if i >= 0 else 0.0 for t, i in zip(twins, at, strict=True)])
        assert_close(pursuit.explained_variance[pick], (shares * energy).sum() / energy.sum(), 1e3 * tol)
        assert_close(pursuit.cosine[pick], cosines.double().mean(), 1e3 * tol)


@pytest.mark.parametrize(("dtype", "rank"), [(torch.float32, 3), (torch.float64, None)])
def test_text_span_is_its_twin(case, dtype, rank):
    x, atoms = (each.to(dtype) for each in case)
    tol = 1e-8 if dtype == torch.float64 else 1e-4
    pursuit, twin = text_span(x, atoms, 8, rank=rank), naive_text_span(x, atoms, 8, rank=rank)
    assert_same(pursuit, twin, dtype, tol)


def test_atoms_that_a_frame_does_not_see_at_all_hide_no_other():
    frame = torch.eye(20)[:3]
    x = draw(2000, seed=0, features=3).float()
    axes = torch.eye(20)
    atoms = torch.stack([(axes[0] + axes[5]) / 2**0.5, axes[5], 0.3 * axes[1] + 0.91**0.5 * axes[7]])
    pursuit = somp(x, atoms, 3, frame=frame)
    assert pursuit.indices.tolist() == somp(x @ frame, atoms, 3).indices.tolist() == [0, 1, 2]


def test_text_span_in_a_frame_is_its_twin(case):
    x, frame = framed(case[0])
    twin = naive_text_span(x, case[1], 8, frame=frame, rank=4)
    assert_same(text_span(x, case[1], 8, frame=frame, rank=4), twin, torch.float64, 1e-8)


def test_omp_agrees_with_scikit_learn():
    x, atoms = draw(30), dictionary()
    pursuit = omp(x, atoms, 6, center=False)
    theirs = sklearn.linear_model.orthogonal_mp(atoms.T.numpy(), x.T.numpy(), n_nonzero_coefs=6)
    ours = torch.zeros(len(x), len(atoms), dtype=torch.float64).scatter_(1, pursuit.indices, pursuit.weights)
    assert_close(ours, torch.from_numpy(theirs).T, EXACT_TOL)


@pytest.mark.parametrize("kind", ["noise", "sparse", "decaying", "shared direction"])
def test_many_atoms_are_left_out_and_no_pick_changes(kind, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    atoms = normalize(torch.randn(900, 40, generator=generator), dim=1)
    few = (torch.rand(500, 900, generator=generator) < 0.005).float() @ atoms
    x = {
        "noise": lambda: torch.randn(500, 40, generator=generator),
        "sparse": lambda: few,
        "decaying": lambda: torch.randn(500, 40, generator=generator) / torch.arange(1, 41),
        # Rounding is that of the whole data, and what decides is what the first pick leaves.
        "shared direction": lambda: few + 300 * torch.randn(500, 1, generator=generator) * atoms[7],
    }[kind]()
    looked, scores = [], Samples.scores
    monkeypatch.setattr(Samples, "scores", lambda self, part: looked.append(len(part)) or scores(self, part))
    pursuit, twin = somp(x, atoms, 15, coherence_penalty=0.1), naive_somp(x, atoms, 15, coherence_penalty=0.1)
    assert_same(pursuit, twin, torch.float32, FLOAT32_AGAINST_FLOAT64_TOL)
    assert sum(looked) < LOOKED[kind] * 15 * len(atoms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_score_is_above_its_bound(case, dtype):
    x, atoms = (each.to(dtype) for each in case)
    samples, beside = Samples(x, center=True), Atoms(atoms, None, dtype)
    bounds, everything = Bounds(samples, beside), torch.arange(len(atoms))
    for pick in range(8):
        left = beside.deflated(everything)
        exact = samples.exact_scores(left)
        assert (exact <= bounds.values() * (1 + 1e-12)).all()
        # Bounds are of scores that were computed some picks ago, once or twice, or of none.
        if pick in (0, 2):
            bounds.tighten(everything[pick::3], *samples.scores(left[pick::3]))
            bounds.tighten(everything[2::4], *samples.scores(left[2::4]))
            assert (exact <= bounds.values() * (1 + 1e-12)).all()
        best = int(exact.masked_fill_(bounds.struck, -1.0).argmax())
        if torch.linalg.vector_norm(left[best]) < 1e-4:
            break
        beside.pick(best)
        bounds.take_off(beside)


def test_the_lowest_of_equal_atoms_is_picked():
    x = draw(50)
    atoms = dictionary(600)
    first = int(somp(x, atoms, 1).indices)
    atoms[first + 1 :: 7] = atoms[first]
    atoms = torch.cat([atoms, -atoms[first : first + 1]])
    for pursue in (somp, text_span):
        assert pursue(x, atoms, 1).indices.tolist() == [int(pursue(x, atoms[: first + 1], 1).indices)] == [first]


def test_atoms_of_the_data_are_found_again():
    atoms = dictionary(40, features=30)
    x = draw(50)[:, :3].double() @ atoms[[7, 2, 30]]
    pursuit = somp(x, atoms, 20)
    assert sorted(pursuit.indices.tolist()) == [2, 7, 30]
    assert_close(pursuit.explained_variance[-1], torch.tensor(1.0), EXACT_TOL)
    assert_close(pursuit.reconstruction(), x, EXACT_TOL)


def test_a_shift_of_all_samples_changes_no_pick():
    x, atoms = draw(50), dictionary()
    for pursue in (somp, omp, text_span):
        assert torch.equal(pursue(x, atoms, 6).indices, pursue(x + 3, atoms, 6).indices)


def test_nonnegative_weights_are_not_negative():
    x, atoms = draw(50), dictionary()
    assert (somp(x, atoms, 8, nonnegative=True).weights >= 0).all()
    assert (omp(x, atoms, 8, nonnegative=True).weights >= 0).all()
    assert (somp(x, atoms, 8).weights < 0).any()


def test_a_penalty_of_one_forbids_parallel_atoms_and_orthogonal_ones_are_free():
    x = draw(50)
    axes = torch.eye(D, dtype=torch.float64)
    assert torch.equal(somp(x, axes, 8, coherence_penalty=1.0).indices, somp(x, axes, 8).indices)
    tilted = normalize(axes[0] + 0.01 * axes[1], dim=0)
    assert somp(x[:, :1] * axes[0] + 0.1 * x[:, 1:2] * axes[1], torch.stack([axes[0], tilted]), 2).indices.tolist()


def test_what_cannot_be_pursued_is_refused():
    x, atoms = draw(10), dictionary()
    frame = torch.eye(D, dtype=torch.float64)[:5]
    for pursue in (somp, omp, text_span):
        with pytest.raises(InputError, match="n_picks must be at least 1, got 0"):
            pursue(x, atoms, 0)
        with pytest.raises(InputError, match="x has values that are NaN"):
            pursue(x.masked_fill(x == x[3, 3], torch.nan), atoms, 2)
        with pytest.raises(InputError, match="x is empty"):
            pursue(x[:0], atoms, 2)
        with pytest.raises(InputError, match="atoms is empty"):
            pursue(x, atoms[:0], 2)
        with pytest.raises(InputError, match="float16: convert it"):
            pursue(x.half(), atoms, 2)
        with pytest.raises(InputError, match="atom 5 has 0"):
            pursue(x, atoms * (torch.arange(len(atoms)) != 5)[:, None], 2)
        with pytest.raises(InputError, match="Atoms must have norm 1"):
            pursue(x, atoms * 1.01, 2)
        with pytest.raises(MismatchError, match="x has 11 features and the atoms 12"):
            pursue(x[:, 1:], atoms, 2)
        with pytest.raises(MismatchError, match="frame of x"):
            pursue(x, atoms, 2, frame=frame)
        with pytest.raises(InputError, match="orthonormal"):
            pursue(x[:, :5], atoms, 2, frame=1.1 * frame)
    for pursue in (somp, omp):
        with pytest.raises(InputError, match="from 0 to 1, got"):
            pursue(x, atoms, 2, coherence_penalty=-0.1)
    with pytest.raises(InputError, match="rank must be at least 1"):
        text_span(x, atoms, 2, rank=0)


def test_what_float32_rounded_is_no_direction_of_its_own_in_wider_coordinates():
    atoms, x = dictionary(5).float(), draw(60).float()
    # The same text embedded twice, apart by rounding.
    atoms = torch.cat([atoms, normalize(atoms + 3e-8, dim=1)])
    for pursue in (somp, text_span):
        assert len(pursue(x.double(), atoms, 10).indices) == len(pursue(x, atoms, 10).indices) == 5
    assert somp(x.double(), atoms, 10).weights.dtype == torch.float64


@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_the_size_of_the_data_changes_no_pick(size):
    atoms, x = dictionary().float(), draw(60).float()
    for pursue in (somp, text_span, omp):
        assert torch.equal(pursue(x * size, atoms, 6).indices, pursue(x, atoms, 6).indices)
    assert (
        somp(x, atoms, 3, coherence_penalty=1).indices.tolist() == naive_somp(x, atoms, 3, coherence_penalty=1).indices
    )
