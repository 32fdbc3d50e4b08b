"""DINOv3: rotary positions and registers, no positions that are added."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from residual_lens.hooked.backbones.huggingface.layers import (
    ConvEmbedding,
    projected_mlp,
    separate_projections,
    size_pair,
)
from residual_lens.hooked.backbones.refusals import refuse_head
from residual_lens.hooked.parts.attention import AttentionParts
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.hooked.parts.rotary import Rotary, Rotation
from residual_lens.hooked.parts.vit import BlockParts, ViTParts
from residual_lens.hooked.pooling import TokenPooling


@dataclass(frozen=True)
class UnplacedEmbedding(ConvEmbedding):
    """Tokens without added positions."""

    any_size = True

    def positions(self, rows: int, columns: int) -> Float[Tensor, "pos d_model"]:
        prefix = sum(token().shape[1] for token in self.prefix)
        return self.conv.weight.new_zeros(prefix + rows * columns, self.conv.out_channels)


@dataclass(frozen=True)
class DinoRotary(Rotary):
    """One rotation for all layers, from the model's own module."""

    model: Any
    n_prefix: int

    def rotations(self, images: Float[Tensor, "batch 3 height width"], rows: int, columns: int) -> Sequence[Rotation]:
        cos, sin = self.model.rope_embeddings(images)
        rotation = Rotation(sin[:, None], cos[:, None], self.n_prefix, halves=True)
        return [rotation] * len(self.model.model.layer)


def adapt(model: Any, model_name: str, head: bool) -> ViTParts:
    """The parts of `DINOv3ViTModel`, whose embedding is the normalised class token."""
    refuse_head(head, model_name)
    embeddings, config = model.embeddings, model.config
    n_prefix = 1 + embeddings.register_tokens.shape[1]
    return ViTParts(
        model_name=model_name,
        tower=model,
        image_size=size_pair(config.image_size),
        patch_size=size_pair(config.patch_size),
        n_prefix=n_prefix,
        embedding=UnplacedEmbedding(
            embeddings=embeddings,
            conv=embeddings.patch_embeddings,
            prefix=(Ref(embeddings, "cls_token"), Ref(embeddings, "register_tokens")),
            table=Ref(embeddings, "cls_token"),
        ),
        rotary=DinoRotary(model, n_prefix),
        blocks=[_block(layer, model_name) for layer in model.model.layer],
        ln_final=NormParts.of(model.norm, model_name),
        pooling=TokenPooling(0),
    )


def _block(layer: Any, model_name: str) -> BlockParts:
    attention = layer.attention
    return BlockParts(
        ln1=NormParts.of(layer.norm1, model_name),
        attention=AttentionParts(
            module=attention,
            inputs=separate_projections(attention, attention.num_heads, model_name),
            out=plain_linear(attention.o_proj, "attention's output projection", model_name),
            n_heads=attention.num_heads,
            dropout=Ref(attention, "dropout"),
            gain=Ref(layer.layer_scale1, "lambda1"),
            drops=(layer.drop_path,),
        ),
        ln2=NormParts.of(layer.norm2, model_name),
        mlp=projected_mlp(layer.mlp, model_name, Ref(layer.layer_scale2, "lambda1"), (layer.drop_path,)),
    )
