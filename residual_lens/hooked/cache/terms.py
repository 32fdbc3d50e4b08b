"""What single heads and neurons write into the stream, optionally behind a frozen norm."""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from residual_lens.hooked.cache.norm import FrozenNorm


def head_terms(
    heads: Float[Tensor, "*batch_and_pos head d"],
    w_o: Float[Tensor, "head d d_model"] | None,
    norm: FrozenNorm | None,
) -> Float[Tensor, "head *kept d_model"]:
    """`z_h W_O^h` of every head of a layer.

    Args:
        heads: `z`, or what heads write.
        w_o: output weights by head; `None` where `heads` is what heads write.
        norm: what to apply. It pools `z`, so that the terms of all tokens never lie in memory.
    """
    if norm is not None:
        count = heads.shape[-2]
        heads = norm.pool(rearrange(heads, "... head d -> ... (head d)")).unflatten(-1, (count, -1))
    if w_o is not None:
        dtype = torch.promote_types(heads.dtype, w_o.dtype)
        heads = einsum(heads.to(dtype), w_o.to(dtype), "... head d, head d d_model -> ... head d_model")
    terms = rearrange(heads, "... head d_model -> head ... d_model")
    return terms if norm is None else norm.of_pooled(terms)


def neuron_terms(
    post: Float[Tensor, "*batch_and_pos neuron"],
    w_out: Float[Tensor, "neuron d_model"],
    norm: FrozenNorm | None,
    projection: Float[Tensor, "d_model d"] | None,
) -> Float[Tensor, "neuron *kept d"]:
    """`post_n W_out^n` of every neuron of a layer, or its product with `projection`.

    Args:
        post: activations behind the non-linearity.
        w_out: output weights.
        norm: what to apply. It pools and divides the activations and centres the weights, which is the same for less.
        projection: directions to read instead of the whole stream; applied to the weights.
    """
    if norm is not None:
        post = norm.pool(post) / norm.scale
        w_out = norm.centre(w_out.to(post.dtype))
    if projection is not None:
        w_out = w_out @ projection.to(w_out.dtype)
    return einsum(post, w_out, "... neuron, neuron d -> neuron ... d")
