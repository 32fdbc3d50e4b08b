"""DINOv2, with or without registers: LayerScale, SwiGLU in the largest, positions resized to any grid."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from residual_lens.hooked.backbones.huggingface.layers import (
    ConvEmbedding,
    plain_mlp,
    projected_mlp,
    separate_projections,
    size_pair,
)
from residual_lens.hooked.backbones.refusals import refuse_head
from residual_lens.hooked.parts.attention import AttentionParts
from residual_lens.hooked.parts.embedding import with_gap
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.hooked.parts.vit import BlockParts, ViTParts
from residual_lens.hooked.pooling import TokenPooling


@dataclass(frozen=True)
class ResizedEmbedding(ConvEmbedding):
    """Positions of class token and patches, resized to the grid; registers have none."""

    any_size = True

    def positions(self, rows: int, columns: int) -> Float[Tensor, "pos d_model"]:
        height, width = size_pair(self.embeddings.patch_size)
        # The source's own function reads nothing but the shape of the tokens.
        tokens = self.table().new_empty(1, 1 + rows * columns, self.table().shape[-1])
        table = self.embeddings.interpolate_pos_encoding(tokens, rows * height, columns * width)[0]
        registers = [token() for token in self.prefix[1:]]
        return with_gap(table, 1, registers[0].shape[1] if registers else 0)


def adapt(model: Any, model_name: str, head: bool) -> ViTParts:
    """The parts of `Dinov2Model` or `Dinov2WithRegistersModel`, whose embedding is the normalised class token."""
    refuse_head(head, model_name)
    embeddings = model.embeddings
    has_registers = hasattr(embeddings, "register_tokens")
    prefix = ("cls_token", "register_tokens") if has_registers else ("cls_token",)
    return ViTParts(
        model_name=model_name,
        tower=model,
        image_size=size_pair(embeddings.patch_embeddings.image_size),
        patch_size=size_pair(embeddings.patch_embeddings.patch_size),
        n_prefix=1 + (embeddings.register_tokens.shape[1] if has_registers else 0),
        embedding=ResizedEmbedding(
            embeddings=embeddings,
            conv=embeddings.patch_embeddings.projection,
            prefix=tuple(Ref(embeddings, name) for name in prefix),
            table=Ref(embeddings, "position_embeddings"),
            drops=(embeddings.dropout,),
        ),
        blocks=[_block(layer, model_name) for layer in model.encoder.layer],
        ln_final=NormParts.of(model.layernorm, model_name),
        pooling=TokenPooling(0),
    )


def _block(layer: Any, model_name: str) -> BlockParts:
    attention = layer.attention
    mlp = plain_mlp if hasattr(layer.mlp, "fc1") else projected_mlp
    return BlockParts(
        ln1=NormParts.of(layer.norm1, model_name),
        attention=AttentionParts(
            module=attention,
            inputs=separate_projections(attention, attention.num_attention_heads, model_name),
            out=plain_linear(attention.o_proj, "attention's output projection", model_name),
            n_heads=attention.num_attention_heads,
            dropout=Ref(attention, "attention_dropout"),
            gain=Ref(layer.layer_scale1, "lambda1"),
            drops=(layer.drop_path,),
        ),
        ln2=NormParts.of(layer.norm2, model_name),
        mlp=mlp(layer.mlp, model_name, Ref(layer.layer_scale2, "lambda1"), (layer.drop_path,)),
    )
