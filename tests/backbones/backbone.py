"""What one row of the parity matrix says about a model, and how its parameters are drawn."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

DEPTH, WIDTH, HEADS, CLASSES = 2, 32, 4, 7
TINY_TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
LAYER_SCALES = ("gamma", "gamma_1", "gamma_2", "lambda1")


@dataclass(frozen=True)
class Backbone:
    """One row of the parity matrix."""

    source: str
    """Library."""
    model: str
    """Class or configuration there."""
    special: str
    """What this row is there for."""
    pooling: str
    """How tokens become one vector, in the words of `cfg.pooling`."""
    create: Callable[[bool], nn.Module]
    """The model as its library initialises it; `True` for every dropout that its class has."""
    embedding: Callable[[Any, Tensor], Tensor]
    """The image embedding that the library itself computes."""
    blocks: Callable[[Any], Sequence[nn.Module]]
    """The library's own blocks."""
    dropout: str
    """What `create(True)` switches on."""
    sums_under_dropout: bool
    """Whether none of it lies behind an output projection, so that units still sum to the embedding."""
    head: bool = False
    """Whether it is wrapped with its linear head."""

    @property
    def name(self) -> str:
        """What it is called in test ids."""
        return f"{self.source}: {self.model}" + (f" ({self.special})" if self.special else "")

    def build(self, *, dropout: bool = False) -> Any:
        """The model in eval mode, every parameter drawn; nobody else holds it."""
        return copy.deepcopy(_built(self, dropout))


@cache
def _built(backbone: Backbone, dropout: bool) -> nn.Module:
    """Kept, because initialising a model that is drawn anyway takes longer than all that a test does with it."""
    model = backbone.create(dropout).eval()
    draw_parameters(model)
    return model


@torch.no_grad()
def draw_parameters(model: nn.Module, seed: int = 0) -> None:
    """Random values for every trainable parameter: gains of norms and LayerScale, offsets, biases, tokens, probes."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 0 or not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if name in LAYER_SCALES or (is_norm and name == "weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
                # Wide enough that attention patterns are far from flat.
                parameter.copy_(1.5 * noise * parameter[0].numel() ** -0.5)
            elif name == "proj":
                parameter.copy_(noise * len(parameter) ** -0.5)
            else:
                parameter.copy_(noise)


def images_of(size: tuple[int, int], batch: int = 3, *, seed: int = 1) -> Tensor:
    """Images of noise."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
