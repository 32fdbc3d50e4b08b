"""Trials of the study of shortcuts: how much to take out is chosen on validation, and measured on the test."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from resampling import interval, resampled_means
from shortcut_removal import Probe, Readings, Taken, nothing
from torch import Tensor

from residual_lens import Bases

N_SHAPES = 8


class Readout(Protocol):
    """What names the shape."""

    def right(self, readings: Readings, taken: Taken) -> Bool[Tensor, "image"]:
        """On which images it is right, with something taken out of them."""
        ...


class Trial:
    """One probe's scenes, and results by method."""

    def __init__(
        self, biased: Readings, validation: Readings, test: Readings, counts: Float[np.ndarray, "draw image"]
    ) -> None:
        """Nothing tried yet; `counts` are resampled test images."""
        self._biased, self._validation, self._test, self._counts = biased, validation, test, counts
        self.found: dict[str, Any] = {}

    def fixed(self, readout: Readout) -> Callable[[Taken], Readout]:
        """The same readout whatever is taken out."""
        return lambda taken: readout

    def refitted(self, taken: Taken) -> Readout:
        """A probe of what is left of the biased scenes."""
        return Probe(self._biased, taken)

    def keep(
        self, name: str, readout: Readout, taken: Taken, *, size: int | None = None, random: Sequence[float] = ()
    ) -> None:
        """Accuracies on the test scenes, under a name."""
        right = readout.right(self._test, taken)
        accuracies = group_accuracies(right, self._test, self._counts)
        self.found[name] = {**accuracies, "taken": size, "random": list(random)}

    def keep_best(
        self,
        name: str,
        readout: Callable[[Taken], Readout],
        options: Mapping[int, Taken],
        at_random: Callable[[int, int], Taken],
        n_random: int,
        *,
        without: Taken = nothing,
    ) -> None:
        """The option that is best on validation, and random draws of its size.

        Args:
            name: to keep it under.
            readout: what reads an option's embeddings.
            options: by size; `without` is one more, of size 0.
            at_random: a draw of a size, by seed.
            n_random: how many.
            without: nothing taken out.
        """
        tried = {0: without, **options}
        rights = {size: readout(taken).right(self._validation, taken) for size, taken in tried.items()}
        # Of equal ones the least.
        best = max(rights, key=lambda size: (worst(rights[size], self._validation), -size))
        draws = [at_random(best, seed) for seed in range(n_random)] if best else []
        random = [worst(readout(draw).right(self._test, draw), self._test) for draw in draws]
        self.keep(name, readout(tried[best]), tried[best], size=best, random=random)


def alike(chosen: Sequence[tuple[str, int]], bases: Bases, seed: int) -> list[tuple[str, int]]:
    """As many random components of each unit."""
    generator = np.random.default_rng(seed)
    drawn = []
    for unit, group in groupby(sorted(chosen), key=lambda each: each[0]):
        places = generator.choice(len(bases[unit].components), len(list(group)), replace=False)
        drawn += [(unit, int(place)) for place in places]
    return drawn


def groups(readings: Readings) -> Bool[Tensor, "group image"]:
    """Shape × whether colour is the one that gives it away."""
    agrees = readings.shape == readings.colour
    return torch.stack([(readings.shape == value) & (agrees == a) for value in range(N_SHAPES) for a in (True, False)])


def worst(right: Bool[Tensor, "image"], readings: Readings) -> float:
    """Accuracy in the worst group, in percent."""
    return min(100 * float(right[group].double().mean()) for group in groups(readings))


def group_accuracies(
    right: Bool[Tensor, "image"], readings: Readings, counts: Float[np.ndarray, "draw image"]
) -> dict[str, list[float]]:
    """Accuracy in the worst group that a draw has images of and on average, with intervals, in percent."""
    by_group = np.where(groups(readings).numpy(), right.numpy().astype(np.float32), np.nan)
    return {
        "worst": interval(100 * np.nanmin(resampled_means(by_group, counts), axis=1)),
        "average": interval(100 * resampled_means(right.numpy().astype(np.float32), counts)),
    }
