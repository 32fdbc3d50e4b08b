"""What `torch.compile` makes of the wrapper, as one JSON object: gaps to the uncompiled model, and counts.

A program of its own (`python -m tests.hooked.compiled_runs NAME`), because dynamo cannot trace the type checks that
pytest puts around every function; users run without them.
"""

import json
import sys
from collections.abc import Callable

import timm
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import draw_weights
from tests.tolerances import relative_gap

POINTS = ("blocks.0.hook_mlp_out", "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_direct")


def wrapped() -> tuple[HookedViT, Tensor]:
    torch._dynamo.reset()
    tower = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    draw_weights(tower, 0)
    hvit = HookedViT.wrap(tower.eval())
    return hvit, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def times(factor: float) -> Callable:
    def hook(activation, hook):
        return activation * factor

    return hook


def added(activation, hook):
    # Every other coordinate, because a norm takes a constant away.
    activation[..., ::2] += 0.5


def plain() -> dict[str, float]:
    """One graph without breaks; hooks come, change and go afterwards, at every kind of point."""
    hvit, images = wrapped()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(hvit, backend=counter, fullgraph=True)
    before = hvit(images)
    gaps = {"no hooks": relative_gap(compiled(images), before), "graphs": counter.frame_count}
    halved, tripled, in_place = ("halved", times(0.5)), ("tripled", times(3.0)), ("in place", added)
    for point, hooks in zip(POINTS, ([halved, tripled, in_place], [in_place], [tripled]), strict=True):
        for label, hook in hooks:
            with hvit.hooks([(point, hook)]):
                expected = hvit(images)
                gaps[f"{point} {label}"] = relative_gap(compiled(images), expected)
                gaps[f"effect {point} {label}"] = relative_gap(expected, before)
        gaps[f"{point} removed"] = relative_gap(compiled(images), before)
    return gaps


def hooked_first() -> dict[str, float]:
    """Hooks in force when the first graph is made, and gone afterwards; caching; blocks compiled one by one."""
    hvit, images = wrapped()
    compiled = torch.compile(hvit, backend="eager")
    before = hvit(images)
    with hvit.hooks([(POINTS[0], times(0.5))]):
        expected = hvit(images)
        gaps = {"hooked": relative_gap(compiled(images), expected), "effect": relative_gap(expected, before)}
    gaps["removed"] = relative_gap(compiled(images), before)
    _, cache = hvit.run_with_cache(images)
    for block in hvit.blocks:
        block.compile(backend="eager")
    gaps["blocks"] = relative_gap(hvit(images), before)
    with hvit.hooks([(POINTS[0], times(0.5))]):
        gaps["blocks hooked"] = relative_gap(hvit(images), expected)
    hvit, _ = wrapped()
    hvit.compile(backend="eager")
    embedding, ours = hvit.run_with_cache(images)
    gaps["cached embedding"] = relative_gap(embedding, before)
    gaps |= {f"cached {name}": relative_gap(ours[name], cache[name]) for name in hvit.hook_dict}
    return gaps


def gradients() -> dict[str, float]:
    """Weights, images, a factor in a hook, hooks on gradients; with checkpointing."""
    hvit, images = wrapped()
    compiled = torch.compile(hvit, backend="aot_eager")
    images.requires_grad_()
    factor = torch.tensor(1.5, requires_grad=True)
    leaves = (images, factor, *hvit.parameters())
    gaps = {}

    def compare(label: str, fwd: list, bwd: list) -> None:
        with hvit.hooks(fwd, bwd_hooks=bwd):
            expected, found = (
                torch.autograd.grad(run(images).square().sum(), leaves, allow_unused=True) for run in (hvit, compiled)
            )
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            if theirs is not None:
                gaps[f"{label} {number}"] = relative_gap(ours, theirs)

    scaled = (POINTS[0], lambda activation, hook: activation * factor)
    compare("plain", [], [])
    compare("factor", [scaled], [])
    compare("gradient hook", [], [(POINTS[2], times(0.5))])
    hvit.set_grad_checkpointing()
    compare("checkpointed", [scaled], [])
    return gaps


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64
    json.dump({"plain": plain, "hooked_first": hooked_first, "gradients": gradients}[sys.argv[1]](), sys.stdout)
