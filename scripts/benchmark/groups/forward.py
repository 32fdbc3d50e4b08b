"""The wrapped model beside the plain one: open_clip's image tower, and ours around that very object."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens import HookedViT
from scripts.benchmark.models import Images, apart, noise, tower
from scripts.benchmark.rows import Cases, Sides
from scripts.benchmark.sizes import Sizes

Use = Callable[[HookedViT, Images], Any]
Embeddings = Float[Tensor, "batch d_out"]


def case(what: str, use: Use, embedding: Callable[[Any], Embeddings] | None = None) -> Callable[[Sizes], Sides]:
    """A use of the wrapper and the plain forward pass; `embedding` takes the embedding from what the use gives."""

    def sides(sizes: Sizes) -> Sides:
        plain = tower(sizes.model)
        hvit, images = HookedViT.wrap(plain), noise(sizes.model, sizes.batch)
        return Sides(
            what,
            torch.no_grad()(lambda: use(hvit, images)),
            torch.no_grad()(lambda: plain(images)),
            "plain open_clip, forward",
            embedding and (lambda given, expected: apart(embedding(given), expected)),
        )

    return sides


def z_by_hooks(hvit: HookedViT, images: Images) -> Embeddings:
    """Keep what all heads mix at the pooled token."""
    kept: dict[str, Float[Tensor, "batch head d_head"]] = {}

    def keep(z: Float[Tensor, "batch pos head d_head"], hook: Any) -> None:
        kept[hook.name] = z[:, 0].clone()

    names = [f"blocks.{layer}.attn.hook_z" for layer in range(hvit.cfg.n_layers)]
    return hvit.run_with_hooks(images, fwd_hooks=[(name, keep) for name in names])


def towards_a_text(hvit: HookedViT, images: Images) -> Float[Tensor, "batch direction head pos"]:
    """What every head finds where, for one text."""
    text = torch.ones(1, hvit.cfg.d_out, device=hvit.device)
    return hvit.decompose(images, tokens=True).tokens.towards(text)


def section(sizes: Sizes) -> str:
    """What the rows share."""
    return f"Forward pass of an open_clip {sizes.model}, batch {sizes.batch}"


CASES: Cases = {
    "forward-plain": case("no hooks", lambda hvit, images: hvit(images), lambda embedding: embedding),
    "forward-z": case("all heads' `z` at the pooled token, by hooks", z_by_hooks, lambda embedding: embedding),
    "forward-extract": case("all units' terms, `extract`", HookedViT.extract),
    "forward-decompose": case("all direct contributions, `decompose`", HookedViT.decompose, lambda d: d.total()),
    "forward-tokens": case(
        "every head by token, `decompose(tokens=True)`",
        lambda hvit, images: hvit.decompose(images, tokens=True),
        lambda parts: parts.total(),
    ),
    "forward-towards": case("the same and its map towards one text", towards_a_text),
}
