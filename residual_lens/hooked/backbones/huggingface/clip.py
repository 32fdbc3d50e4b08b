"""CLIP: the whole model, or its image tower with or without the projection."""

from typing import Any

from residual_lens.hooked.backbones.huggingface.layers import (
    ConvEmbedding,
    FeatureText,
    encoder_block,
    separate_projections,
    size_pair,
)
from residual_lens.hooked.backbones.refusals import refuse_head
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.hooked.parts.vit import BlockParts, Projection, ViTParts
from residual_lens.hooked.pooling import TokenPooling


def adapt(model: Any, model_name: str, head: bool) -> ViTParts:
    """The parts of `CLIPModel`, `CLIPVisionModelWithProjection` or `CLIPVisionModel`."""
    refuse_head(head, model_name)
    tower = getattr(model, "vision_model", model)
    embeddings = tower.embeddings
    projection = getattr(model, "visual_projection", None)
    return ViTParts(
        model_name=model_name,
        tower=tower,
        image_size=size_pair(embeddings.image_size),
        patch_size=size_pair(embeddings.patch_size),
        n_prefix=1,
        embedding=ConvEmbedding(
            embeddings=embeddings,
            conv=embeddings.patch_embedding,
            prefix=(Ref(embeddings, "class_embedding"),),
            table=Ref(embeddings.position_embedding, "weight"),
        ),
        ln_pre=NormParts.of(tower.pre_layrnorm, model_name),
        blocks=[_block(layer, model_name) for layer in tower.encoder.layers],
        ln_final=NormParts.of(tower.post_layernorm, model_name),
        pooling=TokenPooling(0),
        projection=projection and Projection.of(plain_linear(projection, "the projection", model_name)),
        text=FeatureText(model) if hasattr(model, "get_text_features") else None,
    )


def _block(layer: Any, model_name: str) -> BlockParts:
    attention = layer.self_attn
    inputs = separate_projections(attention, attention.num_heads, model_name)
    dropout = Ref(attention, "dropout")
    return encoder_block(layer, inputs, attention.out_proj, attention.num_heads, dropout, model_name)
