"""What loading a model by name gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

Tokenizer = Callable[..., Any]
"""Texts to token ids, or to a mapping with ids and mask; either has `.to(device)`."""


@dataclass(frozen=True)
class Loaded:
    """A source model in float32 and eval mode, with what its checkpoint says about inputs."""

    module: nn.Module
    """The whole model, with its text tower where it has one."""
    tokenizer: Tokenizer | None = None
    """Texts to what the text tower takes; `None` without text tower or tokenizer files."""
    image_size: tuple[int, int] | None = None
    """Height and width that the checkpoint is used at; `None` for the size that the model itself states."""
    pixel_mean: tuple[float, float, float] | None = None
    """Channel means of the checkpoint's preprocessing; `None` for what the model itself states."""
    pixel_std: tuple[float, float, float] | None = None
    """Channel deviations of the checkpoint's preprocessing; `None` for what the model itself states."""


def triple(values: object) -> tuple[float, float, float] | None:
    """Three channel values as a config has them; anything else is taken as not stated."""
    if not isinstance(values, (tuple, list)) or len(values) != 3:
        return None
    red, green, blue = values
    return float(red), float(green), float(blue)
