"""One factor a head."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.errors import MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions import Path
from residual_lens.interventions.adapter import CachedForm, Origin, ScaledUnit, heads_in_stream
from residual_lens.interventions.saving import load_folder
from residual_lens.training.methods.saving import SavedAdapter, fill
from residual_lens.units import Units


@dataclass(frozen=True)
class CoarseConfig:
    """What a `Coarse` is besides its tensors."""

    n_layers: int
    """Layers of the model."""
    n_heads: int
    """Heads of each."""


class Coarse(SavedAdapter):
    """One learned factor per head on its direct contribution: `e + Σ_h (λ_h − 1) u_h`.

    The paper's coarse baseline, except that all other units stay and factors start at 1; the released code drops those
    and starts at `1 + N(0, 1)`.

    On the stream path the factor multiplies what the head adds to the stream, its share of the output bias included.

    Example:
        >>> Coarse(n_layers=24, n_heads=16).parameter_count()
        384
    """

    # The paper's.
    learning_rate = 0.8

    def __init__(self, n_layers: int, n_heads: int) -> None:
        """Start with all factors 1: the unedited model."""
        super().__init__()
        self.scales = nn.Parameter(torch.ones(n_layers, n_heads))

    @property
    def config(self) -> CoarseConfig:
        return CoarseConfig(*self.scales.shape)

    @classmethod
    def load(cls, folder: str | FilePath) -> "Coarse":
        """Read what `save` wrote, onto the CPU.

        Raises:
            InputError: no such folder, another adapter, or damaged files.
        """
        config, tensors = load_folder(folder, kind=cls.__name__, config_type=CoarseConfig)
        coarse = cls(config.n_layers, config.n_heads)
        fill(coarse, tensors, folder)
        return coarse

    def hooks(self, hvit: HookedViT, path: Path) -> list[Hook]:
        self._check_fits(hvit.units, hvit.cfg.model_name)
        layers = range(hvit.cfg.n_layers)
        if path == "stream":
            return [heads_in_stream(hvit, layer, partial(self._scaled, layer)) for layer in layers]
        return [(f"blocks.{layer}.attn.hook_direct", self._direct_edit(layer)) for layer in layers]

    def cached_form(self, origin: Origin) -> CachedForm:
        self._check_fits(origin.units, origin.model_name)
        heads = origin.units.select("heads")
        return CachedForm({unit.name: ScaledUnit(place) for place, unit in enumerate(heads)})

    def _check_fits(self, units: Units, model_name: str) -> None:
        mine, theirs = list(self.scales.shape), [len(units.select("mlps")), 0]
        theirs[1] = len(units.select("heads")) // theirs[0]
        if mine != theirs:
            raise MismatchError(f"These factors are for {mine} layers × heads, {model_name} has {theirs}.")

    def _direct_edit(self, layer: int) -> Callable[[Tensor, object], Tensor]:
        return lambda values, hook: self._scaled(layer, values)

    def _scaled(self, layer: int, values: Float[Tensor, "*batch head d"]) -> Float[Tensor, "*batch head d"]:
        return values * self.scales[layer].to(values)[:, None]
