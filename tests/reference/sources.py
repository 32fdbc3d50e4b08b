"""Parameters of open_clip, timm and Hugging Face models as the plain tensors that the naive twins run on.

Everything is read from a float64 copy. Tokens that enter the first block (and rotary positions) are what the model
itself gives its blocks; its own embedding is kept beside them, so that the twin can be held against it.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from open_clip.transformer import LayerScale
from torch import Tensor, nn

from tests.reference import readouts
from tests.reference.readouts import Frozen, PoolAttention, Projection
from tests.reference.streams import Affine, Block, Stream, run_blocks, turned


@dataclass(frozen=True)
class Plain:
    """A model taken apart."""

    stream: Stream
    frozen: Frozen
    embedding: Tensor
    """The source's own, in float64."""

    @property
    def units(self) -> dict[str, Tensor]:
        return readouts.units_of(self.stream, self.frozen)

    def by_token(self, name: str) -> Tensor:
        return readouts.by_token(self.stream, self.frozen, name)


@torch.no_grad()
def plain(model: nn.Module, images: Tensor, embed: Callable[[Any, Tensor], Tensor], *, head: bool = False) -> Plain:
    """Take a model apart.

    Args:
        model: of one of the families below; any dtype.
        images: any dtype.
        embed: its own embedding of images.
        head: for timm: whether a linear head follows.
    """
    model, images = copy.deepcopy(model).double().eval(), images.double()
    family = type(model).__module__.split(".")[0]
    reader = {"timm": partial(of_timm, head=head), "open_clip": of_open_clip, "transformers": of_hugging_face}[family]
    modules, read_block, read_pooling = reader(model)
    calls = []
    handles = [
        module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
        for module in modules
    ]
    embedding = embed(model, images)
    for handle in handles:
        handle.remove()
    stream = run_blocks(
        [read_block(module, *call) for module, call in zip(modules, calls, strict=True)], calls[0][0][0]
    )
    return Plain(stream, read_pooling(stream.x), embedding)


Read = tuple[Sequence[nn.Module], Callable[..., Block], Callable[[Tensor], Frozen]]


def affine(layer: nn.Linear) -> Affine:
    bias = torch.zeros(len(layer.weight), dtype=layer.weight.dtype) if layer.bias is None else layer.bias
    return layer.weight, bias


def thirds(weight: Tensor, bias: Tensor | None) -> tuple[Affine, Affine, Affine]:
    bias = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias
    q, k, v = zip(weight.chunk(3), bias.chunk(3), strict=True)
    return q, k, v


def of_timm(model: Any, *, head: bool) -> Read:
    prefix = model.num_prefix_tokens
    width = model.attn_pool.out_features if model.attn_pool is not None else model.embed_dim
    projection = Projection(model.head.weight.T, model.head.bias) if head else Projection(torch.eye(width).double())
    return list(model.blocks), partial(timm_block, model), partial(timm_pooling, model, projection, prefix)


def timm_block(model: Any, block: Any, args: tuple, kwargs: dict) -> Block:
    attention, rotate = block.attn, None
    if attention.qkv is None:
        q, k, v = (affine(layer) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    elif getattr(attention, "q_bias", None) is not None:
        bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
        q, k, v = thirds(attention.qkv.weight, bias)
    else:
        q, k, v = thirds(attention.qkv.weight, attention.qkv.bias)
    if kwargs.get("rope") is not None:
        sin, cos = kwargs["rope"].double().chunk(2, dim=-1)
        halves = bool(attention.rotate_half)

        def rotate(x: Tensor, head: int) -> Tensor:
            tables = (sin, cos) if sin.ndim == 2 else (sin[head], cos[head])
            return turned(x, *tables, prefix=model.num_prefix_tokens, halves=halves)

    if hasattr(block, "ls1"):
        gains = tuple(getattr(scale, "gamma", 1.0) for scale in (block.ls1, block.ls2))
    else:
        gains = tuple(1.0 if gamma is None else gamma for gamma in (block.gamma_1, block.gamma_2))
    return Block(
        block.norm1,
        block.norm2,
        *(q, k, v, affine(attention.proj)),
        mlp=block.mlp,
        n_heads=attention.num_heads,
        q_norm=attention.q_norm,
        k_norm=attention.k_norm,
        rotate=rotate,
        gains=gains,
    )


def timm_pooling(model: Any, projection: Projection, prefix: int, x: Tensor) -> Frozen:
    if model.attn_pool is not None:
        everything = getattr(model, "pool_include_prefix", True)
        pool = latent_attention(model.attn_pool, 0 if everything else prefix)
        return readouts.attention_readout(model.norm, x, projection, pool)
    if model.global_pool == "token":
        return readouts.token_readout(model.norm, x, projection)
    if isinstance(model.norm, nn.Identity):
        return readouts.pooled_then_normed(
            model.fc_norm, x, projection, lambda term: term[:, prefix:].sum(dim=1) / (term.shape[1] - prefix)
        )
    return readouts.mean_of_normed(model.norm, x, projection, prefix)


def latent_attention(pool: Any, first: int) -> PoolAttention:
    k, v = zip(*(part.chunk(2) for part in affine(pool.kv)), strict=True)
    query = pool.q_norm((pool.q(pool.latent[0, 0])).reshape(pool.num_heads, -1))
    mlp = None if pool.mlp is None else lambda attended: pool.mlp(pool.norm(attended))
    return PoolAttention(query, k, v, affine(pool.proj), k_norm=pool.k_norm, mlp=mlp, first=first)


def of_open_clip(tower: Any) -> Read:
    def block(module: Any, args: tuple, kwargs: dict) -> Block:
        attention = module.attn
        gains = tuple(scale.gamma if isinstance(scale, LayerScale) else 1.0 for scale in (module.ls_1, module.ls_2))
        return Block(
            module.ln_1,
            module.ln_2,
            *thirds(attention.in_proj_weight, attention.in_proj_bias),
            out=affine(attention.out_proj),
            mlp=module.mlp,
            n_heads=attention.num_heads,
            gains=gains,
        )

    def pooling(x: Tensor) -> Frozen:
        projection = Projection(tower.proj)
        if tower.pool_type == "tok":
            return readouts.token_readout(tower.ln_post, x, projection)
        if tower.final_ln_after_pool:
            return readouts.pooled_then_normed(tower.ln_post, x, projection, lambda term: term[:, 1:].mean(dim=1))
        return readouts.mean_of_normed(tower.ln_post, x, projection, first=1)

    if tower.attn_pool is not None:
        return list(tower.transformer.resblocks), block, lambda x: coca_pooling(tower, x)
    return list(tower.transformer.resblocks), block, pooling


def coca_pooling(tower: Any, x: Tensor) -> Frozen:
    """Tokens normalised, gathered by the first query, normalised once more and projected."""
    pooler, norm = tower.attn_pool, tower.ln_post
    q, k, v = pool_projections(pooler.attn)
    query = (pooler.ln_q(pooler.query)[0] @ q[0].T + q[1]).reshape(pooler.attn.num_heads, -1)
    pool = PoolAttention(query, k, v, affine(pooler.attn.out_proj))
    gathered = readouts.attention_readout(pooler.ln_k, x, Projection(torch.eye(len(norm.weight)).double()), pool)
    pooled = gathered.of_term(x) + gathered.constant
    frozen = readouts.FrozenNorm(norm, pooled)
    return Frozen(
        lambda term: frozen.of_term(gathered.of_term(term)) @ tower.proj,
        (frozen.of_term(gathered.constant) + frozen.offset) @ tower.proj,
    )


def pool_projections(attention: nn.MultiheadAttention) -> tuple[Affine, Affine, Affine]:
    if attention.in_proj_weight is not None:
        return thirds(attention.in_proj_weight, attention.in_proj_bias)
    weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    q, k, v = zip(weights, attention.in_proj_bias.chunk(3), strict=True)
    return q, k, v


def of_hugging_face(model: Any) -> Read:
    name = type(model).__name__
    tower = getattr(model, "vision_model", model)
    if name.startswith("DINOv3"):
        prefix = 1 + model.config.num_register_tokens
        projection = Projection(torch.eye(model.config.hidden_size).double())
        return (
            list(model.model.layer),
            partial(dinov3_block, prefix),
            lambda x: readouts.token_readout(model.norm, x, projection),
        )
    if name.startswith("Blip"):
        projection = Projection(model.vision_proj.weight.T, model.vision_proj.bias)
        return (
            list(tower.encoder.layers),
            encoder_block,
            lambda x: readouts.token_readout(tower.post_layernorm, x, projection),
        )
    return list(tower.encoder.layers), encoder_block, lambda x: siglip_pooling(tower, x)


def encoder_block(layer: Any, args: tuple, kwargs: dict) -> Block:
    attention = layer.self_attn
    if hasattr(attention, "qkv"):
        parts, out = thirds(*affine(attention.qkv)), attention.projection
    else:
        parts = tuple(affine(linear) for linear in (attention.q_proj, attention.k_proj, attention.v_proj))
        out = attention.out_proj
    return Block(layer.layer_norm1, layer.layer_norm2, *parts, affine(out), mlp=layer.mlp, n_heads=attention.num_heads)


def dinov3_block(prefix: int, layer: Any, args: tuple, kwargs: dict) -> Block:
    attention = layer.attention
    cos, sin = (table.double() for table in kwargs["position_embeddings"])
    return Block(
        layer.norm1,
        layer.norm2,
        *(affine(linear) for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)),
        mlp=layer.mlp,
        n_heads=attention.num_heads,
        rotate=lambda x, head: turned(x, sin, cos, prefix=prefix, halves=True),
        gains=(layer.layer_scale1.lambda1, layer.layer_scale2.lambda1),
    )


def siglip_pooling(tower: Any, x: Tensor) -> Frozen:
    head = tower.head
    q, k, v = pool_projections(head.attention)
    query = (head.probe[0, 0] @ q[0].T + q[1]).reshape(head.attention.num_heads, -1)
    pool = PoolAttention(
        query, k, v, affine(head.attention.out_proj), mlp=lambda attended: head.mlp(head.layernorm(attended))
    )
    return readouts.attention_readout(tower.post_layernorm, x, Projection(torch.eye(x.shape[-1]).double()), pool)
