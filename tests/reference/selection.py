"""Obvious twins of the unit scores: loops over all contributions `[sample unit d_out]` at once, in float64."""

import numpy as np
from scipy.stats import pearsonr

CONSTANT = 1e-9
"""A spread this much smaller than the largest number is rounding of float64."""


def naive_axes(output: np.ndarray, vectors: np.ndarray | None = None, *, resolution: float = 1e-6) -> np.ndarray:
    """Principal axes `[axis d_out]` of an output, those of its span or all of those within the span of vectors."""
    output = output.astype(np.float64)
    if vectors is None:
        _, sizes, axes = np.linalg.svd(output - output.mean(axis=0), full_matrices=False)
        return axes[sizes > resolution * np.linalg.norm(output)]
    _, sizes, span = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    span = span[sizes > 1e-4 * sizes[0]]
    inside = output @ span.T
    return np.linalg.svd(inside - inside.mean(axis=0), full_matrices=True)[2] @ span


def naive_correlations(values: np.ndarray, output: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """By unit, the mean over the basis of Pearson's correlation; 0 where a side does not vary."""
    values, output = values.astype(np.float64), output.astype(np.float64)
    scores = np.zeros(values.shape[1])
    for unit in range(values.shape[1]):
        for axis in basis:
            u, o = values[:, unit] @ axis, output @ axis
            if u.std() > CONSTANT * np.abs(values[:, unit]).max() and o.std() > CONSTANT * np.abs(output).max():
                scores[unit] += pearsonr(u, o).statistic / len(basis)
    return scores


def naive_accuracies(values: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """By unit, the share of samples whose class embedding is the one with the largest product; 0 if it is constant."""
    scores = np.zeros(values.shape[1])
    for unit in range(values.shape[1]):
        if np.ptp(values[:, unit], axis=0).any():
            found = [classes[np.argmax([u @ each for each in classes])] for u in values[:, unit]]
            scores[unit] = np.mean([np.array_equal(a, classes[label]) for a, label in zip(found, labels, strict=True)])
    return scores


def naive_shares(values: np.ndarray, concepts: np.ndarray) -> np.ndarray:
    """By unit, the share of its variance that a least-squares fit of the concepts explains; 0 if it is constant."""
    scores = np.zeros(values.shape[1])
    for unit in range(values.shape[1]):
        u = values[:, unit].astype(np.float64)
        u = u - u.mean(axis=0)
        if np.abs(u).max() > CONSTANT * np.abs(values[:, unit]).max():
            weights = np.linalg.lstsq(concepts.T.astype(np.float64), u.T, rcond=1e-6)[0]
            scores[unit] = 1 - np.square(u - weights.T @ concepts).sum() / np.square(u).sum()
    return scores
