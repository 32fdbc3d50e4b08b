"""How much each token of an image counts: one head's attention where the embedding reads it, and attention rollout."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.cache import ViTCache
from residual_lens.units import Unit

ROWS_SUM_TOL = 1e-2
"""Patterns in half precision add up to one within this."""


@torch.no_grad()
def attention_rollout(
    patterns: ViTCache | Sequence[Float[Tensor, "batch head query pos"]],
) -> Float[Tensor, "batch pos pos"]:
    """Attention through all layers, with the stream's own share: how much of each token reaches each position.

    `R = Â_L … Â_1` with `Â_l = ½ (mean over heads of A_l) + ½ I` (Abnar & Zuidema 2020, arXiv 2005.00928, section 3).
    It knows attention alone: neither what values hold nor how large heads and MLPs are beside the stream.

    Args:
        patterns: a cache that holds `hook_pattern` of every layer; or the patterns, first layer first.

    Returns:
        Rows are positions after the last layer, columns tokens of the first; rows add up to 1. float32 or wider.

    Raises:
        NotCachedError: the pattern of some layer was not cached.
        InputError: no patterns, of different sizes, cut to some positions, or rows that do not add up to 1.

    Example:
        >>> one = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
        >>> attention_rollout([one, one])[0]
        tensor([[1.0000, 0.0000],
                [0.4375, 0.5625]])
    """
    found = _of_all_layers(patterns) if isinstance(patterns, ViTCache) else list(patterns)
    if not found or any(one.shape != found[0].shape for one in found):
        raise InputError(
            f"Expected patterns of at least one layer, of one size, got {[list(one.shape) for one in found]}."
        )
    rollout = None
    for layer, pattern in enumerate(found):
        mean = pattern.to(torch.promote_types(pattern.dtype, torch.float32)).mean(dim=1)
        if mean.shape[-1] != mean.shape[-2] or not ((mean.sum(dim=-1) - 1).abs() <= ROWS_SUM_TOL).all():
            raise InputError(
                f"The pattern of layer {layer}, {list(pattern.shape)}, is no attention from all positions to all, with "
                "rows that add up to 1: cache it without pos_slice, and without edits that change its sums."
            )
        own = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        rollout = own if rollout is None else own @ rollout
    return cast(Tensor, rollout)


@torch.no_grad()
def token_attention(cache: ViTCache, unit: str | None = None) -> Float[Tensor, "batch pos"]:
    """How much of each token a head, or the whole model, looks at where the embedding reads the stream.

    A model that pools a class token reads that token's row; one that pools the mean, the mean over the pooled rows; one
    that pools by attention, its rows weighted by the pooling's pattern, mean over the pooling's heads.

    Args:
        cache: of one run: `hook_pattern` of the head's layer, or of all layers; and `pool.hook_pattern`, where there is
            one.
        unit: a head; attention rollout of all layers by default.

    Returns:
        In the order of the tokens, prefix tokens included; adds up to 1.

    Raises:
        NotCachedError: a pattern that this needs was not cached.
        InputError: a unit that is no head of the model, or patterns that are cut.

    Example:
        >>> from residual_lens import HookedViT
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> _, cache = hvit.run_with_cache(torch.zeros(2, 3, *hvit.cfg.image_size))
        >>> token_attention(cache, "L5H2").shape == (2, hvit.cfg.n_ctx), float(token_attention(cache)[0].sum())
        (True, 1.0...)
    """
    matrix = attention_rollout(cache) if unit is None else _of_head(cache, unit)
    return torch.einsum("bp,bpq->bq", _read_rows(cache, matrix), matrix)


def _of_all_layers(cache: ViTCache) -> list[Float[Tensor, "batch head pos pos"]]:
    n_layers = cast(HookedViT, cache.model).cfg.n_layers
    return [_batched(cache, f"blocks.{layer}.attn.hook_pattern", 4) for layer in range(n_layers)]


def _of_head(cache: ViTCache, name: str) -> Float[Tensor, "batch pos pos"]:
    cfg, unit = cast(HookedViT, cache.model).cfg, Unit.named(name)
    if unit.kind != "head" or unit.layer is None or unit.index is None:
        raise InputError(f"Only heads attend, and {name} is none: name one like 'L0H0'.")
    if unit.layer >= cfg.n_layers or unit.index >= cfg.n_heads:
        raise InputError(f"{cfg.model_name} has {cfg.n_layers} layers × {cfg.n_heads} heads, and no {name}.")
    pattern = _batched(cache, f"blocks.{unit.layer}.attn.hook_pattern", 4)[:, unit.index]
    if pattern.shape[-1] != pattern.shape[-2]:
        raise InputError(f"The pattern of {name} is cut to {list(pattern.shape[1:])}: cache it without pos_slice.")
    return pattern.to(torch.promote_types(pattern.dtype, torch.float32))


def _read_rows(cache: ViTCache, like: Float[Tensor, "batch pos pos"]) -> Float[Tensor, "batch pos"]:
    """Weight of each position in what the embedding reads; adds up to 1."""
    hvit = cast(HookedViT, cache.model)
    n_pos = like.shape[-1]
    kept = hvit.pool.keep(torch.eye(n_pos, dtype=like.dtype, device=like.device)[None])[0]
    if "pool.hook_pattern" in hvit.hook_dict:
        return _batched(cache, "pool.hook_pattern", 3).to(like.dtype).mean(dim=1) @ kept
    return kept.mean(dim=0).expand(len(like), -1)


def _batched(cache: ViTCache, name: str, n_axes: int) -> Tensor:
    """An activation with its batch axis, whether or not the cache has one."""
    activation = cache[name]
    return activation if activation.ndim == n_axes else activation[None]
