"""Pursuits beside the obvious ways to compute the same, and scikit-learn.

The obvious ways hold float32 tensors `[sample atom]`: SOMP multiplies residuals with all atoms and refits by `lstsq` at
every pick; TextSpan takes an SVD, multiplies data and dictionary, and takes the pick off both. Atoms share a direction,
as text embeddings do.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import orthogonal_mp
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens.spectral import omp, somp, text_span
from scripts.benchmark.rows import Cases, Sides
from scripts.benchmark.sizes import Sizes

D_OUT, RANK = 768, 64

Samples = Float[Tensor, "sample d_out"]
Atoms = Float[Tensor, "atom d_out"]
Data = Callable[[Sizes, Atoms, torch.Generator], Samples]


def gaussian(sizes: Sizes, _: Atoms, generator: torch.Generator) -> Samples:
    """Standard deviations 1, 1/2, 1/3 … along random directions."""
    turned = torch.linalg.qr(torch.randn(D_OUT, D_OUT, generator=generator)).Q
    return torch.randn(sizes.pursuit_samples, D_OUT, generator=generator) / torch.arange(1, D_OUT + 1) @ turned


def sparse(sizes: Sizes, atoms: Atoms, generator: torch.Generator) -> Samples:
    """Few atoms a sample."""
    chosen = torch.randint(len(atoms), (sizes.pursuit_samples, 5), generator=generator)
    weights = torch.randn(chosen.shape, generator=generator)
    return torch.stack([(w[:, None] * atoms[i]).sum(dim=0) for i, w in zip(chosen, weights, strict=True)])


def isotropic(sizes: Sizes, _: Atoms, generator: torch.Generator) -> Samples:
    """No structure."""
    return torch.randn(sizes.pursuit_samples, D_OUT, generator=generator)


def dictionary(sizes: Sizes, generator: torch.Generator) -> Atoms:
    """Unit-norm atoms with a cosine of about a half."""
    shared = torch.randn(D_OUT, generator=generator)
    return normalize(torch.randn(sizes.atoms, D_OUT, generator=generator) + shared, dim=1)


def of_head(pursuit: str) -> Callable[[Sizes], Sides]:
    """Contributions of 65 dimensions, standard deviations that decay; ours takes coordinates, as a store has them."""

    def sides(sizes: Sizes) -> Sides:
        generator = torch.Generator().manual_seed(0)
        atoms = dictionary(sizes, generator)
        decay = torch.exp(-torch.arange(RANK + 1) / 20)
        coordinates = torch.randn(sizes.pursuit_samples, RANK + 1, generator=generator) * decay
        frame = torch.linalg.qr(torch.randn(D_OUT, RANK + 1, generator=generator)).Q.mT.contiguous()
        data = f"a head of {RANK + 1} dimensions"
        return compared(pursuit, data, sizes, atoms, coordinates, coordinates @ frame, frame)

    return sides


def of_data(pursuit: str, name: str, draw: Data) -> Callable[[Sizes], Sides]:
    """Data in all dimensions."""

    def sides(sizes: Sizes) -> Sides:
        generator = torch.Generator().manual_seed(0)
        atoms = dictionary(sizes, generator)
        x = draw(sizes, atoms, generator)
        return compared(pursuit, f"{name} in {D_OUT} dimensions", sizes, atoms, x, x, None)

    return sides


def compared(
    pursuit: str,
    data: str,
    sizes: Sizes,
    atoms: Atoms,
    given: Float[Tensor, "sample rank"],
    x: Samples,
    frame: Float[Tensor, "rank d_out"] | None,
) -> Sides:
    """Picks of ours and of the obvious way."""
    k = sizes.picks
    ours = {
        "SOMP": lambda: somp(given, atoms, k, frame=frame),
        "TextSpan": lambda: text_span(given, atoms, k, frame=frame, rank=RANK),
    }
    obvious = {
        "SOMP": (obvious_somp, "refit of all at every pick"),
        "TextSpan": (obvious_text_span, "all products held"),
    }
    other, how = obvious[pursuit]
    return Sides(
        f"{pursuit} of {data}",
        lambda: ours[pursuit]().indices.tolist(),
        lambda: other(x, atoms, k),
        how,
        lambda a, b: sum(one != another for one, another in zip(a, b, strict=True)),
        counted="picks",
    )


def single(sizes: Sizes) -> Sides:
    """Each sample picks its own atoms, in float64 on both sides."""
    generator = torch.Generator().manual_seed(0)
    atoms = dictionary(sizes, generator)
    x = gaussian(sizes, atoms, generator)[: sizes.single_samples].double()
    x, atoms = x - x.mean(dim=0), normalize(atoms.double(), dim=1)

    def difference(ours: list[list[int]], coefficients: np.ndarray) -> float:
        theirs = [set(np.flatnonzero(one).tolist()) for one in coefficients.T]
        return sum(len(set(mine) - its) for mine, its in zip(ours, theirs, strict=True))

    return Sides(
        f"OMP of {len(x):,} samples, each with picks of its own",
        lambda: omp(x, atoms, sizes.picks, center=False).indices.tolist(),
        lambda: orthogonal_mp(atoms.numpy().T, x.numpy().T, n_nonzero_coefs=sizes.picks),
        "`sklearn.linear_model.orthogonal_mp`",
        difference,
        counted="picks",
    )


def obvious_somp(x: Samples, atoms: Atoms, n_picks: int) -> list[int]:
    """Correlate, pick, refit, again."""
    x = x - x.mean(dim=0)
    picked: list[int] = []
    residual = x
    for _ in range(n_picks):
        scores = (residual @ atoms.mT).abs().sum(dim=0)
        scores[picked] = -1
        picked.append(int(scores.argmax()))
        weights = torch.linalg.lstsq(atoms[picked].mT, x.mT).solution.mT
        residual = x - weights @ atoms[picked]
    return picked


def obvious_text_span(x: Samples, atoms: Atoms, n_picks: int) -> list[int]:
    """Project, correlate, pick, take off data and dictionary, again."""
    x = x - x.mean(dim=0)
    rows = torch.linalg.svd(x, full_matrices=False).Vh[:RANK]
    atoms = atoms @ rows.mT @ rows
    picked: list[int] = []
    for _ in range(n_picks):
        picked.append(int((x @ atoms.mT).var(dim=0).argmax()))
        direction = normalize(atoms[picked[-1]], dim=0)
        x = x - (x @ direction)[:, None] * direction
        atoms = atoms - (atoms @ direction)[:, None] * direction
    return picked


def section(sizes: Sizes) -> str:
    """What the rows share."""
    return f"Pursuits: {sizes.pursuit_samples:,} samples, {sizes.atoms:,} atoms, {sizes.picks} picks"


CASES: Cases = {
    "pursuit-head": of_head("SOMP"),
    "pursuit-gaussian": of_data("SOMP", "a decaying spectrum", gaussian),
    "pursuit-sparse": of_data("SOMP", "sums of 5 atoms", sparse),
    "pursuit-noise": of_data("SOMP", "isotropic noise", isotropic),
    "pursuit-head-span": of_head("TextSpan"),
    "pursuit-span": of_data("TextSpan", "a decaying spectrum", gaussian),
    "pursuit-single": single,
}
