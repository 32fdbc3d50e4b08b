"""Edits of a forward pass, as hooks."""

from residual_lens.interventions.ablation import ablate, keep_only
from residual_lens.interventions.adapter import Adapter, Path
from residual_lens.interventions.bake import bake, unbake
from residual_lens.interventions.directions import Component, Difference
from residual_lens.interventions.edit import Edit
from residual_lens.interventions.patching import activation_patch
from residual_lens.interventions.projection import project_out
from residual_lens.interventions.reference import mean_contributions
from residual_lens.interventions.residual import ResiDual
from residual_lens.interventions.scaling import scale
from residual_lens.interventions.steering import steer

__all__ = [
    "Adapter",
    "Component",
    "Difference",
    "Edit",
    "Path",
    "ResiDual",
    "ablate",
    "activation_patch",
    "bake",
    "keep_only",
    "mean_contributions",
    "project_out",
    "scale",
    "steer",
    "unbake",
]
