"""What `describe` computes, by the definition: refitted pursuit, mirrors as matrices, counts in loops."""

from itertools import combinations

import torch
from torch import Tensor


def naive_somp(x: Tensor, atoms: Tensor, n_picks: int) -> tuple[list[int], list[float]]:
    """Largest `Σ_n |⟨r_n, d_j⟩|`, least squares on all picks; `x` `[sample d_out]`, float64."""
    x, atoms = x.double() - x.double().mean(0), atoms.double()
    picks: list[int] = []
    explained: list[float] = []
    residual = x
    for _ in range(n_picks):
        scores = [-1.0 if j in picks else float((residual @ atom).abs().sum()) for j, atom in enumerate(atoms)]
        picks.append(scores.index(max(scores)))
        chosen = atoms[picks]
        residual = x - (x @ torch.linalg.pinv(chosen)) @ chosen
        explained.append(float(1 - residual.square().sum() / x.square().sum()))
    return picks, explained


def naive_mirror(dictionary: Tensor, signs: Tensor) -> Tensor:
    """Every atom times `Σ_k ± v_k v_kᵀ` of the second moments' eigenvectors, signs in the order of `eigh`."""
    dictionary = dictionary.double()
    axes = torch.linalg.eigh(dictionary.T @ dictionary).eigenvectors.T
    mirror = sum(sign * torch.outer(axis, axis) for sign, axis in zip(signs, axes, strict=True))
    return torch.stack([mirror @ atom for atom in dictionary])


def naive_coherence(dictionary: Tensor, picks: list[int]) -> float:
    """Mean cosine of all pairs of centred atoms."""
    centred = dictionary.double() - dictionary.double().mean(0)
    cosines = [torch.cosine_similarity(centred[i], centred[j], dim=0) for i, j in combinations(picks, 2)]
    return float(sum(cosines) / len(cosines))


def naive_p(score: float, random: list[float]) -> float:
    """Share of all dictionaries, the real one among them, that reach the score."""
    return sum(1 for one in [score, *random] if one >= score) / (len(random) + 1)
