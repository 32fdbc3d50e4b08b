"""timm's attention pooling with a latent query (MAP)."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.attention_pooling import AttentionPooling, PoolAttention
from residual_lens.hooked.parts.mlp import MLPParts, PlainInput
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import bias_of, plain_linear


@dataclass(frozen=True)
class LatentAttention(PoolAttention):
    """The attention of an `AttentionPoolLatent`."""

    pool: Any

    @property
    def out(self) -> nn.Linear:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pool.proj

    def attend(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_pool"]:
        pool = self.pool
        latent = pool.q(pool.latent[:, :1].expand(len(tokens), -1, -1))
        query = pool.q_norm(rearrange(latent, "batch 1 (route d) -> batch route 1 d", route=pool.num_heads))
        k, v = (x.transpose(1, 2) for x in self.keys_and_values(tokens))
        gathered = F.scaled_dot_product_attention(query, k, v)
        return pool.proj(rearrange(gathered, "batch route 1 d -> batch (route d)"))

    def query(self) -> Float[Tensor, "route d_head"]:
        latent = self.pool.q(self.pool.latent[0, :1])
        return self.pool.q_norm(rearrange(latent, "1 (route d) -> route d", route=self.pool.num_heads))

    def keys_and_values(
        self, tokens: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, "batch pos route d_head"], Float[Tensor, "batch pos route d_head"]]:
        both = rearrange(
            self.pool.kv(tokens),
            "batch pos (part route d) -> batch pos part route d",
            part=2,
            route=self.pool.num_heads,
        )
        return self.pool.k_norm(both[:, :, 0]), both[:, :, 1]

    def value_map(self) -> tuple[Float[Tensor, "route d_model d_head"], Float[Tensor, "route d_head"]]:
        kv, routes = self.pool.kv, self.pool.num_heads
        weight = rearrange(kv.weight.chunk(2)[1], "(route d) m -> route m d", route=routes)
        return weight, bias_of(kv).chunk(2)[1].reshape(routes, -1)


def latent_pooling(pool: nn.Module, first: int, model_name: str) -> AttentionPooling:
    """The parts of an attention pooling.

    Raises:
        UnsupportedModelError: with what is not linear in the tokens.
    """
    if type(pool) is not AttentionPoolLatent:
        raise UnsupportedModelError(
            f"{model_name}: tokens are pooled by {type(pool).__name__}; supported is AttentionPoolLatent."
        )
    parts: Any = pool
    if parts.pos_embed is not None or (parts.pool != "token" and parts.latent_len > 1) or parts.proj_drop.p > 0:
        raise UnsupportedModelError(
            f"{model_name}: attention pooling with positions of its own, several averaged queries or dropout."
        )
    plain_linear(parts.proj, "the pooling's output projection", model_name)
    plain_linear(parts.kv, "the pooling's input projection", model_name)
    attention = LatentAttention(pool)
    if parts.mlp is None:
        return AttentionPooling(attention, first=first)
    if type(parts.mlp) is not Mlp:
        raise UnsupportedModelError(f"{model_name}: the pooling's MLP is {type(parts.mlp).__name__}.")
    mlp = MLPParts(
        inputs=PlainInput(plain_linear(parts.mlp.fc1, "the pooling's MLP", model_name)),
        activation=parts.mlp.act,
        out=plain_linear(parts.mlp.fc2, "the pooling's MLP", model_name),
        inner=(parts.mlp.drop1, parts.mlp.norm),
        drops=(parts.mlp.drop2,),
    )
    return AttentionPooling(attention, mlp_norm=NormParts.maybe(parts.norm, model_name), mlp=mlp, first=first)
