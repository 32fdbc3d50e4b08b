"""Beside TransformerLens' bridge: both take a Hugging Face `ViTModel` of the same weights.

The bridge sets its model to eager attention, so that the plain model has a row with it, too.
"""

from collections.abc import Callable
from functools import lru_cache
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens import HookedViT
from scripts.benchmark.models import apart, hugging_face_vit, noise
from scripts.benchmark.rows import Cases, Sides
from scripts.benchmark.sizes import Sizes


@lru_cache(maxsize=1)
def bridge(model: str) -> Any:
    """The bridge around a model of its own."""
    # Imported here because it costs memory, and not every process needs it.
    from transformer_lens.model_bridge import TransformerBridge

    # It goes on to look for an image processor by the model's name: an empty folder has none, without asking a server.
    with TemporaryDirectory() as empty:
        return TransformerBridge.boot_transformers(empty, hf_model=hugging_face_vit(model, "eager"), device="cpu")


def plain_case(attention: str, the_other_way: str) -> Callable[[Sizes], Sides]:
    """Ours without hooks, and the plain model."""

    def sides(sizes: Sizes) -> Sides:
        images = noise(sizes.model, sizes.batch)
        ours, plain = HookedViT.wrap(hugging_face_vit(sizes.model, "sdpa")), hugging_face_vit(sizes.model, attention)
        return Sides(
            "no hooks",
            torch.no_grad()(lambda: ours(images)),
            torch.no_grad()(lambda: plain(images)),
            the_other_way,
            lambda embedding, output: apart(embedding, output.last_hidden_state[:, 0]),
        )

    return sides


def forward(sizes: Sizes) -> Sides:
    """Without hooks."""
    ours, its = HookedViT.wrap(hugging_face_vit(sizes.model, "sdpa")), bridge(sizes.model)
    images = noise(sizes.model, sizes.batch)
    return Sides(
        "no hooks",
        torch.no_grad()(lambda: ours(images)),
        torch.no_grad()(lambda: its(images)),
        "TransformerLens' bridge",
        lambda embedding, output: apart(embedding, output[:, 0]),
    )


def cached(what: str, template: str, **options: int) -> Callable[[Sizes], Sides]:
    """The same call of `run_with_cache`, activations of every layer compared."""

    def sides(sizes: Sizes) -> Sides:
        ours, its = HookedViT.wrap(hugging_face_vit(sizes.model, "sdpa")), bridge(sizes.model)
        images = noise(sizes.model, sizes.batch)
        names = [template.format(layer) for layer in range(ours.cfg.n_layers)]

        @torch.no_grad()
        def run(model: Any) -> list[Float[Tensor, "..."]]:
            cache = model.run_with_cache(images, names_filter=names, **options)[1]
            return [cache[name] for name in names]

        return Sides(
            f"{what}, `run_with_cache`",
            lambda: run(ours),
            lambda: run(its),
            "the same call of TransformerLens' bridge",
            lambda a, b: max(map(apart, a, b)),
        )

    return sides


def section(sizes: Sizes) -> str:
    """What the rows share."""
    return f"Forward pass of a Hugging Face ViT of the same sizes as {sizes.model}, batch {sizes.batch}"


CASES: Cases = {
    "bridge-plain": plain_case("sdpa", "plain `ViTModel`"),
    "bridge-eager": plain_case("eager", "plain `ViTModel`, eager attention"),
    "bridge-forward": forward,
    "bridge-z": cached("all heads' `z` at the pooled token", "blocks.{}.attn.hook_z", pos_slice=0),
    "bridge-stream": cached("every `hook_resid_post` at the pooled token", "blocks.{}.hook_resid_post", pos_slice=0),
    "bridge-patterns": cached("every pattern", "blocks.{}.attn.hook_pattern"),
}
