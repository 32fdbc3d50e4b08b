"""Obvious twin of the decomposition: float64, one head at a time, from open_clip's own parameters.

Nothing of residual_lens is used. Terms of the stream are collected while the blocks run; the final norm's statistics
are those of their sum; each term is then taken through pooling, norm and projection by itself.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import LayerScale, VisionTransformer
from torch import Tensor, nn


@dataclass(frozen=True)
class NaiveRun:
    """Float64 results by unit name."""

    units: dict[str, Tensor]
    """Direct contributions `[batch d_out]`."""
    z: dict[str, Tensor]
    """By head: `[batch pos d_head]`."""
    patterns: dict[str, Tensor]
    """By head: `[batch query pos]`."""
    terms: dict[str, Tensor]
    """What each unit writes into the stream, `[batch pos d_model]`."""
    embedding: Tensor
    """`[batch d_out]`, computed without the decomposition."""


@torch.no_grad()
def naive_decomposition(tower: VisionTransformer, images: Tensor, center: str = "own") -> NaiveRun:
    tower = copy.deepcopy(tower).double().eval()
    x = embed(tower, images.double())
    terms, z, patterns = {"embed": x}, {}, {}
    for layer, block in enumerate(tower.transformer.resblocks):
        normed = block.ln_1(x)
        for head in range(block.attn.num_heads):
            name = f"L{layer}H{head}"
            z[name], patterns[name] = naive_head(block.attn, normed, head)
            terms[name] = scaled(block.ls_1, head_output(block.attn, z[name], head))
            x = x + terms[name]
        terms[f"{layer}_mlp_out"] = scaled(block.ls_2, block.mlp(block.ln_2(x)))
        x = x + terms[f"{layer}_mlp_out"]
    if tower.attn_pool is not None:
        units, embedding = attention_pooled(tower, terms, x)
    elif tower.pool_type == "avg" and not tower.final_ln_after_pool:
        units, embedding = normed_then_averaged(tower, terms, x, center)
    else:
        units, embedding = pooled_then_normed(tower, terms, x, center)
    return NaiveRun(units, z, patterns, terms, embedding)


def embed(tower: VisionTransformer, images: Tensor) -> Tensor:
    rows = []
    for image in images:
        patches = tower.conv1(image[None])[0].flatten(1).T
        rows.append(torch.cat([tower.class_embedding[None], patches]) + tower.positional_embedding)
    return tower.ln_pre(torch.stack(rows))


def naive_head(attention: nn.MultiheadAttention, normed: Tensor, head: int) -> tuple[Tensor, Tensor]:
    d_model, d_head = attention.embed_dim, attention.head_dim
    rows = torch.arange(head * d_head, (head + 1) * d_head)
    q, k, v = (
        normed @ attention.in_proj_weight[part * d_model + rows].T + attention.in_proj_bias[part * d_model + rows]
        for part in range(3)
    )
    pattern = torch.softmax(q @ k.transpose(1, 2) / d_head**0.5, dim=-1)
    return pattern @ v, pattern


def head_output(attention: nn.MultiheadAttention, z: Tensor, head: int) -> Tensor:
    columns = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
    return z @ attention.out_proj.weight[:, columns].T + attention.out_proj.bias / attention.num_heads


def scaled(scale: nn.Module, term: Tensor) -> Tensor:
    return term * scale.gamma if isinstance(scale, LayerScale) else term


def shares(terms: dict[str, Tensor], common: Tensor) -> dict[str, Tensor]:
    """The paper's even shares: one for embed and each MLP, one H-th for each head."""
    layers = sum(name.endswith("_mlp_out") for name in terms)
    heads = sum(name.startswith("L") for name in terms) // layers
    return {name: common / (2 * layers + 1) / (heads if name.startswith("L") else 1) for name in terms}


def centred(c: Tensor) -> Tensor:
    return c - c.mean(dim=-1, keepdim=True)


def deviation(r: Tensor, eps: float) -> Tensor:
    return (r.var(dim=-1, unbiased=False, keepdim=True) + eps).sqrt()


def pooled_then_normed(
    tower: VisionTransformer, terms: dict[str, Tensor], x: Tensor, center: str
) -> tuple[dict[str, Tensor], Tensor]:
    def pool(term: Tensor) -> Tensor:
        return term[:, 0] if tower.pool_type == "tok" else term[:, 1:].sum(dim=1) / (term.shape[1] - 1)

    norm, proj = tower.ln_post, tower.proj
    r = pool(x)
    sigma = deviation(r, norm.eps)
    embedding = norm(r) @ proj
    if center == "own":
        units = {name: (norm.weight * centred(pool(term)) / sigma) @ proj for name, term in terms.items()}
        return units | {"bias": (norm.bias @ proj).expand_as(embedding)}, embedding
    common = shares(terms, norm.bias - norm.weight * r.mean(dim=-1, keepdim=True) / sigma)
    return {name: (norm.weight * pool(term) / sigma + common[name]) @ proj for name, term in terms.items()}, embedding


def normed_then_averaged(
    tower: VisionTransformer, terms: dict[str, Tensor], x: Tensor, center: str
) -> tuple[dict[str, Tensor], Tensor]:
    norm, proj = tower.ln_post, tower.proj
    sigma = deviation(x, norm.eps)
    embedding = norm(x)[:, 1:].mean(dim=1) @ proj
    if center == "own":
        units = {name: (norm.weight * centred(term) / sigma)[:, 1:].mean(dim=1) @ proj for name, term in terms.items()}
        return units | {"bias": (norm.bias @ proj).expand_as(embedding)}, embedding
    common = shares(terms, norm.bias - norm.weight * x.mean(dim=-1, keepdim=True) / sigma)
    return {
        name: (norm.weight * term / sigma + common[name])[:, 1:].mean(dim=1) @ proj for name, term in terms.items()
    }, embedding


def attention_pooled(tower: VisionTransformer, terms: dict[str, Tensor], x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The pooler's pattern and both norms' scales frozen at their values for the whole stream."""
    pooler, norm, proj = tower.attn_pool, tower.ln_post, tower.proj
    attention, inner = pooler.attn, pooler.ln_k
    d, heads = attention.embed_dim, attention.num_heads
    if attention.in_proj_weight is None:
        w_q, w_k, w_v = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    else:
        w_q, w_k, w_v = attention.in_proj_weight.chunk(3)
    b_q, b_k, b_v = attention.in_proj_bias.chunk(3)
    tokens, query = inner(x), pooler.ln_q(pooler.query)[0]
    inner_sigma = deviation(x, inner.eps)

    def through(values: Tensor) -> Tensor:
        """`W_O` over the values that each pooling head gathers with its pattern, without biases."""
        out = 0
        for head in range(heads):
            rows = slice(head * d // heads, (head + 1) * d // heads)
            q = w_q[rows] @ query + b_q[rows]
            k = tokens @ w_k[rows].T + b_k[rows]
            pattern = torch.softmax(k @ q / (d // heads) ** 0.5, dim=-1)
            gathered = (pattern[..., None] * (values @ w_v[rows].T)).sum(dim=1)
            out = out + gathered @ attention.out_proj.weight[:, rows].T
        return out

    constant = through(inner.bias.expand_as(x)) + F.linear(b_v, attention.out_proj.weight) + attention.out_proj.bias
    pooled = through(tokens) + F.linear(b_v, attention.out_proj.weight) + attention.out_proj.bias
    sigma = deviation(pooled, norm.eps)
    units = {
        name: (norm.weight * centred(through(inner.weight * centred(term) / inner_sigma)) / sigma) @ proj
        for name, term in terms.items()
    }
    units["bias"] = (norm.weight * centred(constant) / sigma + norm.bias) @ proj
    return units, norm(pooled) @ proj
