"""A guard against a source whose modules were replaced after it was wrapped."""

from dataclasses import dataclass

import torch
from torch import nn

from residual_lens.errors import MismatchError

SETTINGS = ("global_pool", "pool_type", "final_ln_after_pool", "pool_include_prefix", "num_prefix_tokens")
"""Attributes by which open_clip and timm choose what their towers do at the end."""


@dataclass(frozen=True, eq=False)
class Unchanged:
    """Which modules a tower was made of when its parts were borrowed.

    Parameters are read anew at every call, so that training, casting and replacing them is seen. Modules are borrowed
    once: one that is put in place of another (an adapter library's, a shorter list of blocks) would be passed over in
    silence.
    """

    tower: nn.Module
    """The tower."""
    children: tuple[tuple[nn.Module, tuple[tuple[str, nn.Module | None], ...]], ...]
    """Every module with its children by name."""
    settings: tuple[tuple[str, object], ...]
    """Settings of the tower that decide its wiring."""

    @classmethod
    def of(cls, tower: nn.Module) -> "Unchanged":
        """The tower as it is."""
        children = tuple((module, tuple(module._modules.items())) for module in tower.modules())
        return cls(tower, children, tuple((name, getattr(tower, name, None)) for name in SETTINGS))

    def check(self, model_name: str) -> None:
        """Refuse a tower that is made of other modules.

        Raises:
            MismatchError: with what was replaced.
        """
        if torch.compiler.is_compiling():
            return
        for module, before in self.children:
            after = module._modules
            if len(after) == len(before) and all(after.get(name) is child for name, child in before):
                continue
            names = {name for name, child in before if after.get(name) is not child} | set(after) - {
                n for n, _ in before
            }
            raise MismatchError(
                f"{model_name}: {', '.join(sorted(names))} in {type(module).__name__} was replaced, added or taken "
                "away after wrapping, and the wrapper would not use it: wrap the model again."
            )
        for name, value in self.settings:
            if getattr(self.tower, name, None) != value:
                raise MismatchError(
                    f"{model_name}: {name} was {value!r} when the model was wrapped and is "
                    f"{getattr(self.tower, name, None)!r}: wrap the model again."
                )
