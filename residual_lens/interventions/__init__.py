"""Edits of a forward pass, as hooks."""

from residual_lens.interventions.adapter import Adapter, Path
from residual_lens.interventions.patching import activation_patch
from residual_lens.interventions.residual import ResiDual

__all__ = ["Adapter", "Path", "ResiDual", "activation_patch"]
