"""What loading a model by name gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from residual_lens.data.preprocessing import Preprocessing, UnknownPreprocessing

Tokenizer = Callable[..., Any]
"""Texts to token ids, or to a mapping with ids and mask; either has `.to(device)`."""


@dataclass(frozen=True)
class Loaded:
    """A source model in float32 and eval mode, with what its checkpoint says about inputs."""

    module: nn.Module
    """The whole model, with its text tower where it has one."""
    tokenizer: Tokenizer | None = None
    """Texts to what the text tower takes; `None` without text tower or tokenizer files."""
    preprocessing: Preprocessing | UnknownPreprocessing | None = None
    """The checkpoint's; `None` for what the model itself states."""
