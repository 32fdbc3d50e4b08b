"""ViT: `ViTModel` and `ViTForImageClassification`."""

from typing import Any

from residual_lens.hooked.backbones.huggingface.layers import ConvEmbedding, plain_mlp, separate_projections, size_pair
from residual_lens.hooked.backbones.refusals import refuse_head
from residual_lens.hooked.parts.attention import AttentionParts
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.hooked.parts.vit import BlockParts, Projection, ViTParts
from residual_lens.hooked.pooling import TokenPooling


def adapt(model: Any, model_name: str, head: bool) -> ViTParts:
    """The parts of a ViT, whose embedding is the normalised class token, which a classifier is given.

    The `pooler` that `ViTModel` may carry puts a tanh behind it, is linear in nothing, and is left out.
    """
    tower = getattr(model, "vit", model)
    classifier = getattr(model, "classifier", None)
    refuse_head(head and classifier is None, model_name)
    embeddings = tower.embeddings
    return ViTParts(
        model_name=model_name,
        tower=model if head else tower,
        image_size=size_pair(embeddings.patch_embeddings.image_size),
        patch_size=size_pair(embeddings.patch_embeddings.patch_size),
        n_prefix=1,
        embedding=ConvEmbedding(
            embeddings=embeddings,
            conv=embeddings.patch_embeddings.projection,
            prefix=(Ref(embeddings, "cls_token"),),
            table=Ref(embeddings, "position_embeddings"),
            drops=(embeddings.dropout,),
        ),
        blocks=[_block(layer, model_name) for layer in tower.layers],
        ln_final=NormParts.of(tower.layernorm, model_name),
        pooling=TokenPooling(0),
        projection=Projection.of(plain_linear(classifier, "the classifier", model_name)) if head else None,
    )


def _block(layer: Any, model_name: str) -> BlockParts:
    attention = layer.attention
    return BlockParts(
        ln1=NormParts.of(layer.layernorm_before, model_name),
        attention=AttentionParts(
            module=attention,
            inputs=separate_projections(attention, attention.num_attention_heads, model_name),
            out=plain_linear(attention.o_proj, "attention's output projection", model_name),
            n_heads=attention.num_attention_heads,
            dropout=Ref(attention, "attention_dropout"),
            drops=(layer.dropout,),
        ),
        ln2=NormParts.of(layer.layernorm_after, model_name),
        mlp=plain_mlp(layer.mlp, model_name, drops=(layer.dropout,)),
    )
