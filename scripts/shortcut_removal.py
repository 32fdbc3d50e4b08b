"""What the study of shortcuts takes out of a model, and how it asks what is left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scene_world import SceneSet, World
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens import Bases, CachedSamples, ResiDual, Store, ZeroShotClassifier, fit_bases, train_adapter
from residual_lens.decomposition import Decomposition
from residual_lens.selection import unit_scores

Taken = Callable[["Readings"], Float[Tensor, "image d_out"]]
"""Embeddings with something taken out."""
PROBE_SCALE = 10.0
"""Length that embeddings are given for the probe: with unit length its penalty would keep it from fitting."""


@dataclass(frozen=True, eq=False)
class Readings:
    """What a model gave for scenes of shapes: every unit's direct contribution, and the labels."""

    store: Store
    """Of the scenes."""
    shape: Int[Tensor, "image"]
    """What is asked for."""
    colour: Int[Tensor, "image"]
    """What gives it away, where it is equal."""

    @classmethod
    def of(cls, world: World, drawn: SceneSet) -> "Readings":
        """Encode scenes as far as their store is not there."""
        labels = drawn.scenes.labels
        return cls(world.store(drawn), labels["shape"], labels["colour"])

    def __len__(self) -> int:
        return len(self.shape)

    @cached_property
    def parts(self) -> Decomposition:
        """Direct contributions of all units."""
        return self.store.decompose()

    @property
    def whole(self) -> Float[Tensor, "image d_out"]:
        """Embeddings, nothing taken out."""
        return self.parts.total()


class Probe:
    """Logistic regression of shape on the direction of embeddings."""

    def __init__(self, readings: Readings, taken: Taken) -> None:
        """Fit it to embeddings with something taken out."""
        from sklearn.linear_model import LogisticRegression

        self._model = LogisticRegression(max_iter=2000).fit(_directions(taken(readings)), readings.shape.numpy())

    def right(self, readings: Readings, taken: Taken) -> Bool[Tensor, "image"]:
        """On which images it names the shape, with something taken out of them."""
        return torch.from_numpy(self._model.predict(_directions(taken(readings)))) == readings.shape


class ZeroShot:
    """A zero-shot classifier as a readout."""

    def __init__(self, classifier: ZeroShotClassifier) -> None:
        """Of shape's words."""
        self._classifier = classifier

    def right(self, readings: Readings, taken: Taken) -> Bool[Tensor, "image"]:
        """As of a probe."""
        return self._classifier.logits(taken(readings)).argmax(dim=1) == readings.shape


def _directions(embeddings: Float[Tensor, "image d_out"]) -> Float[np.ndarray, "image d_out"]:
    return (PROBE_SCALE * normalize(embeddings, dim=1)).double().numpy()


def nothing(readings: Readings) -> Float[Tensor, "image d_out"]:
    """Nothing taken out."""
    return readings.whole


class Removals:
    """Ways to take something out on the direct path; means, bases and what is called colour come from one set."""

    def __init__(self, world: World, fitted_on: Readings) -> None:
        """Fit means to these scenes; the rest is fitted when it is asked for."""
        self._readings = fitted_on
        self._hvit = world.hvit
        self._colour, self._shape = world.classifiers["colour"], world.classifiers["shape"]
        self.means = fitted_on.parts.values.mean(dim=0)

    def heads(self, names: Sequence[str]) -> Taken:
        """Heads give their mean."""

        def taken(readings: Readings) -> Float[Tensor, "image d_out"]:
            places = [readings.parts.units.position(name) for name in names]
            return readings.whole - (readings.parts.values[:, places] - self.means[places]).sum(dim=1)

        return taken

    def heads_of_colour(self, how: str) -> tuple[str, ...]:
        """Heads by what a score says of colour, first the one that it says it of most."""
        return unit_scores(
            self._readings.store,
            how,
            classifier=self._colour,
            labels=self._readings.colour,
            concepts=self._colour.weights,
        ).ranking()

    @cached_property
    def bases(self) -> Bases:
        """Of heads and MLPs."""
        return fit_bases(self._readings.store)

    def components_of_colour(self) -> list[tuple[str, int]]:
        """Principal components (unit, place) by how much more of their variance colour's words span than shape's.

        Of a component `φ` with variance `v`: `v (‖φ C‖² − ‖φ S‖²)`, `C` and `S` the spans of differences between words.
        """
        colour, shape = (span_of_differences(each) for each in (self._colour, self._shape))
        scored = []
        for unit, basis in self.bases.items():
            more = (basis.components @ colour.mT).square().sum(dim=1) - (basis.components @ shape.mT).square().sum(
                dim=1
            )
            scored += [(float(value), unit, place) for place, value in enumerate(basis.variances * more)]
        return [(unit, place) for _, unit, place in sorted(scored, key=lambda each: -each[0])]

    def components(self, chosen: Sequence[tuple[str, int]], residual: ResiDual | None = None) -> Taken:
        """ResiDual with λ = 0 for some components, and else as it is: by default the identity."""
        start = residual or ResiDual.from_bases(self.bases, scales="ones", keep_mean=True)
        edited = ResiDual(start.config)
        edited.load_state_dict(start.state_dict())
        edited.to(self._hvit.device)
        with torch.no_grad():
            for unit, place in chosen:
                scales = edited.scales_of(unit)
                if place < len(scales):
                    scales[place] = 0

        @torch.no_grad()
        def taken(readings: Readings) -> Float[Tensor, "image d_out"]:
            hvit, parts = self._hvit, readings.parts
            blocks = (Decomposition(block.to(hvit.device), parts.units) for block in parts.values.split(1024))
            with edited.attached(hvit):
                return torch.cat([hvit.recompose(block).cpu() for block in blocks])

        return taken

    def words(self) -> Taken:
        """The span of differences between colour's words projected out of the whole embedding."""
        span = span_of_differences(self._colour)
        return lambda readings: readings.whole - readings.whole @ span.mT @ span

    def trained_residual(self, validation: Readings, seed: int) -> ResiDual:
        """ResiDual trained on the scenes it was fitted on, stopped by average accuracy on others."""
        device = self._hvit.device
        residual = ResiDual.from_bases(self.bases, seed=seed).to(device)
        train, held_out = (
            CachedSamples(Decomposition(each.parts.values.to(device), each.parts.units), each.shape.to(device))
            for each in (self._readings, validation)
        )
        train_adapter(residual, self._hvit, self._shape, train=train, validation=held_out, seed=seed)
        return residual


def span_of_differences(classifier: ZeroShotClassifier) -> Float[Tensor, "component d_out"]:
    """Orthonormal rows that span the differences between class embeddings."""
    return torch.linalg.svd(classifier.weights - classifier.weights.mean(dim=0), full_matrices=False).Vh[:-1]
