"""Obvious twins of the pursuits: every score in float64, every pick refitted from the start."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

TIE_TOL = 1e-11
"""Scores this close to the best are equal: the lowest index is picked."""

NOTHING_LEFT = {torch.float32: 1e-6, torch.float64: 1e-14}
"""Share of the samples' norms below which a score is rounding of the data."""

INDEPENDENT = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Distance to the span of the picked atoms below which an atom lies in it."""


class NaivePursuit(NamedTuple):
    """What a twin gives."""

    indices: list[int]
    weights: Tensor
    """`[sample pick]`."""
    reconstruction: Tensor
    """`[sample d_out]`."""
    explained_variance: list[float]
    cosine: list[float]
    margins: list[float]
    """How far the best score is above the best of an atom that is another one, relative to the samples' norms."""


def coarser(x: Tensor, atoms: Tensor) -> torch.dtype:
    """The dtype whose rounding is in the data."""
    return torch.float64 if x.dtype == atoms.dtype == torch.float64 else torch.float32


def naive_somp(
    x: Tensor,
    atoms: Tensor,
    n_picks: int,
    *,
    frame: Tensor | None = None,
    center: bool = True,
    nonnegative: bool = False,
    coherence_penalty: float = 0.0,
    norms: float | None = None,
    dtype: torch.dtype | None = None,
) -> NaivePursuit:
    """Correlate the residual with all atoms, pick, refit on all picked atoms, again."""
    dtype = dtype or coarser(x, atoms)
    given = x.double() if frame is None else x.double() @ frame.double()
    atoms = atoms.double()
    mean = given.mean(dim=0) if center else torch.zeros_like(given[0])
    data = given - mean
    norms = float(given.norm(dim=1).sum()) if norms is None else norms
    nothing = NOTHING_LEFT[dtype] * norms
    picked, margins, stages = [], [], []
    weights, residual = data.new_zeros(len(data), 0), data
    while len(picked) < n_picks:
        products = residual @ atoms.T
        scores = (products.clamp_min(0) if nonnegative else products.abs()).sum(dim=0)
        if picked:
            scores *= 1 - coherence_penalty * (atoms @ atoms[picked].T).abs().max(dim=1).values
            scores[distances(atoms, atoms[picked]) <= INDEPENDENT[dtype]] = -1
        if scores.max() <= nothing:
            break
        best = int((scores >= scores.max() * (1 - TIE_TOL)).nonzero()[0, 0])
        others = scores[(atoms - atoms[best]).abs().amax(dim=1) > 1e-6]
        margins.append(float(scores[best] - others.max()) / norms if len(others) else 1.0)
        picked.append(best)
        weights = refit(data, atoms[picked], nonnegative)
        residual = data - weights @ atoms[picked]
        stages.append(data - residual)
    explained, cosine = quality(data, stages)
    reconstruction = mean + weights @ atoms[picked] if picked else mean.expand_as(data)
    return NaivePursuit(picked, weights, reconstruction, explained, cosine, margins)


def naive_omp(x: Tensor, atoms: Tensor, n_picks: int, *, center: bool = True, **options: object) -> list[NaivePursuit]:
    """SOMP of every sample by itself; where nothing is explained, no share and no cosine is."""
    frame = options.pop("frame", None)
    given = x.double() if frame is None else x.double() @ frame.double()
    mean = given.mean(dim=0) if center else torch.zeros_like(given[0])
    # The dtype of what was given says what counts as rounding.
    options |= {"dtype": coarser(x, atoms)}
    return [
        naive_somp((sample - mean)[None], atoms, n_picks, center=False, norms=float(sample.norm()), **options)
        for sample in given
    ]


def naive_text_span(
    x: Tensor, atoms: Tensor, n_picks: int, *, frame: Tensor | None = None, rank: int | None = None
) -> NaivePursuit:
    """Project the dictionary on the data's span; pick the largest variance; take it off data and dictionary."""
    dtype = coarser(x, atoms)
    given = x.double() if frame is None else x.double() @ frame.double()
    mean = given.mean(dim=0)
    data = given - mean
    _, singular, rows = torch.linalg.svd(data, full_matrices=False)
    noise = NOTHING_LEFT[dtype] * float(given.norm(dim=1).sum()) / len(x) ** 0.5 + 3e-7 * float(data.norm())
    rows = rows[: len(rows) if rank is None else rank][singular[:rank] > noise]
    projected = atoms.double() @ rows.T @ rows
    left, residual = projected.clone(), data.clone()
    picked, stages, margins = [], [], []
    while len(picked) < n_picks:
        variances = (residual @ left.T).square().sum(dim=0)
        variances[left.norm(dim=1) <= INDEPENDENT[dtype]] = -1
        if variances.max() <= 0:
            break
        best = int((variances >= variances.max() * (1 - TIE_TOL)).nonzero()[0, 0])
        others = variances[(atoms - atoms[best]).abs().amax(dim=1) > 1e-6]
        margins.append(float(variances[best] - others.max()) / float(data.square().sum()) if len(others) else 1.0)
        picked.append(best)
        direction = left[best] / left[best].norm()
        residual = residual - (residual @ direction)[:, None] * direction
        left = left - (left @ direction)[:, None] * direction
        stages.append(data - residual)
    explained, cosine = quality(data, stages)
    weights = refit(data, projected[picked], False)
    return NaivePursuit(picked, weights, mean + (data - residual), explained, cosine, margins)


def distances(atoms: Tensor, picked: Tensor) -> Tensor:
    """Of every atom to the span of the picked ones."""
    return (atoms - atoms @ torch.linalg.pinv(picked, rtol=1e-13) @ picked).norm(dim=1)


def refit(data: Tensor, picked: Tensor, nonnegative: bool) -> Tensor:
    """Weights `[sample pick]` of least squares."""
    if not len(picked):
        return data.new_zeros(len(data), 0)
    if nonnegative:
        rows = [scipy.optimize.nnls(picked.T.numpy(), sample.numpy())[0] for sample in data]
        return torch.from_numpy(np.array(rows)).reshape(len(data), len(picked))
    return torch.linalg.lstsq(picked.T, data.T, driver="gelsd").solution.T


def quality(data: Tensor, stages: list[Tensor]) -> tuple[list[float], list[float]]:
    """Explained share of the squares, and mean cosine between samples and what stands for them, 0 where one is 0."""
    total = float(data.square().sum())
    explained = [1 - float((data - stage).square().sum()) / total for stage in stages]
    cosines = []
    for stage in stages:
        norms = data.norm(dim=1) * stage.norm(dim=1)
        cosines.append(float(((data * stage).sum(dim=1) / norms.where(norms > 0, 1)).mean()))
    return explained, cosines
