"""Bases and adapters for tiny models, and what a test wants to know about them."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from residual_lens.bases import Bases, Basis, fit_bases
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ResiDual
from tests.tiny_models import tiny_images, tiny_tower

DIRECT_POOLED = ("ViT-B-16", "layerscale", "avg-norm-after-pool", "avg-norm-before-pool")
"""Kinds of model with one linear map from the stream to the embedding."""
PATHS_AND_CENTERS = (("direct", "own"), ("direct", "uniform"), ("stream", "own"))
"""What can be attached: uniform contributions have parts that are not in the stream."""


def wrapped(kind: str = "ViT-B-16", *, center: str = "own", seed: int = 0) -> HookedViT:
    return HookedViT.wrap(tiny_tower(kind, seed=seed), center=center, model_name=f"tiny {kind}")


def bases_for(hvit: HookedViT, *, units: str | tuple[str, ...] = ("heads", "mlps"), n_images: int = 40) -> Bases:
    """Fitted on images that no test edits."""
    images = tiny_images(hvit.source, n_images, seed=5).to(hvit.dtype)
    return fit_bases(hvit, images, units=units)


def cut(bases: Bases, counts: Mapping[str, int]) -> Bases:
    """The same with fewer components for some units."""
    by_unit = dict(bases.by_unit)
    for name, count in counts.items():
        basis = by_unit[name]
        by_unit[name] = replace(basis, components=basis.components[:count], variances=basis.variances[:count])
    return replace(bases, by_unit=by_unit)


def synthetic_bases(n_layers: int, n_heads: int, d_head: int, d_out: int) -> Bases:
    """Bases of a model's shape without the model; all of them share one tensor, so that CLIP-L fits in a test."""
    rows = torch.zeros(max(d_head + 1, d_out), d_out)

    def basis(count: int) -> Basis:
        return Basis(torch.zeros(d_out), rows[:count], torch.full((count,), 1 / count), 1.0)

    heads = {f"L{layer}H{head}": basis(d_head + 1) for layer in range(n_layers) for head in range(n_heads)}
    mlps = {f"{layer}_mlp_out": basis(d_out) for layer in range(n_layers)}
    return Bases(heads | mlps, d_head, "own", 1.0, 100, "synthetic", "0" * 64)


def scales_by_unit(residual: ResiDual) -> dict[str, list[float]]:
    return {name: residual.scales_of(name).tolist() for name in residual.config.units}


def hooks_in_force(hvit: HookedViT) -> int:
    """Hooks of any sort at any hook point."""
    return sum(
        len(point._forward_hooks) + len(point._backward_hooks) + len(point.fwd_hooks) + len(point.bwd_hooks)
        for point in hvit.hook_dict.values()
    )
