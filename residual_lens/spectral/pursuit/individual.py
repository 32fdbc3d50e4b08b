"""Orthogonal matching pursuit: every sample picks its own atoms."""

import torch
from beartype import beartype
from jaxtyping import Bool, Float, Int, jaxtyped
from torch import Tensor

from residual_lens.spectral.pursuit.dictionary import INDEPENDENT, check, coarser
from residual_lens.spectral.pursuit.least_squares import nonnegative_weights, times
from residual_lens.spectral.pursuit.result import Pursuit
from residual_lens.spectral.pursuit.samples import Samples
from residual_lens.spectral.pursuit.search import NOTHING_LEFT, TIE_TOL

# Correlations of a block of samples with all atoms that are held at once.
ENTRIES = 2**20


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def omp(
    x: Float[Tensor, "sample rank"],
    atoms: Float[Tensor, "atom d_out"],
    n_picks: int,
    *,
    frame: Float[Tensor, "_ _"] | None = None,
    center: bool = True,
    nonnegative: bool = False,
    coherence_penalty: float | int = 0.0,
) -> Pursuit:
    """Orthogonal matching pursuit (Pati et al. 1993): every sample picks its own atoms.

    Each sample `x_n` without the mean picks `argmax_j |⟨r_n, d_j⟩|`, refits all its picked atoms by least squares, and
    goes on with what is left, `r_n`. It is computed in float64, in blocks of samples. Options and what ends a pursuit
    are those of `somp`, for each sample by itself.

    Args:
        x: samples in the space of the atoms, or their coordinates in `frame`; float32 or float64.
        atoms: unit-norm rows.
        n_picks: how many atoms a sample picks at most.
        frame: `[rank d_out]`, orthonormal rows: the data are `x @ frame`.
        center: take off the mean of all samples first. (A single sample is its own mean.)
        nonnegative: pick the largest `⟨r_n, d_j⟩` and refit with weights that are not negative.
        coherence_penalty: scores are multiplied by `1 − coherence_penalty · max_s |cos(d_j, d_s)|` over the atoms `s`
            that the sample has picked; from 0 to 1.

    Returns:
        `indices` are `[sample pick]`, -1 where a sample's pursuit had ended. There are as many columns as the longest
        pursuit has picks. `explained_variance` and `cosine` are of all samples after that many picks of each.

    Raises:
        InputError: empty, half precision, not finite, atoms that are not unit-norm, a frame that is not orthonormal, or
            options out of range.
        MismatchError: another space in x, atoms and frame, or another device.

    Example:
        >>> pursuit = omp(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]), torch.eye(3), 2, center=False)
        >>> pursuit.indices.tolist()
        [[1, 2], [0, -1]]
    """
    check(x, atoms, n_picks, frame, coherence_penalty)
    dtype, rounded = torch.promote_types(x.dtype, atoms.dtype), coarser(x, atoms)
    n_picks = min(n_picks, len(atoms))
    samples = Samples(x, center=center)
    dictionary = atoms.double()
    blocks, at = [], 0
    for rows in samples.exact():
        for part in rows.split(max(1, ENTRIES // len(atoms))):
            given = torch.linalg.vector_norm(x[at : at + len(part)].double(), dim=1) / samples.scale
            at += len(part)
            pursuit = _Block(
                part if frame is None else part @ frame.double(),
                dictionary,
                NOTHING_LEFT[rounded] * given,
                independent=INDEPENDENT[rounded],
                coherence_penalty=coherence_penalty,
            )
            blocks.append(pursuit.run(n_picks, nonnegative))
    indices, weights, left, cosines = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    longest = int((indices >= 0).sum(dim=1).max())
    total = samples.norms.square().sum()
    explained = 1 - left.sum(dim=0) / total.where(total > 0, 1.0)
    return Pursuit(
        indices=indices[:, :longest],
        weights=(weights * samples.scale).to(dtype)[:, :longest],
        mean=(samples.mean if frame is None else samples.mean @ frame.double()).to(dtype),
        explained_variance=explained[:longest],
        cosine=cosines.mean(dim=0)[:longest],
        atoms=atoms,
    )


class _Block:
    """Samples that are pursued together, float64. One whose pursuit has ended stands still."""

    def __init__(
        self,
        data: Float[Tensor, "sample d_out"],
        atoms: Float[Tensor, "atom d_out"],
        nothing: Float[Tensor, "sample"],
        *,
        independent: float,
        coherence_penalty: float | int,
    ) -> None:
        self._data, self._atoms, self._nothing = data, atoms, nothing
        self._independent, self._penalty = independent, coherence_penalty
        self._residual = data
        self._struck = torch.zeros(len(data), len(atoms), dtype=torch.bool, device=data.device)
        self._factors = torch.ones_like(self._struck, dtype=data.dtype) if coherence_penalty else None

    def run(
        self, n_picks: int, nonnegative: bool
    ) -> tuple[
        Int[Tensor, "sample pick"],
        Float[Tensor, "sample pick"],
        Float[Tensor, "sample pick"],
        Float[Tensor, "sample pick"],
    ]:
        """Indices, weights, and after each pick the squares that are left and the cosines."""
        data, n = self._data, len(self._data)
        indices = torch.full((n, n_picks), -1, device=data.device)
        directions = data.new_zeros(n, n_picks, data.shape[1])
        # An ended pursuit has rows of the identity, which weights of zero solve.
        triangle = torch.eye(n_picks, dtype=data.dtype, device=data.device).repeat(n, 1, 1)
        coordinates, weights, left, cosines = (torch.zeros_like(indices, dtype=data.dtype) for _ in range(4))
        for pick in range(n_picks):
            chosen, direction, going = self._choose(directions, nonnegative)
            indices[going, pick] = chosen[going]
            directions[:, pick] = direction
            shares = times(directions, self._atoms[chosen])
            triangle[going, pick] = shares[going]
            coordinates[:, pick] = (direction * data).sum(dim=1)
            if nonnegative:
                some = slice(pick + 1)
                weights[:, some] = nonnegative_weights(triangle[:, some, some], coordinates[:, some])
                reached = times(triangle.mT, weights)
                self._residual = data - times(directions.mT, reached)
            else:
                self._residual = self._residual - coordinates[:, pick, None] * direction
            left[:, pick] = self._residual.square().sum(dim=1)
            cosines[:, pick] = torch.cosine_similarity(data, data - self._residual, dim=1, eps=0.0).nan_to_num(0.0)
        if not nonnegative:
            weights = torch.linalg.solve_triangular(triangle, coordinates[:, None], upper=False, left=False)[:, 0]
        return indices, weights, left, cosines

    def _choose(
        self, directions: Float[Tensor, "sample pick d_out"], nonnegative: bool
    ) -> tuple[Int[Tensor, "sample"], Float[Tensor, "sample d_out"], Bool[Tensor, "sample"]]:
        """The next atoms, their directions beside the picked ones (zeros where nothing is picked), who goes on."""
        scores = self._residual @ self._atoms.mT
        scores = scores.relu_() if nonnegative else scores.abs_()
        if self._factors is not None:
            scores *= self._factors
        while True:
            best = scores.masked_fill_(self._struck, -1.0).amax(dim=1)
            going = best > self._nothing
            # argmax gives the first of equal entries.
            chosen = (scores >= best[:, None] * (1 - TIE_TOL)).int().argmax(dim=1)
            direction = self._atoms[chosen]
            for _ in range(2):
                direction = direction - times(directions.mT, times(directions, direction))
            lengths = torch.linalg.vector_norm(direction, dim=1)
            inside = going & (lengths <= self._independent)
            if not inside.any():
                break
            self._struck[inside, chosen[inside]] = True
        self._struck[going, chosen[going]] = True
        if self._factors is not None:
            cosines = (self._atoms[chosen] @ self._atoms.mT).abs_().clamp_max_(1.0)
            self._factors = torch.minimum(self._factors, 1 - self._penalty * cosines * going[:, None])
        return chosen, direction / lengths.where(going, torch.inf)[:, None], going
