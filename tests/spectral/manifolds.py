"""Samples of known dimension, by numpy alone so that DADApy's environment can draw them too (see test_dimension)."""

import numpy as np


def manifold(name: str, seed: int = 0) -> np.ndarray:
    """`[sample feature]`, float64."""
    kind, _, dimension = name.partition("-")
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        d = int(dimension)
        return rng.standard_normal((800, d)) @ rng.standard_normal((d, 50))
    if kind == "cube":
        return rng.random((600, int(dimension)))
    if kind == "sphere":
        points = rng.standard_normal((700, int(dimension) + 1))
        return points / np.linalg.norm(points, axis=1, keepdims=True) + 3
    angle, height = 1.5 * np.pi * (1 + 2 * rng.random(1000)), 20 * rng.random(1000)
    return np.stack([angle * np.cos(angle), height, angle * np.sin(angle)], axis=1)


NAMES = [*(f"gaussian-{d}" for d in range(1, 11)), "cube-3", "sphere-2", "sphere-6", "roll"]
