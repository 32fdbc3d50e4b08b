"""Where what is not a number comes from: which scales, whose contribution."""

from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import ResidualLensError
from residual_lens.interventions.adapter import Origin
from residual_lens.training.cached import Coordinates
from residual_lens.training.fitting.settings import Job
from residual_lens.training.splits.batches import embed
from residual_lens.training.splits.live import LiveImages, LiveSamples
from residual_lens.training.splits.sampler import Batch


@torch.no_grad()
def not_finite(what: str, name: str, job: Job, batch: Batch, learning_rate: float) -> ResidualLensError:
    """The error that ends training: what stopped being a number, and which unit did first.

    Args:
        what: is not finite, and when.
        name: of the split.
        job: its adapter has the parameters that gave this, and is in force if it trains live.
        batch: the samples.
        learning_rate: of the optimizer.
    """
    split, reason = job.splits[name], _of_parameters(job)
    if not reason and isinstance(split, Coordinates):
        reason = _of_coordinates(job, split, batch)
    if not reason and isinstance(split, LiveSamples | LiveImages):
        reason = _of_images(job, split, batch)
    reason = reason or "every unit is finite, what they add up to is not"
    return ResidualLensError(
        f"{what}: {reason}. Lower learning_rate (it is {learning_rate:g}), unless the samples are "
        "at fault. The adapter has the weights that were best on validation."
    )


def _of_parameters(job: Job) -> str:
    for name, parameter in job.adapter.named_parameters():
        wrong = (~parameter.flatten().isfinite()).nonzero()[:, 0]
        if len(wrong):
            place = int(wrong[0])
            unit = _unit_of_scale(job, place) if name == "scales" else ""
            return f"{len(wrong)} of {parameter.numel()} numbers in {name} are not finite, the first is {place}{unit}"
    return ""


def _unit_of_scale(job: Job, place: int) -> str:
    form = job.adapter.cached_form(Origin.of_model(job.hvit))
    scaled_units = {} if form is None else form.units
    # A unit without directions has no scale; its first is the next unit's.
    firsts = {unit: x.first for unit, x in scaled_units.items() if x.directions is None or len(x.directions)}
    before = [unit for unit in firsts if firsts[unit] <= place]
    return f", of {max(before, key=firsts.__getitem__)}" if before else ""


def _of_coordinates(job: Job, split: Coordinates, batch: Batch) -> str:
    rows = batch.rows.to(split.labels.device)
    if not split.base[rows].isfinite().all():
        return "what no scale multiplies is not finite in these samples"
    if len(split.index) == 0:
        return ""
    contributions = split.values[rows] * job.adapter.scales.flatten()[split.index]
    wrong = (~contributions.isfinite()).any(dim=0).nonzero()[:, 0]
    if len(wrong) == 0:
        return ""
    unit = _unit_of_scale(job, int(split.index[wrong[0]]))
    return f"{len(wrong)} coordinates times their scales are not finite, the first{unit}"


def _of_images(job: Job, split: LiveSamples | LiveImages, batch: Batch) -> str:
    """The first unit in the stream that is not finite, for the first image whose embedding is not."""
    hvit = job.hvit
    wrong = (~embed(split, job.adapter, hvit, batch).isfinite()).any(dim=1).nonzero()[:, 0]
    if len(wrong) == 0:
        return ""
    chosen = wrong[:1].cpu()
    pixels = split.images[batch.rows[chosen]] if isinstance(split, LiveSamples) else cast(Tensor, batch.pixels)[chosen]
    found: list[str] = []
    hooks = [("blocks.0.hook_resid_pre", partial(_look, ["embed"], found))]
    for layer in range(hvit.cfg.n_layers):
        heads = [f"L{layer}H{head}" for head in range(hvit.cfg.n_heads)]
        hooks += [(f"blocks.{layer}.attn.hook_result", partial(_look, heads, found))]
        hooks += [(f"blocks.{layer}.hook_mlp_out", partial(_look, [f"{layer}_mlp_out"], found))]
    with hvit.hooks(fwd_hooks=hooks):
        hvit(pixels.to(hvit.device, hvit.dtype))
    return f"{found[0]} is the first unit in the stream that is not finite" if found else ""


def _look(units: list[str], found: list[str], values: Float[Tensor, "..."], hook: object) -> None:
    """Add those of some units whose values are not finite."""
    parts = [values] if len(units) == 1 else values.unbind(dim=-2)
    found += [unit for unit, part in zip(units, parts, strict=True) if not part.isfinite().all()]
