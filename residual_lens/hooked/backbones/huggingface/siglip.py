"""SigLIP and SigLIP 2 (of fixed size, or NaFlex on whole grids): attention pooling with an MLP of its own."""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.attention_pooling import AttentionPooling, TorchPoolAttention
from residual_lens.hooked.backbones.huggingface.layers import (
    ConvEmbedding,
    FeatureText,
    encoder_block,
    plain_mlp,
    separate_projections,
    size_pair,
)
from residual_lens.hooked.backbones.refusals import refuse_head
from residual_lens.hooked.parts.embedding import EmbeddingParts
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref
from residual_lens.hooked.parts.vit import ViTParts


@dataclass(frozen=True)
class GridEmbedding(EmbeddingParts):
    """SigLIP 2's NaFlex embedding of one grid for all images: flattened patches, positions resized to the grid."""

    embeddings: Any
    any_size = True

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.patch_embedding.weight.dtype

    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch pos d_model"]:
        size = self.embeddings.patch_size
        patches = rearrange(images, "batch c (row p) (column q) -> batch (row column) (p q c)", p=size, q=size)
        return self.embeddings.patch_embedding(patches)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "pos d_model"]:
        side = self.embeddings.position_embedding_size
        table = self.embeddings.position_embedding.weight.reshape(side, side, -1)
        grid = torch.tensor([[rows, columns]])
        return self.embeddings.resize_positional_embeddings(table, grid, max_length=rows * columns)[0]


def adapt(model: Any, model_name: str, head: bool) -> ViTParts:
    """The parts of `SiglipModel`, `Siglip2Model` or their vision models."""
    refuse_head(head, model_name)
    tower = getattr(model, "vision_model", model)
    if not tower.use_head:
        raise UnsupportedModelError(f"{model_name}: without its pooling head (vision_use_head) it has no embedding.")
    embeddings, pool = tower.embeddings, tower.head
    patch = size_pair(embeddings.patch_size)
    if hasattr(embeddings, "position_embedding_size"):
        embedding: EmbeddingParts = GridEmbedding(embeddings)
        side = embeddings.position_embedding_size
        image_size = (side * patch[0], side * patch[1])
    else:
        table = Ref(embeddings.position_embedding, "weight")
        embedding = ConvEmbedding(embeddings, embeddings.patch_embedding, prefix=(), table=table)
        image_size = size_pair(embeddings.image_size)
    blocks = []
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        inputs = separate_projections(attention, attention.num_heads, model_name)
        dropout = Ref(attention, "dropout")
        blocks.append(encoder_block(layer, inputs, attention.out_proj, attention.num_heads, dropout, model_name))
    return ViTParts(
        model_name=model_name,
        tower=tower,
        image_size=image_size,
        patch_size=patch,
        n_prefix=0,
        embedding=embedding,
        blocks=blocks,
        ln_final=NormParts.of(tower.post_layernorm, model_name),
        pooling=AttentionPooling(
            TorchPoolAttention(pool.attention, pool, "probe", need_weights=True),
            mlp_norm=NormParts.of(pool.layernorm, model_name),
            mlp=plain_mlp(pool.mlp, model_name),
        ),
        text=FeatureText(model) if hasattr(model, "get_text_features") else None,
    )
