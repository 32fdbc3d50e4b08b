"""Simultaneous orthogonal matching pursuit: one list of atoms for all samples."""

import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from residual_lens.spectral.pursuit.dictionary import Atoms, check, coarser
from residual_lens.spectral.pursuit.nonnegative import nonnegative_somp
from residual_lens.spectral.pursuit.result import Pursuit, of_directions
from residual_lens.spectral.pursuit.samples import Samples
from residual_lens.spectral.pursuit.search import NOTHING_LEFT, Search


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def somp(
    x: Float[Tensor, "sample rank"],
    atoms: Float[Tensor, "atom d_out"],
    n_picks: int,
    *,
    frame: Float[Tensor, "_ _"] | None = None,
    center: bool = True,
    nonnegative: bool = False,
    coherence_penalty: float | int = 0.0,
) -> Pursuit:
    """Simultaneous orthogonal matching pursuit (Tropp, Gilbert and Strauss 2006): one list of atoms for all samples.

    With `r_n` what is left of sample `n`, at first `x_n` without the mean, again and again: pick
    `argmax_j Σ_n |⟨r_n, d_j⟩|`, refit all samples on all picked atoms by least squares. Of equal scores the lowest
    index is picked (equal up to 1e-11 of the largest). The picks are those of the same in float64 throughout.

    An atom is never picked twice, nor one in the span of the picked ones (nearer than 1e-5, or 1e-12 if all is
    float64). The pursuit ends early, with fewer picks, when no atom is left, or all scores are rounding of the data
    (1e-6, or 1e-14, of the samples' norms before centring): data that do not vary have no pick. Restricted to a list of
    concepts as atoms, `explained_variance[-1]` is the share that these concepts explain.

    Args:
        x: samples in the space of the atoms, or their coordinates in `frame`; float32 or float64.
        atoms: unit-norm rows, float32 or float64, on the device of x.
        n_picks: how many atoms to pick at most.
        frame: `[rank d_out]`, orthonormal rows: the data are `x @ frame`, as `Store.coordinates` gives them for heads.
            The same result at a fraction of the work.
        center: take off the mean of the samples first.
        nonnegative: pick the largest `Σ_n max(⟨r_n, d_j⟩, 0)` and refit with weights that are not negative (as SpLiCE
            does for one sample; Bhalla et al. 2024, arXiv 2402.10376). All atoms are looked at for every pick.
        coherence_penalty: scores are multiplied by `1 − coherence_penalty · max_s |cos(d_j, d_s)|` over the picked
            atoms `s`; from 0 to 1.

    Returns:
        `weights` in the wider dtype of x and atoms.

    Raises:
        InputError: empty, half precision, not finite, atoms that are not unit-norm, a frame that is not orthonormal, or
            options out of range.
        MismatchError: another space in x, atoms and frame, or another device.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 3.0])
        >>> pursuit = somp(x, torch.eye(3), 2)
        >>> pursuit.indices.tolist(), bool(pursuit.explained_variance[-1] > 0.95)
        ([1, 2], True)
    """
    check(x, atoms, n_picks, frame, coherence_penalty)
    dtype = torch.promote_types(x.dtype, atoms.dtype)
    with torch.autocast(x.device.type, enabled=False):
        samples = Samples(x, center=center, positive=nonnegative)
        rounded = coarser(x, atoms)
        dictionary = Atoms(atoms, frame, rounded, coherence_penalty=coherence_penalty)
        if nonnegative:
            return nonnegative_somp(samples, dictionary, n_picks, dtype, NOTHING_LEFT[rounded])
        search = Search(samples, dictionary, rounded)
        while len(dictionary.picked) < n_picks and search.pick():
            pass
        picked = list(dictionary.picked)
        seen = dictionary.seen(dictionary.directions)
        return of_directions(samples, picked, seen, dictionary.triangle, atoms[picked].to(dtype), frame)
